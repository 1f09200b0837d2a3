#include "qkv.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <array>
#include <limits>

#include "manyhop/graphs/base/error.hpp"
#include "manyhop/graphs/io/io.hpp"

namespace manyhop::cli {
namespace {

std::string shape_text(const Tensor& tensor) { return fmt::format("[{}]", fmt::join(tensor.shape, ", ")); }

Tensor take(NamedTensors& file, const std::string& path, const std::string& name, bool values) {
  const auto found = file.tensors.find(name);
  if (found == file.tensors.end())
    throw ValueError(
        fmt::format("{}: has no tensor '{}'; wanted are {}", path, name, values ? "q, k and v" : "q and k"));
  return std::move(found->second);
}

int width(const std::string& path, const std::string& what, Offset value) {
  if (value < 1 || value > std::numeric_limits<int>::max())
    throw ValueError(
        fmt::format("{}: {} is {}, expected 1 to {}", path, what, value, std::numeric_limits<int>::max()));
  return static_cast<int>(value);
}

}  // namespace

std::vector<Offset> Qkv::out_shape() const {
  if (layout == Layout::nhd) return {n, heads, value_dim};
  return {batch, heads, n, value_dim};
}

Qkv load_qkv(const std::string& path, Layout layout, bool values) {
  Qkv in;
  in.layout = layout;
  {
    const std::array<std::string, 3> names{"q", "k", "v"};
    NamedTensors file = load_safetensors(path, std::span(names).first(values ? 3 : 2));
    in.q = take(file, path, "q", values);
    in.k = take(file, path, "k", values);
    if (values) in.v = take(file, path, "v", values);
  }
  // Without values the keys stand in their place, so that one set of checks holds for both.
  const Tensor& v = values ? in.v : in.k;
  in.type = in.q.dtype;
  if (in.k.dtype != in.type || v.dtype != in.type)
    throw ValueError(fmt::format("{}: q is {}, k is {}, v is {}: one type is wanted", path, name_of(in.type),
                                 name_of(in.k.dtype), name_of(v.dtype)));
  const bool nhd = layout == Layout::nhd;
  const std::size_t rank = nhd ? 3 : 4;
  for (const auto& [name, tensor] : {std::pair<char, const Tensor&>{'q', in.q}, {'k', in.k}, {'v', v}})
    if (tensor.shape.size() != rank)
      throw ValueError(
          fmt::format("{}: {} has shape {}, expected {} axes: {}", path, name, shape_text(tensor), rank,
                      nhd ? "[n, h, d] (or give --layout bhsd)" : "[b, h, s, d] (or give --layout nhd)"));
  const std::size_t tokens = nhd ? 0 : 2;
  const std::size_t heads = 1;
  const std::size_t channels = rank - 1;
  const auto agree = [&](std::size_t axis, const char* what, bool q_too) {
    if (in.k.shape[axis] != v.shape[axis] || (q_too && in.q.shape[axis] != in.k.shape[axis]))
      throw ValueError(fmt::format("{}: q {}, k {} and v {} do not agree in {}", path, shape_text(in.q),
                                   shape_text(in.k), shape_text(v), what));
  };
  agree(tokens, "the number of keys", false);
  agree(heads, "the number of key/value heads", false);
  if (!nhd) agree(0, "the batch", true);
  if (in.q.shape[channels] != in.k.shape[channels])
    throw ValueError(fmt::format("{}: q {} and k {} do not agree in the head width", path, shape_text(in.q),
                                 shape_text(in.k)));
  in.batch = nhd ? 1 : in.q.shape[0];
  in.n = in.q.shape[tokens];
  in.n_keys = in.k.shape[tokens];
  for (const Offset length : {in.n, in.n_keys})
    if (length > kMaxVertices)
      throw ValueError(fmt::format("{}: {} tokens are above {} (2^31 - 1)", path, length, kMaxVertices));
  in.heads = width(path, "the number of heads", in.q.shape[heads]);
  in.kv_heads = width(path, "the number of key/value heads", in.k.shape[heads]);
  in.head_dim = width(path, "the width of q and k", in.q.shape[channels]);
  in.value_dim = width(path, "the width of v", v.shape[channels]);
  if (in.heads % in.kv_heads != 0)
    throw ValueError(
        fmt::format("{}: {} key/value heads do not divide {} heads", path, in.kv_heads, in.heads));
  return in;
}

}  // namespace manyhop::cli
