// Strong components by two searches (Kosaraju), over runs: a search skips what it has seen, so that a run
// costs what it finds.
#include <numeric>
#include <utility>

#include "manyhop/engine/spectral/operators.hpp"
#include "manyhop/graphs/base/parallel.hpp"
#include "manyhop/graphs/runs.hpp"

namespace manyhop::spectral {
namespace {

/// The next vertex at or after v that has not been removed.
class Remaining {
 public:
  explicit Remaining(Offset n) : next_(at(n) + 1) { std::iota(next_.begin(), next_.end(), Index{0}); }
  Index from(Index v) {
    while (next_[at(v)] != v) {
      next_[at(v)] = next_[at(next_[at(v)])];
      v = next_[at(v)];
    }
    return v;
  }
  void remove(Index v) { next_[at(v)] = v + 1; }

 private:
  std::vector<Index> next_;
};

}  // namespace

StrongComponents strong_components(const Graph& graph) {
  const Offset n = graph.n_rows();
  struct Frame {
    Index vertex;
    std::size_t run = 0;
    RunList runs;
  };
  std::vector<Index> finished;
  finished.reserve(at(n));
  {
    Remaining remaining(n);
    std::vector<Frame> stack;
    const auto open = [&](Index v) {
      remaining.remove(v);
      Frame frame{v, 0, {}};
      graph.for_each_run(v, [&](Run run) { frame.runs.push_back(run); });
      stack.push_back(std::move(frame));
    };
    for (Offset root = remaining.from(0); root < n; root = remaining.from(static_cast<Index>(root))) {
      open(static_cast<Index>(root));
      while (!stack.empty()) {
        if ((finished.size() & 0xFFF) == 0) check_stop();
        Frame& frame = stack.back();
        Index found = -1;
        for (; frame.run < frame.runs.size(); ++frame.run) {
          const Index v = remaining.from(frame.runs[frame.run].begin);
          if (v < frame.runs[frame.run].end) {
            found = v;
            break;
          }
        }
        if (found >= 0) {
          open(found);
        } else {
          finished.push_back(frame.vertex);
          stack.pop_back();
        }
      }
    }
  }
  const Graph& mirrored = graph.transpose();
  StrongComponents result;
  result.label.assign(at(n), -1);
  Remaining remaining(n);
  std::vector<Index> queue;
  for (std::size_t k = finished.size(); k-- > 0;) {
    if (result.label[at(finished[k])] >= 0) continue;
    const auto label = static_cast<Index>(result.count++);
    queue.assign(1, finished[k]);
    result.label[at(finished[k])] = label;
    remaining.remove(finished[k]);
    while (!queue.empty()) {
      const Index u = queue.back();
      queue.pop_back();
      mirrored.for_each_run(u, [&](Run run) {
        for (Index v = remaining.from(run.begin); v < run.end; v = remaining.from(v)) {
          remaining.remove(v);
          result.label[at(v)] = label;
          queue.push_back(v);
        }
      });
    }
  }
  return result;
}

}  // namespace manyhop::spectral
