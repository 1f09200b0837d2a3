#include "manyhop/graphs/io/npy.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <charconv>
#include <cstring>
#include <utility>

#include "manyhop/graphs/base/error.hpp"
#include "manyhop/graphs/base/parallel.hpp"
#include "manyhop/graphs/io/formats.hpp"
#include "manyhop/graphs/io/text.hpp"

namespace manyhop {

static_assert(std::endian::native == std::endian::little,
              "files are little-endian and so must the machine be");

namespace {

constexpr std::size_t kMaxRank = 32;            // NumPy's own limit
constexpr Offset kMaxExtent = Offset{1} << 47;  // past any address space

template <class T>
T item_at(const NpyArray& array, Offset item) {
  std::array<char, sizeof(T)> raw;
  std::memcpy(raw.data(), array.items.data() + static_cast<std::size_t>(item) * sizeof(T), sizeof(T));
  if (array.swapped) std::reverse(raw.begin(), raw.end());
  return std::bit_cast<T>(raw);
}

// The header is the text of a Python dictionary with three keys.
class HeaderText {
 public:
  HeaderText(std::string_view text, std::size_t start, NpyArray& array)
      : text_(text), start_(start), array_(array) {}

  void parse() {
    want('{');
    bool descr = false;
    bool order = false;
    bool shape = false;
    while (peek() != '}') {
      const std::size_t key_at = start_ + at_;
      const std::string_view key = quoted();
      want(':');
      bool* seen = key == "descr"           ? &descr
                   : key == "fortran_order" ? &order
                   : key == "shape"         ? &shape
                                            : nullptr;
      if (seen == nullptr)
        array_.fail(key_at, fmt::format("key {} is not one of descr, fortran_order, shape", shown(key)));
      if (std::exchange(*seen, true)) array_.fail(key_at, fmt::format("key {} comes twice", shown(key)));
      if (seen == &descr) {
        read_descr();
      } else if (seen == &order) {
        read_order();
      } else {
        read_shape();
      }
      if (peek() != ',') break;
      ++at_;
    }
    want('}');
    if (peek() != 0 || at_ < text_.size()) fail("the end of the header");
    if (!descr || !order || !shape) {
      array_.fail(start_, fmt::format("the header has no {}", !descr   ? "descr"
                                                              : !order ? "fortran_order"
                                                                       : "shape"));
    }
  }

 private:
  [[noreturn]] void fail(std::string_view wanted) const {
    array_.fail(start_ + at_, fmt::format("{} is wanted, {} found", wanted,
                                          shown(text_.substr(std::min(at_, text_.size()), 12))));
  }
  char peek() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\n' || text_[at_] == '\t')) ++at_;
    return at_ < text_.size() ? text_[at_] : '\0';
  }
  void want(char c) {
    if (peek() != c || at_ >= text_.size()) fail(std::string("'") + c + "'");
    ++at_;
  }
  std::string_view quoted() {
    const char quote = peek();
    if (quote != '\'' && quote != '"') fail("a quoted word");
    const std::size_t end = text_.find(quote, at_ + 1);
    if (end == std::string_view::npos) fail("a closed quoted word");
    const std::string_view word = text_.substr(at_ + 1, end - at_ - 1);
    at_ = end + 1;
    return word;
  }
  void read_descr() {
    if (peek() == '[')
      array_.fail(start_ + at_, "structured arrays are not read, a plain number type is wanted");
    const std::size_t byte = start_ + at_;
    const std::string_view word = quoted();
    const char order = word.empty() ? '\0' : word[0];
    unsigned width = 0;
    const bool ordered = order == '<' || order == '>' || order == '|' || order == '=';
    if (ordered && word.size() >= 3) {
      const auto [end, code] = std::from_chars(word.data() + 2, word.data() + word.size(), width);
      if (code != std::errc() || end != word.data() + word.size()) width = 0;
    }
    const char kind = width == 0 ? '\0' : word[1];
    const bool text = (kind == 'S' || kind == 'U') && width <= 64;
    const bool real = kind == 'f' && (width == 2 || width == 4 || width == 8);
    const bool whole = (kind == 'i' || kind == 'u') && (width == 1 || width == 2 || width == 4 || width == 8);
    if (!text && !real && !whole && !(kind == 'b' && width == 1)) {
      array_.fail(
          byte, fmt::format("type {} is not read, f8, f4, f2, an integer or a boolean wanted", shown(word)));
    }
    array_.kind = kind;
    array_.width = kind == 'U' ? 4 * std::size_t{width} : width;
    array_.swapped = order == '>' && array_.width > 1;
  }
  void read_order() {
    if (peek() == 'T' && text_.substr(at_, 4) == "True") {
      array_.fortran = true;
      at_ += 4;
    } else if (peek() == 'F' && text_.substr(at_, 5) == "False") {
      at_ += 5;
    } else {
      fail("True or False");
    }
  }
  void read_shape() {
    want('(');
    while (peek() != ')') {
      Offset extent = 0;
      const auto [end, code] = std::from_chars(text_.data() + at_, text_.data() + text_.size(), extent);
      if (code == std::errc::invalid_argument) fail("an extent");
      if (code != std::errc() || extent < 0 || extent > kMaxExtent) {
        array_.fail(start_ + at_,
                    fmt::format("extent {} is outside 0 .. 2^47", shown(text_.substr(at_, 21))));
      }
      at_ = static_cast<std::size_t>(end - text_.data());
      if (peek() == 'L') ++at_;  // Python 2
      if (array_.shape.size() == kMaxRank) fail("at most 32 axes");
      array_.shape.push_back(extent);
      if (peek() != ',') break;
      ++at_;
    }
    want(')');
  }

  std::string_view text_;
  std::size_t start_;
  NpyArray& array_;
  std::size_t at_ = 0;
};

// Source offsets of a Fortran-order array, visited in C order.
template <class Visit>
void for_each_in_c_order(const std::vector<Offset>& shape, Offset count, const Visit& visit) {
  std::vector<Offset> stride(shape.size(), 1);
  for (std::size_t a = 1; a < shape.size(); ++a) stride[a] = stride[a - 1] * shape[a - 1];
  std::vector<Offset> index(shape.size(), 0);
  Offset source = 0;
  for (Offset i = 0; i < count; ++i) {
    visit(i, source);
    for (std::size_t a = shape.size(); a-- > 0;) {
      source += stride[a];
      if (++index[a] < shape[a]) break;
      source -= stride[a] * shape[a];
      index[a] = 0;
    }
  }
}

template <class T>
void copy_items(const NpyArray& array, Tensor& tensor) {
  if (!array.fortran && !array.swapped) {
    if (!array.items.empty()) std::memcpy(tensor.bytes.data(), array.items.data(), array.items.size());
    return;
  }
  T* out = tensor.as<T>();
  if (!array.fortran) {
    for (Offset i = 0; i < array.count; ++i) out[i] = item_at<T>(array, i);
  } else {
    for_each_in_c_order(array.shape, array.count,
                        [&](Offset i, Offset source) { out[i] = item_at<T>(array, source); });
  }
}

}  // namespace

void NpyArray::fail(std::size_t byte, const std::string& message) const {
  throw FileError(fmt::format("{}: byte {}: {}", name, byte, message));
}

Offset NpyArray::integer(Offset item) const {
  if (kind == 'b') return item_at<std::uint8_t>(*this, item) != 0 ? 1 : 0;
  if (kind == 'i') {
    switch (width) {
      case 1:
        return item_at<std::int8_t>(*this, item);
      case 2:
        return item_at<std::int16_t>(*this, item);
      case 4:
        return item_at<std::int32_t>(*this, item);
      default:
        return item_at<std::int64_t>(*this, item);
    }
  }
  if (kind != 'u') fail(0, "integers are wanted here");
  switch (width) {
    case 1:
      return item_at<std::uint8_t>(*this, item);
    case 2:
      return item_at<std::uint16_t>(*this, item);
    case 4:
      return item_at<std::uint32_t>(*this, item);
    default: {
      const auto value = item_at<std::uint64_t>(*this, item);
      if (value > static_cast<std::uint64_t>(INT64_MAX))
        fail(byte_of(item), fmt::format("{} is past 2^63 - 1", value));
      return static_cast<Offset>(value);
    }
  }
}

double NpyArray::number(Offset item) const {
  if (kind == 'f') {
    if (width == 8) return item_at<double>(*this, item);
    if (width == 4) return static_cast<double>(item_at<float>(*this, item));
    f16 half;
    half.bits = item_at<std::uint16_t>(*this, item);
    return static_cast<double>(static_cast<float>(half));
  }
  const Offset value = integer(item);
  const auto held = static_cast<double>(value);
  if (held >= 0x1p63 || static_cast<Offset>(held) != value) {
    fail(byte_of(item), fmt::format("{} is not held exactly by a double (beyond 2^53)", value));
  }
  return held;
}

std::string NpyArray::text() const {
  std::string result;
  if (kind != 'S' && kind != 'U') fail(0, "a text is wanted here");
  const std::size_t step = kind == 'U' ? 4 : 1;
  for (std::size_t i = swapped ? step - 1 : 0; i < items.size(); i += step) {
    if (items[i] != '\0') result += items[i];
  }
  return result;
}

NpyArray parse_npy_array(std::string_view bytes, const std::string& name) {
  NpyArray array;
  array.name = name;
  if (bytes.empty()) array.fail(0, "the file is empty");
  if (bytes.substr(0, 6) != "\x93NUMPY")
    array.fail(0, "the magic \\x93NUMPY is wanted at the start of a .npy array");
  const std::size_t major = bytes.size() > 6 ? static_cast<unsigned char>(bytes[6]) : 0;
  const std::size_t minor = bytes.size() > 7 ? static_cast<unsigned char>(bytes[7]) : 0;
  if (major < 1 || major > 3) {
    array.fail(6, fmt::format("version {}.{} is not read, 1.0, 2.0 or 3.0 wanted", major, minor));
  }
  const std::size_t prefix = major == 1 ? 10 : 12;
  if (bytes.size() < prefix)
    array.fail(bytes.size(), fmt::format("the file ends inside the {} bytes before the header", prefix));
  std::size_t length = 0;
  for (std::size_t i = prefix; i-- > 8;) length = length << 8 | static_cast<unsigned char>(bytes[i]);
  if (length > bytes.size() - prefix) {
    array.fail(8,
               fmt::format("a header of {} bytes is promised but {} follow", length, bytes.size() - prefix));
  }
  array.data_at = prefix + length;
  HeaderText(bytes.substr(prefix, length), prefix, array).parse();

  Offset count = 1;
  Offset total = 0;
  bool overflow = false;
  const bool none = std::ranges::find(array.shape, 0) != array.shape.end();
  for (const Offset extent : array.shape)
    overflow = overflow || __builtin_mul_overflow(count, extent, &count);
  if (none) {
    overflow = false;
    count = 0;
  }
  overflow = overflow || __builtin_mul_overflow(count, static_cast<Offset>(array.width), &total);
  const std::size_t left = bytes.size() - array.data_at;
  if (overflow || static_cast<std::uint64_t>(total) != left) {
    array.fail(array.data_at, overflow ? fmt::format("the shape is past 2^63 bytes but {} bytes follow", left)
                                       : fmt::format("the shape wants {} bytes but {} follow", total, left));
  }
  array.count = count;
  array.items = bytes.substr(array.data_at);
  return array;
}

std::string npy_header(std::string_view descr, const std::vector<Offset>& shape) {
  std::string axes;
  for (const Offset extent : shape) axes += fmt::format("{},{}", extent, shape.size() > 1 ? " " : "");
  if (shape.size() > 1) axes.resize(axes.size() - 2);
  std::string text = fmt::format("{{'descr': '{}', 'fortran_order': False, 'shape': ({}), }}", descr, axes);
  text.append(63 - (10 + text.size()) % 64, ' ');
  text += '\n';
  std::string header = "\x93NUMPY";
  header += '\x01';
  header += '\0';
  header += static_cast<char>(text.size() & 0xFFU);
  header += static_cast<char>(text.size() >> 8);
  return header + text;
}

Tensor parse_npy(std::string_view bytes, const std::string& name) {
  const NpyArray array = parse_npy_array(bytes, name);
  if (array.kind == 'S' || array.kind == 'U')
    array.fail(0, "an array of texts is not read, numbers are wanted");
  const bool real = array.kind == 'f';
  Tensor tensor = Tensor::zeros(!real || array.width == 8 ? DType::f64
                                : array.width == 4        ? DType::f32
                                                          : DType::f16,
                                array.shape);
  if (!real) {
    auto* out = tensor.as<double>();
    if (array.fortran) {
      for_each_in_c_order(array.shape, array.count,
                          [&](Offset i, Offset source) { out[i] = array.number(source); });
    } else {
      for (Offset i = 0; i < array.count; ++i) out[i] = array.number(i);
    }
  } else if (array.width == 8) {
    copy_items<double>(array, tensor);
  } else if (array.width == 4) {
    copy_items<float>(array, tensor);
  } else {
    copy_items<std::uint16_t>(array, tensor);
  }
  return tensor;
}

void format_npy(const Tensor& tensor, const Sink& sink) {
  if (tensor.dtype == DType::bf16) return format_npy(tensor.to(DType::f32), sink);
  if (tensor.shape.size() > kMaxRank) {
    throw ValueError(fmt::format("tensor: {} axes, .npy holds at most {}", tensor.shape.size(), kMaxRank));
  }
  sink(npy_header(tensor.dtype == DType::f64   ? "<f8"
                  : tensor.dtype == DType::f32 ? "<f4"
                                               : "<f2",
                  tensor.shape));
  sink(std::string_view(reinterpret_cast<const char*>(tensor.bytes.data()), tensor.bytes.size()));
}

}  // namespace manyhop
