// The whole public interface in one include: graph, plan, context, view.
#pragma once

#include "manyhop/engine/attention.hpp"
#include "manyhop/engine/diffusion.hpp"
#include "manyhop/engine/plan.hpp"
#include "manyhop/engine/plan_cache.hpp"
#include "manyhop/engine/spectral/gap.hpp"
#include "manyhop/engine/version.hpp"
#include "manyhop/graphs/base/error.hpp"
#include "manyhop/graphs/base/tensor.hpp"
#include "manyhop/graphs/graph.hpp"
#include "manyhop/graphs/io/io.hpp"
#include "manyhop/graphs/patterns/pattern.hpp"
#include "manyhop/graphs/reorder.hpp"
#include "manyhop/graphs/spy.hpp"
#include "manyhop/graphs/tiling.hpp"
#include "manyhop/ops/context.hpp"
