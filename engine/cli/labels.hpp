// Label propagation's files: a class for each vertex, and which vertices train, validate and test.
#pragma once

#include <string>
#include <vector>

#include "manyhop/graphs/base/tensor.hpp"
#include "options.hpp"

namespace manyhop::cli {

struct Labels {
  std::vector<int> label;  // -1: none
  std::string mask;        // of each vertex: t train, v validation, s test, - unused
  int classes = 0;
};

/// labels: one integer a line, -1 for none. masks: one line a vertex, one character or blank-separated column
/// for each split; `split` picks the column.   Throws FileError naming the line.
Labels load_labels(const std::string& labels, const std::string& masks, std::int64_t split);

/// One-hot rows of the training vertices, zero rows elsewhere: f64 [n, classes].
Tensor training_signal(const Labels& labels);

struct Score {
  Offset correct = 0;
  Offset total = 0;
  Json share() const {
    return total == 0 ? Json(nullptr) : Json(static_cast<double>(correct) / static_cast<double>(total));
  }
};

struct Accuracy {
  Score train, validation, test;
};

/// The class of a row is its largest entry, the lowest class on ties. Vertices without a label do not count.
Accuracy score(const Labels& labels, const Tensor& z);

}  // namespace manyhop::cli
