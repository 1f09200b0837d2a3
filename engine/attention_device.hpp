// Attention on a device: all heads in one call, edge values as the device wants them. For attention*.cpp and
// plan.cpp alone.
#pragma once

#include "manyhop/engine/plan.hpp"
#include "manyhop/engine/schedule.hpp"
#include "manyhop/ops/cuda/attention.hpp"

namespace manyhop::attention_call {

template <class T>
void attention_on_device(const Plan& plan, ops::cuda::AttentionCall<T> call,
                         TensorView<const EdgeValue<T>> bias, TensorView<T> out, TensorView<EdgeValue<T>> lse,
                         TensorView<EdgeValue<T>> weights);

template <class T>
void attention_backward_on_device(const Plan& plan, ops::cuda::AttentionCall<T> call,
                                  TensorView<const EdgeValue<T>> bias,
                                  ops::cuda::AttentionGradient<T> gradient,
                                  TensorView<const EdgeValue<T>> g_lse, TensorView<EdgeValue<T>> dbias);

}  // namespace manyhop::attention_call

namespace manyhop {

/// Bytes of device memory that a run of a plan takes beside its tensors and graphs.
std::size_t device_workspace(const Plan::Data& data);

}  // namespace manyhop
