// Plans by graph and shape, so that layers and steps which name the same graph share one.
#pragma once

#include <cstddef>
#include <list>
#include <mutex>
#include <span>
#include <vector>

#include "manyhop/engine/plan.hpp"

namespace manyhop {

/// Keeps the plans used last. Two graphs are the same when they share storage or have equal edges (compared
/// by hash and sizes, O(m) once); a plan also depends on the context's backend, threads and memory limit.
/// Threads may share a cache.
class PlanCache {
 public:
  explicit PlanCache(std::size_t capacity = 16) : capacity_(capacity) {}

  /// plan(ctx, graphs, options), made at most once while it is kept. Throws what plan() throws and keeps
  /// nothing then.
  Plan get(const Context& ctx, std::span<const Graph> graphs, const PlanOptions& options);
  Plan get(const Context& ctx, const Graph& graph, const PlanOptions& options) {
    return get(ctx, std::span<const Graph>(&graph, 1), options);
  }
  std::size_t size() const;
  std::size_t hits() const;
  std::size_t misses() const;
  void clear();

 private:
  struct Entry {
    std::vector<Graph> graphs;
    PlanOptions options;
    Backend backend;
    int threads;
    std::size_t limit;
    int device;
    Plan plan;
  };
  mutable std::mutex mutex_;
  std::list<Entry> entries_;  // the one used last in front
  std::size_t capacity_;
  std::size_t hits_ = 0;
  std::size_t misses_ = 0;
};

}  // namespace manyhop
