#pragma once

#include <fmt/format.h>

#include <array>
#include <cstddef>
#include <string>
#include <type_traits>
#include <vector>

#include "manyhop/engine/attention.hpp"
#include "manyhop/graphs/base/error.hpp"
#include "manyhop/ops/tensor_checks_internal.hpp"

/// The tensors of a call as its heads see them: checked shapes, values by edge and by row, f32 beside f64.
/// For attention_call_internal.hpp, those that include it, and sparsek/.
namespace manyhop::attention_call {

inline std::size_t at(Offset i) { return static_cast<std::size_t>(i); }

using ops::shape_text;

/// A view of rank 3 is a batch of one.
template <class T>
TensorView<T> as_batch(TensorView<T> view) {
  if (view.rank != 3) return view;
  TensorView<T> batched = view;
  batched.rank = 4;
  batched.extent = {1, view.extent[0], view.extent[1], view.extent[2]};
  batched.stride = {0, view.stride[0], view.stride[1], view.stride[2]};
  return batched;
}

template <class T>
void require_shape(const char* name, TensorView<T> view, std::array<Offset, 4> want) {
  if (view.rank == 4 && view.extent == want) return;
  throw ValueError(fmt::format("{}: shape {} where [{}, {}, {}, {}] (batch, heads, tokens, width) is wanted",
                               name, shape_text(view), want[0], want[1], want[2], want[3]));
}

template <class T>
void require_data(const char* name, TensorView<T> view) {
  if (view.lacks_data()) throw ValueError(fmt::format("{}: shape {} without data", name, shape_text(view)));
}

template <class T>
TensorView<T> matrix(TensorView<T> view, Offset batch, Offset head) {
  if (view.empty()) return {};
  return TensorView<T>(view.data + batch * view.stride[0] + head * view.stride[1],
                       {view.extent[2], view.extent[3]}, {view.stride[2], view.stride[3]});
}

/// Edge values [m], [h, m] or [b, h, m]; with one graph for each head [sum of m].
template <class T>
class EdgeValues {
 public:
  EdgeValues(const char* name, TensorView<T> view, const Plan& plan)
      : view_(view), per_head_(plan.per_head()) {
    if (view.empty()) return;
    const PlanOptions& o = plan.options();
    Offset total = 0;
    for (int h = 0; h < (per_head_ ? o.heads : 1); ++h) {
      first_.push_back(total);
      total += plan.graph(h).nnz();
      equal_ = equal_ && plan.graph(h).nnz() == plan.graph(0).nnz();
    }
    const Offset m = plan.graph(0).nnz();
    const bool fits = (view.rank == 1 && view.extent[0] == total) ||
                      (view.rank == 2 && equal_ && view.extent[0] == o.heads && view.extent[1] == m) ||
                      (view.rank == 3 && equal_ && view.extent[0] == o.batch && view.extent[1] == o.heads &&
                       view.extent[2] == m);
    if (!fits) {
      throw ValueError(
          fmt::format("{}: shape {} where [{}], [{}, {}] or [{}, {}, {}] (batch, heads, edges) is wanted",
                      name, shape_text(view), total, o.heads, m, o.batch, o.heads, m));
    }
    if (total > 1 && view.stride[at(view.rank - 1)] != 1) {
      throw ValueError(fmt::format("{}: edges {} elements apart, neighbouring ones are wanted", name,
                                   view.stride[at(view.rank - 1)]));
    }
  }
  T* of(Offset batch, Offset head) const {
    if (view_.empty()) return nullptr;
    if (view_.rank == 1) return view_.data + (per_head_ ? first_[at(head)] : 0);
    return view_.rank == 2 ? view_.data + head * view_.stride[0]
                           : view_.data + batch * view_.stride[0] + head * view_.stride[1];
  }
  /// Whether two (batch, head) may name the same values.
  bool shared(const PlanOptions& o) const {
    if (view_.empty() || view_.rank == 3) return false;
    return o.batch > 1 || (view_.rank == 1 && !per_head_ && o.heads > 1);
  }

 private:
  TensorView<T> view_;
  bool per_head_;
  bool equal_ = true;
  std::vector<Offset> first_;
};

/// f(offset in `view`, number in row-major order) of every element.
template <class T, class F>
void for_each_element(TensorView<T> view, F&& f) {
  const auto axis = [&](int i) { return i < view.rank ? view.extent[at(i)] : 1; };
  const auto step = [&](int i) { return i < view.rank ? view.stride[at(i)] : 0; };
  Offset count = 0;
  for (Offset a = 0; a < axis(0); ++a) {
    for (Offset b = 0; b < axis(1); ++b) {
      for (Offset c = 0; c < axis(2); ++c) f(a * step(0) + b * step(1) + c * step(2), count++);
    }
  }
}

template <class From, class To>
TensorView<To> contiguous_like(TensorView<From> view, To* data) {
  TensorView<To> same(data, {view.extent[0], view.extent[1], view.extent[2], view.extent[3]});
  same.rank = view.rank;
  Offset step = 1;
  for (int a = view.rank - 1; a >= 0; --a) {
    same.extent[at(a)] = view.extent[at(a)];
    same.stride[at(a)] = step;
    step *= view.extent[at(a)];
  }
  return same;
}

inline void refuse_f64(const char* name) {
  throw ValueError(fmt::format("{}: f64 values beside tensors that are not, f32 is wanted", name));
}

/// f32 beside f64 tensors is copied where the host can read it.
inline void require_host(const char* name, bool on_host) {
  if (on_host) return;
  throw ValueError(fmt::format("{}: f32 values beside f64 tensors on a device, f64 is wanted", name));
}

/// Values that a call reads, in its arithmetic type C; f32 beside f64 tensors is copied.
template <class C>
class ReadValues {
 public:
  ReadValues(const char* name, const RealInput& given, [[maybe_unused]] bool on_host = true) {
    if constexpr (std::is_same_v<C, float>) {
      if (!given.f64.empty()) refuse_f64(name);
      view = given.f32;
    } else {
      view = given.f64;
      if (given.f32.empty()) return;
      require_host(name, on_host);
      copy_.resize(at(given.f32.size()) + 1);
      view = contiguous_like<const float, const C>(given.f32, copy_.data());
      for_each_element(given.f32, [&](Offset from, Offset to) { copy_[at(to)] = given.f32.data[from]; });
    }
  }
  ReadValues(const ReadValues&) = delete;
  ReadValues& operator=(const ReadValues&) = delete;
  TensorView<const C> view;

 private:
  std::vector<C> copy_;
};

/// Values that a call writes; finish() after the work.
template <class C>
class WrittenValues {
 public:
  WrittenValues(const char* name, const RealOutput& given, [[maybe_unused]] bool on_host = true) {
    if constexpr (std::is_same_v<C, float>) {
      if (!given.f64.empty()) refuse_f64(name);
      view = given.f32;
    } else {
      view = given.f64;
      if (given.f32.empty()) return;
      require_host(name, on_host);
      narrow_ = given.f32;
      copy_.resize(at(given.f32.size()) + 1);
      view = contiguous_like<float, C>(given.f32, copy_.data());
    }
  }
  WrittenValues(const WrittenValues&) = delete;
  WrittenValues& operator=(const WrittenValues&) = delete;
  void finish() const {
    if (narrow_.empty()) return;
    for_each_element(narrow_,
                     [&](Offset to, Offset from) { narrow_.data[to] = static_cast<float>(copy_[at(from)]); });
  }
  TensorView<C> view;

 private:
  TensorView<float> narrow_;
  std::vector<C> copy_;
};

template <class T>
void zero_rows(TensorView<T> view, Offset from) {
  if (view.empty()) return;
  for (Offset i = from; i < view.extent[0]; ++i) {
    for (Offset c = 0; c < view.extent[1]; ++c) view(i, c) = T{};
  }
}

/// [b, h, n] (or [h, n] for a batch of one) as one row of it.
template <class T>
class RowValues {
 public:
  RowValues(const char* name, TensorView<T> view, const Plan& plan) : view_(view) {
    if (view.empty()) return;
    const PlanOptions& o = plan.options();
    const Offset n = plan.graph().n_rows();
    if (view.rank == 2 && o.batch == 1) {
      view_.rank = 3;
      view_.extent = {1, view.extent[0], view.extent[1], 1};
      view_.stride = {0, view.stride[0], view.stride[1], 0};
    }
    if (view_.rank != 3 || view_.extent[0] != o.batch || view_.extent[1] != o.heads || view_.extent[2] != n) {
      throw ValueError(fmt::format("{}: shape {} where [{}, {}, {}] (batch, heads, tokens) is wanted", name,
                                   shape_text(view), o.batch, o.heads, n));
    }
  }
  TensorView<T> of(Offset batch, Offset head) const {
    if (view_.empty()) return {};
    return TensorView<T>(view_.data + batch * view_.stride[0] + head * view_.stride[1], {view_.extent[2]},
                         {view_.stride[2]});
  }

 private:
  TensorView<T> view_;
};

}  // namespace manyhop::attention_call
