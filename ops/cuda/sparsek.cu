#include "manyhop/ops/cuda/sparsek.cuh"

#include <vector>

#include "manyhop/ops/cuda/runtime.cuh"

namespace manyhop::ops::cuda {

namespace {

/// Arrays by row on the device, and the tensors too where they come from the host.
class RowCall {
 public:
  explicit RowCall(const SparsekRows& call)
      : call_(call),
        stream_(stream_of(call.stream)),
        offsets_({call.offsets.begin(), call.offsets.end()}, stream_),
        row_k_({call.row_k.begin(), call.row_k.end()}, stream_) {}

  RowTable table() const {
    return {call_.rows,
            call_.size,
            call_.offsets.empty() ? nullptr : offsets_.data(),
            call_.k,
            call_.row_k.empty() ? nullptr : row_k_.data(),
            call_.temperature};
  }
  cudaStream_t stream() const { return stream_; }
  bool host() const { return !call_.stream.has_value(); }

  /// f(place among all scores, element) of every score of rows on the host.
  template <class T, class F>
  void each(ScoreRows<T> rows, F&& f) const {
    std::size_t at = 0;
    for (Offset r = 0; r < call_.rows; ++r) {
      const bool ragged = !call_.offsets.empty();
      const auto row = static_cast<std::size_t>(r);
      T* start = rows.data + (ragged ? call_.offsets[row] : r) * rows.row;
      const Offset count = ragged ? call_.offsets[row + 1] - call_.offsets[row] : call_.size;
      for (Offset i = 0; i < count; ++i) f(at++, start[i * rows.step]);
    }
  }
  /// Rows without gaps on the device.
  template <class T>
  ScoreRows<T> compact(T* data) const {
    return {data, call_.offsets.empty() ? call_.size : 1, 1};
  }
  template <class T>
  DeviceArray<T> gather(ScoreRows<const T> rows) const {
    std::vector<T> values(static_cast<std::size_t>(call_.scores()));
    if (rows.data != nullptr) each(rows, [&](std::size_t at, const T& value) { values[at] = value; });
    DeviceArray<T> array(values, stream_);
    wait();
    return array;
  }
  template <class T>
  void scatter(const T* from, ScoreRows<T> rows) const {
    std::vector<T> values(static_cast<std::size_t>(call_.scores()));
    copy_back(values.data(), from, call_.scores());
    each(rows, [&](std::size_t at, T& value) { value = values[at]; });
  }
  template <class X>
  void copy_back(X* to, const X* from, Offset count) const {
    check(cudaMemcpyAsync(to, from, static_cast<std::size_t>(count) * sizeof(X), cudaMemcpyDeviceToHost,
                          stream_),
          "cudaMemcpyAsync");
    wait();
  }
  void wait() const { check(cudaStreamSynchronize(stream_), "cudaStreamSynchronize"); }

 private:
  const SparsekRows& call_;
  cudaStream_t stream_;
  DeviceArray<std::int64_t> offsets_;
  DeviceArray<double> row_k_;
};

}  // namespace

template <class T>
void sparsek(const SparsekRows& call, ScoreRows<const T> z, ScoreRows<T> p, double* tau) {
  const RowCall rows(call);
  if (!rows.host()) {
    launch_warps(project<T>, call.rows, 1, rows.stream(), Projection<T>{rows.table(), z, p, tau});
    return;
  }
  DeviceArray<T> values = rows.gather(z);
  DeviceArray<double> thresholds(
      std::vector<double>(tau == nullptr ? 0 : static_cast<std::size_t>(call.rows)), rows.stream());
  const ScoreRows<T> here = rows.compact(values.data());
  launch_warps(project<T>, call.rows, 1, rows.stream(),
               Projection<T>{rows.table(),
                             {here.data, here.row, here.step},
                             here,
                             tau == nullptr ? nullptr : thresholds.data()});
  rows.scatter(values.data(), p);
  if (tau != nullptr) rows.copy_back(tau, thresholds.data(), call.rows);
}

template <class T>
void sparsek_derivative(const SparsekRows& call, ScoreRows<const T> p, ScoreRows<const T> change,
                        ScoreRows<T> out, ScoreRows<const T> z, std::span<const double> by_k, double* means,
                        double* temperatures) {
  const RowCall rows(call);
  const DeviceArray<double> k_changes({by_k.begin(), by_k.end()}, rows.stream());
  Derivative<T> d;
  d.table = rows.table();
  d.by_k = by_k.empty() ? nullptr : k_changes.data();
  if (!rows.host()) {
    d.p = p;
    d.change = change;
    d.out = out;
    d.z = z;
    d.means = means;
    d.temperatures = temperatures;
    launch_warps(derive<T>, call.rows, 1, rows.stream(), d);
    return;
  }
  const auto by_row = static_cast<std::size_t>(call.rows);
  DeviceArray<T> gates = rows.gather(p);
  DeviceArray<T> changes = rows.gather(change);
  DeviceArray<T> scores = rows.gather(temperatures == nullptr ? ScoreRows<const T>{} : z);
  DeviceArray<double> mean(std::vector<double>(means == nullptr ? 0 : by_row), rows.stream());
  DeviceArray<double> temperature(std::vector<double>(temperatures == nullptr ? 0 : by_row), rows.stream());
  d.p = rows.compact<const T>(gates.data());
  d.change = rows.compact<const T>(changes.data());
  d.z = rows.compact<const T>(scores.data());
  d.out = rows.compact(changes.data());  // a score is read before it is overwritten, by the same lane
  d.means = means == nullptr ? nullptr : mean.data();
  d.temperatures = temperatures == nullptr ? nullptr : temperature.data();
  launch_warps(derive<T>, call.rows, 1, rows.stream(), d);
  if (out.data != nullptr) rows.scatter(changes.data(), out);
  if (means != nullptr) rows.copy_back(means, mean.data(), call.rows);
  if (temperatures != nullptr) rows.copy_back(temperatures, temperature.data(), call.rows);
}

#define MANYHOP_INSTANTIATE(T)                                                                            \
  template void sparsek<T>(const SparsekRows&, ScoreRows<const T>, ScoreRows<T>, double*);                \
  template void sparsek_derivative<T>(const SparsekRows&, ScoreRows<const T>, ScoreRows<const T>,         \
                                      ScoreRows<T>, ScoreRows<const T>, std::span<const double>, double*, \
                                      double*)
MANYHOP_INSTANTIATE(float);
MANYHOP_INSTANTIATE(double);
MANYHOP_INSTANTIATE(bf16);
#undef MANYHOP_INSTANTIATE

}  // namespace manyhop::ops::cuda
