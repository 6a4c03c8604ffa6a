#pragma once
// Data sets whose pictures are raw pixels in large files: CIFAR-10 and CIFAR-100 in their binary layout, CIFAR-10-C's arrays.

#include <filesystem>

#include "data/rows.h"

namespace mmtune::data {

/// Whether a folder holds such files: *.bin of CIFAR, or labels.npy beside arrays of pictures.
bool holds_raw_pictures(const std::filesystem::path& folder);

/// CIFAR's binary layout (Krizhevsky 2009): records of one label (CIFAR-10) or a coarse and a fine one (CIFAR-100), then 3 × 32 × 32 bytes,
/// a channel after the other. Rows have the picture's place, label, coarse_label and split ("test" where the file's name begins so, else
/// "train"). Labels are names where batches.meta.txt or fine_label_names.txt and coarse_label_names.txt lie beside the file, else numbers.
/// Throws Error: a size that is not of whole records, a label beyond the names.
void read_cifar(const std::filesystem::path& file, const RowSink& sink);

/// CIFAR-10-C (Hendrycks and Dietterich 2019): an array [N, H, W, 3] of bytes, five severities one after another, with labels.npy beside.
/// Rows have the picture's place, label (a number), severity (1 to 5) and corruption (the file's name).
void read_corrupted_array(const std::filesystem::path& file, const RowSink& sink);

/// All files of a folder that holds_raw_pictures.
void read_raw_pictures(const std::filesystem::path& folder, const RowSink& sink);

}  // namespace mmtune::data
