#include "manyhop/engine/plan_cache.hpp"

#include <algorithm>
#include <utility>

#include "manyhop/ops/cuda/attention.hpp"

namespace manyhop {

namespace {
bool same(const Graph& a, const Graph& b) {
  if (a.same_storage(b)) return true;
  return a.n_rows() == b.n_rows() && a.n_cols() == b.n_cols() && a.nnz() == b.nnz() && a.hash() == b.hash();
}
}  // namespace

Plan PlanCache::get(const Context& ctx, std::span<const Graph> graphs, const PlanOptions& options) {
  const std::size_t limit = ctx.limit();
  const int device = ctx.backend == Backend::cuda ? ops::cuda::current_device() : 0;
  const std::lock_guard lock(mutex_);
  const auto found = std::find_if(entries_.begin(), entries_.end(), [&](const Entry& e) {
    return e.options == options && e.backend == ctx.backend && e.threads == ctx.threads && e.limit == limit &&
           e.device == device &&
           std::equal(graphs.begin(), graphs.end(), e.graphs.begin(), e.graphs.end(), same);
  });
  if (found != entries_.end()) {
    ++hits_;
    entries_.splice(entries_.begin(), entries_, found);
    return entries_.front().plan;
  }
  ++misses_;
  Plan made = plan(ctx, graphs, options);
  if (capacity_ == 0) return made;
  if (entries_.size() == capacity_) entries_.pop_back();
  entries_.push_front(
      {{graphs.begin(), graphs.end()}, options, ctx.backend, ctx.threads, limit, device, std::move(made)});
  return entries_.front().plan;
}

std::size_t PlanCache::size() const {
  const std::lock_guard lock(mutex_);
  return entries_.size();
}
std::size_t PlanCache::hits() const {
  const std::lock_guard lock(mutex_);
  return hits_;
}
std::size_t PlanCache::misses() const {
  const std::lock_guard lock(mutex_);
  return misses_;
}
void PlanCache::clear() {
  const std::lock_guard lock(mutex_);
  entries_.clear();
}

}  // namespace manyhop
