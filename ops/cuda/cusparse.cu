#include "manyhop/ops/cuda/cusparse.cuh"

#include <cstdlib>
#include <limits>
#include <mutex>
#include <string_view>
#include <vector>

#include "manyhop/graphs/base/error.hpp"

#ifdef MANYHOP_HAS_CUSPARSE
#include <cusparse.h>
#include <dlfcn.h>
#endif

namespace manyhop::ops::cuda {

HopChoice hop_choice() {
  static const HopChoice choice = [] {
    const char* text = std::getenv("MANYHOP_CUDA_HOPS");
    const std::string_view asked = text == nullptr ? "" : text;
    if (asked.empty() || asked == "measure") return HopChoice::measure;
    if (asked == "own") return HopChoice::own;
    if (asked == "cusparse") return HopChoice::cusparse;
    throw ValueError("MANYHOP_CUDA_HOPS is '" + std::string(asked) + "': expected own, cusparse or measure");
  }();
  return choice;
}

#ifdef MANYHOP_HAS_CUSPARSE

namespace {

// The functions that are used, as the header declares them.
struct Library {
  decltype(&cusparseCreate) create = nullptr;
  decltype(&cusparseDestroy) destroy = nullptr;
  decltype(&cusparseSetStream) set_stream = nullptr;
  decltype(&cusparseCreateCsr) create_csr = nullptr;
  decltype(&cusparseCreateDnMat) create_dense = nullptr;
  decltype(&cusparseDestroySpMat) destroy_sparse = nullptr;
  decltype(&cusparseDestroyDnMat) destroy_dense = nullptr;
  decltype(&cusparseSpMatSetValues) set_sparse_values = nullptr;
  decltype(&cusparseDnMatSetValues) set_dense_values = nullptr;
  decltype(&cusparseSpMM_bufferSize) buffer_size = nullptr;
  decltype(&cusparseSpMM_preprocess) preprocess = nullptr;
  decltype(&cusparseSpMM) multiply = nullptr;
  decltype(&cusparseGetErrorString) text = nullptr;
  std::string missing;

  Library() {
#ifdef __CUDACC__
    // torch's own copy where it is loaded already, else what the loader finds.
    void* handle = dlopen("libcusparse.so.12", RTLD_NOW | RTLD_GLOBAL);
    if (handle == nullptr) handle = dlopen("libcusparse.so", RTLD_NOW | RTLD_GLOBAL);
    if (handle == nullptr) {
      missing = "libcusparse.so.12 was not found";
      return;
    }
#define MANYHOP_FIND(function, name)                                     \
  function = reinterpret_cast<decltype(function)>(dlsym(handle, #name)); \
  if (function == nullptr) missing = "libcusparse has no " #name
#else  // the emulator's own
#define MANYHOP_FIND(function, name) function = name
#endif
    MANYHOP_FIND(create, cusparseCreate);
    MANYHOP_FIND(destroy, cusparseDestroy);
    MANYHOP_FIND(set_stream, cusparseSetStream);
    MANYHOP_FIND(create_csr, cusparseCreateCsr);
    MANYHOP_FIND(create_dense, cusparseCreateDnMat);
    MANYHOP_FIND(destroy_sparse, cusparseDestroySpMat);
    MANYHOP_FIND(destroy_dense, cusparseDestroyDnMat);
    MANYHOP_FIND(set_sparse_values, cusparseSpMatSetValues);
    MANYHOP_FIND(set_dense_values, cusparseDnMatSetValues);
    MANYHOP_FIND(buffer_size, cusparseSpMM_bufferSize);
    MANYHOP_FIND(preprocess, cusparseSpMM_preprocess);
    MANYHOP_FIND(multiply, cusparseSpMM);
    MANYHOP_FIND(text, cusparseGetErrorString);
#undef MANYHOP_FIND
  }
};

const Library& library() {
  static const Library one;
  return one;
}

void check_sparse(cusparseStatus_t status, const char* call) {
  if (status == CUSPARSE_STATUS_SUCCESS) return;
  const std::string text = std::string(call) + ": " + library().text(status);
  if (status == CUSPARSE_STATUS_ALLOC_FAILED || status == CUSPARSE_STATUS_INSUFFICIENT_RESOURCES) {
    throw LimitError("device memory: " + text);
  }
  throw Error("cuda: " + text);
}

template <class C>
constexpr cudaDataType kType = sizeof(C) == 4 ? CUDA_R_32F : CUDA_R_64F;
constexpr cusparseOperation_t kPlain = CUSPARSE_OPERATION_NON_TRANSPOSE;
constexpr cusparseSpMMAlg_t kAlgorithm = CUSPARSE_SPMM_CSR_ALG3;

}  // namespace

std::string sparse_library_missing() { return library().missing; }

template <class C>
struct SparseProduct<C>::State {
  std::mutex mutex;
  cusparseHandle_t handle = nullptr;
  cusparseSpMatDescr_t a = nullptr;
  cusparseDnMatDescr_t z = nullptr;
  cusparseDnMatDescr_t sums = nullptr;
  cudaEvent_t used = nullptr;  // the workspace is in use up to here
  DeviceArray<std::int32_t> offsets;
  Buffer workspace;
  C one = 1;
  C zero = 0;

  ~State() {
    if (a != nullptr) library().destroy_sparse(a);
    if (z != nullptr) library().destroy_dense(z);
    if (sums != nullptr) library().destroy_dense(sums);
    if (handle != nullptr) library().destroy(handle);
    if (used != nullptr) cudaEventDestroy(used);
  }
};

template <class C>
SparseProduct<C>::SparseProduct(const Graph& graph, const Index* columns, int width, cudaStream_t stream)
    : state_(std::make_unique<State>()) {
  if (!library().missing.empty()) throw ValueError("cusparse: " + library().missing);
  if (graph.nnz() > std::numeric_limits<std::int32_t>::max()) {
    throw ValueError("cusparse: " + std::to_string(graph.nnz()) + " edges, fewer than 2^31 are wanted");
  }
  State& s = *state_;
  const Library& f = library();
  const auto indptr = graph.indptr();
  const std::vector<std::int32_t> offsets(indptr.begin(), indptr.end());
  s.offsets = {offsets, stream};
  const std::int64_t rows = graph.n_rows();
  const std::int64_t cols = graph.n_cols();
  // Something to point at while the structure is looked at; calls bring their own.
  const Buffer values(static_cast<std::size_t>(std::max<Offset>(1, graph.nnz())) * sizeof(C), stream);
  const Buffer dense(static_cast<std::size_t>(std::max<std::int64_t>(1, (rows + cols) * width)) * sizeof(C),
                     stream);
  check(cudaMemsetAsync(values.data(), 0, values.bytes(), stream), "cudaMemsetAsync");
  check(cudaMemsetAsync(dense.data(), 0, dense.bytes(), stream), "cudaMemsetAsync");
  check(cudaEventCreateWithFlags(&s.used, cudaEventDisableTiming), "cudaEventCreate");
  check_sparse(f.create(&s.handle), "cusparseCreate");
  check_sparse(f.set_stream(s.handle, stream), "cusparseSetStream");
  check_sparse(
      f.create_csr(&s.a, rows, cols, graph.nnz(), s.offsets.data(), const_cast<Index*>(columns),
                   values.data(), CUSPARSE_INDEX_32I, CUSPARSE_INDEX_32I, CUSPARSE_INDEX_BASE_ZERO, kType<C>),
      "cusparseCreateCsr");
  check_sparse(f.create_dense(&s.z, cols, width, width, dense.data(), kType<C>, CUSPARSE_ORDER_ROW),
               "cusparseCreateDnMat");
  check_sparse(f.create_dense(&s.sums, rows, width, width,
                              dense.data() + static_cast<std::size_t>(cols * width) * sizeof(C), kType<C>,
                              CUSPARSE_ORDER_ROW),
               "cusparseCreateDnMat");
  std::size_t bytes = 0;
  check_sparse(f.buffer_size(s.handle, kPlain, kPlain, &s.one, s.a, s.z, &s.zero, s.sums, kType<C>,
                             kAlgorithm, &bytes),
               "cusparseSpMM_bufferSize");
  s.workspace = Buffer(std::max<std::size_t>(bytes, 16), stream);
  check_sparse(f.preprocess(s.handle, kPlain, kPlain, &s.one, s.a, s.z, &s.zero, s.sums, kType<C>, kAlgorithm,
                            s.workspace.data()),
               "cusparseSpMM_preprocess");
  check(cudaEventRecord(s.used, stream), "cudaEventRecord");
  check(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
}

template <class C>
SparseProduct<C>::~SparseProduct() = default;

template <class C>
void SparseProduct<C>::in_turn(cudaStream_t stream, const std::function<void()>& work) {
  const std::scoped_lock lock(state_->mutex);
  check(cudaStreamWaitEvent(stream, state_->used, 0), "cudaStreamWaitEvent");
  work();
  check(cudaEventRecord(state_->used, stream), "cudaEventRecord");
}

template <class C>
void SparseProduct<C>::record(const C* values, const C* z, C* sums, cudaStream_t stream) {
  State& s = *state_;
  const Library& f = library();
  check_sparse(f.set_stream(s.handle, stream), "cusparseSetStream");
  check_sparse(f.set_sparse_values(s.a, const_cast<C*>(values)), "cusparseSpMatSetValues");
  check_sparse(f.set_dense_values(s.z, const_cast<C*>(z)), "cusparseDnMatSetValues");
  check_sparse(f.set_dense_values(s.sums, sums), "cusparseDnMatSetValues");
  check_sparse(f.multiply(s.handle, kPlain, kPlain, &s.one, s.a, s.z, &s.zero, s.sums, kType<C>, kAlgorithm,
                          s.workspace.data()),
               "cusparseSpMM");
}

template <class C>
void SparseProduct<C>::multiply(const C* values, const C* z, C* sums, cudaStream_t stream) {
  in_turn(stream, [&] { record(values, z, sums, stream); });
}

template <class C>
std::size_t SparseProduct<C>::bytes() const {
  return state_->offsets.bytes() + state_->workspace.bytes();
}

#else

std::string sparse_library_missing() { return "cusparse.h was not found when this was built"; }

template <class C>
struct SparseProduct<C>::State {};
template <class C>
SparseProduct<C>::SparseProduct(const Graph&, const Index*, int, cudaStream_t) {
  throw ValueError("cusparse: " + sparse_library_missing());
}
template <class C>
SparseProduct<C>::~SparseProduct() = default;
template <class C>
void SparseProduct<C>::multiply(const C*, const C*, C*, cudaStream_t) {}
template <class C>
void SparseProduct<C>::record(const C*, const C*, C*, cudaStream_t) {}
template <class C>
void SparseProduct<C>::in_turn(cudaStream_t, const std::function<void()>& work) {
  work();
}
template <class C>
std::size_t SparseProduct<C>::bytes() const {
  return 0;
}

#endif

template class SparseProduct<float>;
template class SparseProduct<double>;

}  // namespace manyhop::ops::cuda
