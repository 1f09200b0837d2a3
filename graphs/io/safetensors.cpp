// safetensors: 8 bytes of header length, a JSON header {name: {dtype, shape, data_offsets}}, then the tensors
// one after the other without a gap.
#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>
#include <set>
#include <vector>

#include "manyhop/graphs/base/error.hpp"
#include "manyhop/graphs/io/formats.hpp"
#include "manyhop/graphs/io/text.hpp"

namespace manyhop {

namespace {

using nlohmann::json;

constexpr std::uint64_t kMaxHeader = 100'000'000;  // the limit of the format's own library
constexpr Offset kMaxExtent = Offset{1} << 47;

struct Known {
  std::string_view name;
  std::size_t width;
  bool read;
  DType dtype;
};
constexpr Known kTypes[] = {
    {"F64", 8, true, DType::f64},   {"F32", 4, true, DType::f32},      {"F16", 2, true, DType::f16},
    {"BF16", 2, true, DType::bf16}, {"I64", 8, false, DType::f64},     {"U64", 8, false, DType::f64},
    {"I32", 4, false, DType::f64},  {"U32", 4, false, DType::f64},     {"I16", 2, false, DType::f64},
    {"U16", 2, false, DType::f64},  {"I8", 1, false, DType::f64},      {"U8", 1, false, DType::f64},
    {"BOOL", 1, false, DType::f64}, {"F8_E4M3", 1, false, DType::f64}, {"F8_E5M2", 1, false, DType::f64},
    {"C64", 8, false, DType::f64}};

struct Entry {
  std::string name;
  const Known* type = nullptr;
  std::string type_name;
  std::vector<Offset> shape;
  std::uint64_t begin = 0;
  std::uint64_t end = 0;
};

struct Place {
  const std::string& name;
  [[noreturn]] void fail(std::uint64_t byte, const std::string& message) const {
    throw FileError(fmt::format("{}: byte {}: {}", name, byte, message));
  }
};

// Duplicate keys and deep nesting, which the library would let pass, are refused while it parses.
json parse_header(std::string_view text, const Place& place) {
  std::vector<std::set<std::string, std::less<>>> keys;
  const auto watch = [&](int depth, json::parse_event_t event, json& value) {
    if (depth > 8) place.fail(8, "the header nests deeper than 8 levels");
    if (event == json::parse_event_t::object_start) keys.emplace_back();
    if (event == json::parse_event_t::object_end) keys.pop_back();
    if (event == json::parse_event_t::key && !keys.back().insert(value.get<std::string>()).second) {
      place.fail(8, fmt::format("name {} comes twice", shown(value.get<std::string>())));
    }
    return true;
  };
  try {
    return json::parse(text, watch);
  } catch (const json::parse_error& error) {
    place.fail(8 + error.byte, "the header is not JSON here");
  } catch (const json::exception&) {
    place.fail(8, "the header is not JSON");
  }
}

std::uint64_t whole(const json& value, const Place& place, const std::string& name, const char* what) {
  if (!value.is_number_integer() || value < 0) {
    place.fail(8, fmt::format("tensor {}: {} must be whole numbers from 0 on", shown(name), what));
  }
  return value.get<std::uint64_t>();
}

Entry read_entry(const std::string& name, const json& value, std::uint64_t room, const Place& place) {
  Entry entry;
  entry.name = name;
  const auto want = [&](const char* key, bool (json::*is)() const noexcept) -> const json& {
    const auto found = value.is_object() ? value.find(key) : value.end();
    if (!value.is_object() || found == value.end() || !((*found).*is)()) {
      place.fail(8, fmt::format("tensor {}: {} is missing or of the wrong kind", shown(name), key));
    }
    return *found;
  };
  entry.type_name = want("dtype", &json::is_string).get<std::string>();
  entry.type = std::ranges::find(kTypes, std::string_view(entry.type_name), &Known::name);
  if (entry.type == std::end(kTypes)) entry.type = nullptr;
  for (const json& extent : want("shape", &json::is_array)) {
    const std::uint64_t size = whole(extent, place, name, "extents");
    if (size > static_cast<std::uint64_t>(kMaxExtent)) {
      place.fail(8, fmt::format("tensor {}: extent {} is outside 0 .. 2^47", shown(name), size));
    }
    entry.shape.push_back(static_cast<Offset>(size));
  }
  if (entry.shape.size() > 32)
    place.fail(8, fmt::format("tensor {}: {} axes, at most 32", shown(name), entry.shape.size()));
  const json& offsets = want("data_offsets", &json::is_array);
  if (offsets.size() != 2)
    place.fail(8, fmt::format("tensor {}: {} data_offsets, 2 wanted", shown(name), offsets.size()));
  entry.begin = whole(offsets[0], place, name, "data_offsets");
  entry.end = whole(offsets[1], place, name, "data_offsets");
  if (entry.begin > entry.end || entry.end > room) {
    place.fail(8, fmt::format("tensor {}: data_offsets {} .. {} do not lie within the {} bytes of data",
                              shown(name), entry.begin, entry.end, room));
  }
  if (entry.type == nullptr) return entry;
  Offset total = static_cast<Offset>(entry.type->width);
  bool overflow = false;
  for (const Offset extent : entry.shape)
    overflow = __builtin_mul_overflow(total, extent, &total) || overflow;
  if (std::ranges::find(entry.shape, 0) != entry.shape.end()) {
    total = 0;
    overflow = false;
  }
  if (overflow || static_cast<std::uint64_t>(total) != entry.end - entry.begin) {
    place.fail(8, fmt::format("tensor {}: shape and {} want {} bytes but data_offsets hold {}", shown(name),
                              entry.type_name, overflow ? "over 2^63" : std::to_string(total),
                              entry.end - entry.begin));
  }
  return entry;
}

}  // namespace

NamedTensors parse_safetensors(std::string_view bytes, const std::string& name,
                               std::span<const std::string> names) {
  const Place place{name};
  if (bytes.empty()) place.fail(0, "the file is empty");
  if (bytes.size() < 8) place.fail(0, fmt::format("{} bytes, at least 8 are wanted", bytes.size()));
  std::uint64_t length = 0;
  std::memcpy(&length, bytes.data(), 8);
  if (length > kMaxHeader || length > bytes.size() - 8) {
    place.fail(0, fmt::format("a header of {} bytes is promised but {} follow (at most {} are read)", length,
                              bytes.size() - 8, kMaxHeader));
  }
  const std::string_view text = bytes.substr(8, length);
  if (text.empty() || text[0] != '{') place.fail(8, "the header must begin with '{'");
  const std::string_view data = bytes.substr(8 + length);
  const json header = parse_header(text, place);

  NamedTensors result;
  std::vector<Entry> entries;
  for (const auto& [key, value] : header.items()) {
    if (key == "__metadata__") {
      if (!value.is_object()) place.fail(8, "__metadata__ must map texts to texts");
      for (const auto& [word, meaning] : value.items()) {
        if (!meaning.is_string()) place.fail(8, fmt::format("__metadata__ {} is not a text", shown(word)));
        result.metadata.emplace(word, meaning.get<std::string>());
      }
      continue;
    }
    entries.push_back(read_entry(key, value, data.size(), place));
  }
  std::ranges::sort(entries, {}, [](const Entry& entry) { return std::pair(entry.begin, entry.end); });
  std::uint64_t last = 0;
  for (const Entry& entry : entries) {
    if (entry.begin != last) {
      place.fail(
          8 + length + std::min(last, entry.begin),
          fmt::format("tensor {} begins at {} of the data, {} wanted: tensors may not {}", shown(entry.name),
                      entry.begin, last, entry.begin < last ? "overlap" : "leave gaps"));
    }
    last = entry.end;
  }
  if (last != data.size()) {
    place.fail(8 + length + last, fmt::format("{} bytes follow the last tensor", data.size() - last));
  }
  for (const Entry& entry : entries) {
    if (!names.empty() && std::ranges::find(names, entry.name) == names.end()) continue;
    if (entry.type == nullptr || !entry.type->read) {
      place.fail(8 + length + entry.begin, fmt::format("tensor {} has type {}, F64, F32, F16 or BF16 wanted",
                                                       shown(entry.name), shown(entry.type_name)));
    }
    Tensor tensor = Tensor::zeros(entry.type->dtype, entry.shape);
    if (!tensor.bytes.empty())
      std::memcpy(tensor.bytes.data(), data.data() + entry.begin, tensor.bytes.size());
    result.tensors.emplace(entry.name, std::move(tensor));
  }
  return result;
}

void format_safetensors(const NamedTensors& tensors, const Sink& sink) {
  json header = json::object();
  if (!tensors.metadata.empty()) header["__metadata__"] = tensors.metadata;
  // Widest types first, as the format's own library lays them out, so that every tensor is aligned.
  std::vector<const std::pair<const std::string, Tensor>*> order;
  order.reserve(tensors.tensors.size());
  for (const auto& item : tensors.tensors) order.push_back(&item);
  std::ranges::stable_sort(order, std::greater<>(),
                           [](const auto* item) { return size_of(item->second.dtype); });
  std::size_t begin = 0;
  for (const auto* item : order) {
    const auto& [name, tensor] = *item;
    if (name == "__metadata__") throw ValueError("tensors: the name __metadata__ is taken by the format");
    constexpr std::string_view names[] = {"F64", "F32", "F16", "BF16"};
    header[name] = {{"dtype", names[static_cast<std::size_t>(tensor.dtype)]},
                    {"shape", tensor.shape},
                    {"data_offsets", {begin, begin + tensor.bytes.size()}}};
    begin += tensor.bytes.size();
  }
  std::string text;
  try {
    text = header.dump();
  } catch (const json::exception&) {
    throw ValueError("tensors: a name or metadata is not UTF-8");
  }
  text.append((8 - text.size() % 8) % 8, ' ');
  const std::uint64_t length = text.size();
  std::string prefix(8, '\0');
  std::memcpy(prefix.data(), &length, 8);
  sink(prefix);
  sink(text);
  for (const auto* item : order) {
    sink(std::string_view(reinterpret_cast<const char*>(item->second.bytes.data()),
                          item->second.bytes.size()));
  }
}

}  // namespace manyhop
