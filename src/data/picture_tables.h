#pragma once
// The TSV files of OFA's data: no header, and the picture itself as base64 in one of the columns.

#include <filesystem>
#include <string_view>

#include "data/rows.h"

namespace mmtune::data {

/// Whether the first line of a TSV is such a row: one of its cells is a picture in base64 (JPEG, PNG, WebP).
bool is_picture_table(std::string_view first_line);

/// A row each, told apart by the number of columns and the picture's place:
/// - grounding (RefCOCO, RefCOCO+, RefCOCOg): id, image_id, text, region ("x0,y0,x1,y1"), picture;
/// - captions (COCO): id, image_id, text, objects, picture; several captions of one picture, parted by &&, are `answers`, the first is
/// `text`;
/// - visual questions (VQA v2): id, image_id, text, answers with confidences ("0.6|!+no&&1|!+yes"), objects, picture: `answer` is the most
///   confident one, `confidences` has all by their text;
/// - visual entailment (SNLI-VE): id, image_id, picture, text (the hypothesis), caption, label;
/// - pictures and names: id, picture, label.
/// `objects` are parted by spaces then. The picture is not kept: the row has its place in the file. Throws Error with file and line on
/// another number of columns, a region that is not four numbers, or a confidence that is none.
void read_picture_table(const std::filesystem::path& path, const RowSink& sink);

}  // namespace mmtune::data
