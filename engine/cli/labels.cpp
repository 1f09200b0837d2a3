#include "labels.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "manyhop/graphs/base/error.hpp"
#include "manyhop/graphs/io/text.hpp"

namespace manyhop::cli {
namespace {

constexpr int kMostClasses = 1'000'000;

// Lines without their ends; a last line without a newline counts, an empty rest does not.
template <class F>
Offset for_each_line(std::string_view text, F&& f) {
  Offset number = 0;
  while (!text.empty()) {
    const auto end = std::min(text.find('\n'), text.size());
    std::string_view line = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    while (!line.empty() && (line.back() == '\r' || line.back() == ' ' || line.back() == '\t'))
      line.remove_suffix(1);
    f(++number, line);
  }
  return number;
}

char column_of(const std::string& path, Offset number, std::string_view line, std::int64_t split) {
  std::string marks;
  for (const char c : line) {
    if (c == ' ' || c == '\t' || c == ',') continue;
    if (c != 't' && c != 'v' && c != 's' && c != '-')
      throw FileError(
          fmt::format("{}, line {}: {} found where t (train), v (validation), s (test) or - is wanted", path,
                      number, shown({&c, 1})));
    marks += c;
  }
  if (static_cast<std::int64_t>(marks.size()) <= split)
    throw FileError(fmt::format("{}, line {}: has {} splits, --split {} wants at least {}", path, number,
                                marks.size(), split, split + 1));
  return marks[static_cast<std::size_t>(split)];
}

}  // namespace

Labels load_labels(const std::string& labels_path, const std::string& masks_path, std::int64_t split) {
  Labels labels;
  for_each_line(read_file(labels_path), [&](Offset number, std::string_view line) {
    int value = 0;
    const auto [end, error] = std::from_chars(line.data(), line.data() + line.size(), value);
    if (error != std::errc() || end != line.data() + line.size() || value < -1 || value >= kMostClasses)
      throw FileError(fmt::format("{}, line {}: {} found where a class from -1 to {} is wanted", labels_path,
                                  number, shown(line), kMostClasses - 1));
    labels.label.push_back(value);
    labels.classes = std::max(labels.classes, value + 1);
  });
  for_each_line(read_file(masks_path), [&](Offset number, std::string_view line) {
    labels.mask += column_of(masks_path, number, line, split);
  });
  if (labels.label.size() != labels.mask.size())
    throw ValueError(fmt::format("{} has {} lines and {} has {}: one line a vertex is wanted in both",
                                 labels_path, labels.label.size(), masks_path, labels.mask.size()));
  return labels;
}

Tensor training_signal(const Labels& labels) {
  const auto n = static_cast<Offset>(labels.label.size());
  Tensor x = Tensor::zeros(DType::f64, {n, labels.classes});
  double* value = x.as<double>();
  for (std::size_t i = 0; i < labels.label.size(); ++i)
    if (labels.mask[i] == 't' && labels.label[i] >= 0)
      value[i * static_cast<std::size_t>(labels.classes) + static_cast<std::size_t>(labels.label[i])] = 1;
  return x;
}

Accuracy score(const Labels& labels, const Tensor& z) {
  Accuracy accuracy;
  const double* value = z.as<double>();
  const auto classes = static_cast<std::size_t>(labels.classes);
  for (std::size_t i = 0; i < labels.label.size(); ++i) {
    if (labels.label[i] < 0 || labels.mask[i] == '-') continue;
    const double* row = value + i * classes;
    const auto guess = static_cast<int>(std::max_element(row, row + classes) - row);
    Score& part = labels.mask[i] == 't'   ? accuracy.train
                  : labels.mask[i] == 'v' ? accuracy.validation
                                          : accuracy.test;
    ++part.total;
    if (guess == labels.label[i]) ++part.correct;
  }
  return accuracy;
}

}  // namespace manyhop::cli
