#pragma once
// Files of published data sets that are no lists of rows: each becomes rows with plain fields, which data.columns then names.

#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "core/json.h"
#include "data/rows.h"

namespace mmtune::data {

/// The rows of a JSON object in a layout that is known by its keys; false where it is none of them.
/// - VQA v2 (Goyal et al. 2017): {"questions": […]} and {"annotations": […]} give their entries, joined by question_id with data.join; the
///   annotators' answers become a list of texts.
/// - Karpathy's splits of Flickr30k and COCO: {"images": [{"filename", "sentences": […]}]} give one row a sentence: text, image
///   ("filepath/filename" where there is a filepath), split, imgid, sentid.
/// - CLEVR v1.0 (Johnson et al. 2017): {"scenes": […]} give one row a scene: image ("../images/SPLIT/NAME"), split, count (of its objects),
///   image_index. Its {"questions": […]} get the same image.
bool read_layout(Json& object, const std::string& where, const std::string& name, const RowSink& sink);

/// The name of a class of ImageNette (Howard 2019) by its folder's: n01440764 → tench; nullopt for any other.
std::optional<std::string> imagenette_name(std::string_view folder);

/// NLVR2 (Suhr et al. 2019): a row with "identifier" and "sentence" gets the names of its two pictures, "left" and "right", where it has
/// none: dev-850-0-1 → dev-850-0-img0.png and dev-850-0-img1.png.
void name_pictures(Json& row);

}  // namespace mmtune::data
