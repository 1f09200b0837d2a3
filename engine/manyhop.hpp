// The whole public interface in one include: graph, plan, context, view.
#pragma once

#include "manyhop/engine/attention.hpp"
#include "manyhop/engine/diffusion.hpp"
#include "manyhop/engine/plan.hpp"
#include "manyhop/engine/spectral/gap.hpp"
#include "manyhop/graphs/graph.hpp"
#include "manyhop/graphs/io/io.hpp"
#include "manyhop/graphs/patterns/pattern.hpp"
