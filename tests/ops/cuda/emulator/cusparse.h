// The part of cuSPARSE that ops/cuda/cusparse.cu calls, as plain loops over the caller's memory. It refuses
// what the library refuses: products before their analysis, types and orders that differ.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cuda_runtime.h"

enum cusparseStatus_t {
  CUSPARSE_STATUS_SUCCESS = 0,
  CUSPARSE_STATUS_ALLOC_FAILED = 2,
  CUSPARSE_STATUS_INVALID_VALUE = 3,
  CUSPARSE_STATUS_INSUFFICIENT_RESOURCES = 11
};
enum cusparseOperation_t { CUSPARSE_OPERATION_NON_TRANSPOSE = 0 };
enum cusparseIndexType_t { CUSPARSE_INDEX_32I = 2 };
enum cusparseIndexBase_t { CUSPARSE_INDEX_BASE_ZERO = 0 };
enum cusparseOrder_t { CUSPARSE_ORDER_ROW = 2 };
enum cusparseSpMMAlg_t { CUSPARSE_SPMM_CSR_ALG3 = 12 };
enum cudaDataType { CUDA_R_32F = 0, CUDA_R_64F = 1 };

struct cusparseContext {
  cudaStream_t stream = nullptr;
};
struct cusparseMatrix {
  std::int64_t rows = 0, cols = 0, ld = 0;
  const std::int32_t* offsets = nullptr;
  const std::int32_t* columns = nullptr;
  void* values = nullptr;
  cudaDataType type = CUDA_R_32F;
  const void* analysed = nullptr;  // the workspace of preprocess()
};
using cusparseHandle_t = cusparseContext*;
using cusparseSpMatDescr_t = cusparseMatrix*;
using cusparseDnMatDescr_t = cusparseMatrix*;

inline cusparseStatus_t cusparseCreate(cusparseHandle_t* handle) {
  *handle = new cusparseContext;
  return CUSPARSE_STATUS_SUCCESS;
}
inline cusparseStatus_t cusparseDestroy(cusparseHandle_t handle) {
  delete handle;
  return CUSPARSE_STATUS_SUCCESS;
}
inline cusparseStatus_t cusparseSetStream(cusparseHandle_t handle, cudaStream_t stream) {
  handle->stream = stream;
  return CUSPARSE_STATUS_SUCCESS;
}
inline cusparseStatus_t cusparseCreateCsr(cusparseSpMatDescr_t* matrix, std::int64_t rows, std::int64_t cols,
                                          std::int64_t, void* offsets, void* columns, void* values,
                                          cusparseIndexType_t, cusparseIndexType_t, cusparseIndexBase_t,
                                          cudaDataType type) {
  *matrix = new cusparseMatrix{
      rows,   cols, 0,      static_cast<std::int32_t*>(offsets), static_cast<std::int32_t*>(columns),
      values, type, nullptr};
  return CUSPARSE_STATUS_SUCCESS;
}
inline cusparseStatus_t cusparseCreateDnMat(cusparseDnMatDescr_t* matrix, std::int64_t rows,
                                            std::int64_t cols, std::int64_t ld, void* values,
                                            cudaDataType type, cusparseOrder_t) {
  *matrix = new cusparseMatrix{rows, cols, ld, nullptr, nullptr, values, type, nullptr};
  return CUSPARSE_STATUS_SUCCESS;
}
inline cusparseStatus_t cusparseDestroySpMat(cusparseSpMatDescr_t matrix) {
  delete matrix;
  return CUSPARSE_STATUS_SUCCESS;
}
inline cusparseStatus_t cusparseDestroyDnMat(cusparseDnMatDescr_t matrix) {
  delete matrix;
  return CUSPARSE_STATUS_SUCCESS;
}
inline cusparseStatus_t cusparseSpMatSetValues(cusparseSpMatDescr_t matrix, void* values) {
  matrix->values = values;
  return CUSPARSE_STATUS_SUCCESS;
}
inline cusparseStatus_t cusparseDnMatSetValues(cusparseDnMatDescr_t matrix, void* values) {
  matrix->values = values;
  return CUSPARSE_STATUS_SUCCESS;
}
inline cusparseStatus_t cusparseSpMM_bufferSize(cusparseHandle_t, cusparseOperation_t, cusparseOperation_t,
                                                const void*, cusparseSpMatDescr_t, cusparseDnMatDescr_t,
                                                const void*, cusparseDnMatDescr_t, cudaDataType,
                                                cusparseSpMMAlg_t, std::size_t* bytes) {
  *bytes = 256;
  return CUSPARSE_STATUS_SUCCESS;
}
inline cusparseStatus_t cusparseSpMM_preprocess(cusparseHandle_t, cusparseOperation_t, cusparseOperation_t,
                                                const void*, cusparseSpMatDescr_t a, cusparseDnMatDescr_t,
                                                const void*, cusparseDnMatDescr_t, cudaDataType,
                                                cusparseSpMMAlg_t, void* workspace) {
  a->analysed = workspace;
  return CUSPARSE_STATUS_SUCCESS;
}
inline const char* cusparseGetErrorString(cusparseStatus_t) { return "an error"; }

namespace emulator {
inline long sparse_products = 0;  // since the program started

template <class C>
void multiply_sparse(const cusparseMatrix& a, const cusparseMatrix& b, const cusparseMatrix& c) {
  const auto* values = static_cast<const C*>(a.values);
  const auto* x = static_cast<const C*>(b.values);
  auto* y = static_cast<C*>(c.values);
  for (std::int64_t i = 0; i < a.rows; ++i) {
    for (std::int64_t f = 0; f < c.cols; ++f) {
      C sum = 0;
      for (std::int32_t e = a.offsets[i]; e < a.offsets[i + 1]; ++e)
        sum += values[e] * x[a.columns[e] * b.ld + f];
      y[i * c.ld + f] = sum;
    }
  }
}
}  // namespace emulator

inline cusparseStatus_t cusparseSpMM(cusparseHandle_t handle, cusparseOperation_t, cusparseOperation_t,
                                     const void*, cusparseSpMatDescr_t a, cusparseDnMatDescr_t b, const void*,
                                     cusparseDnMatDescr_t c, cudaDataType type, cusparseSpMMAlg_t,
                                     void* workspace) {
  const bool fits = a->analysed == workspace && a->type == type && b->type == type && c->type == type &&
                    a->cols == b->rows && a->rows == c->rows && b->cols == c->cols;
  if (!fits) return CUSPARSE_STATUS_INVALID_VALUE;
  // What descriptors point at is read when the product is queued.
  emulator::queue(handle->stream, [a = *a, b = *b, c = *c, type] {
    ++emulator::sparse_products;
    type == CUDA_R_32F ? emulator::multiply_sparse<float>(a, b, c)
                       : emulator::multiply_sparse<double>(a, b, c);
  });
  return CUSPARSE_STATUS_SUCCESS;
}
