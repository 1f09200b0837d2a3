// The pattern language: text -> token graph.
//
//   expr := term (('|' | '-') term)*      term := atom ('&' atom)*      atom := name['(' args ')'] | '(' expr
//   ')'
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "manyhop/graphs/graph.hpp"
#include "manyhop/graphs/io/io.hpp"

namespace manyhop {

struct PatternOptions {
  std::uint64_t seed = 0;  // of atoms that are random and name no seed
  bool clip = false;       // counts above the columns are clipped (items of a batch), not an error
  const LoadOptions* files = nullptr;  // how file("...") reads edge lists
  std::size_t memory_limit = 0;        // bytes that building may take; 0: half of the machine's memory
};

/// The graph of a pattern text on n_rows x n_cols tokens (n_cols = n_rows when absent). Generation is
/// parallel, linear in the edges (or runs) it stores, and the same for any thread count. Throws ValueError
/// whose text points at the column of the pattern and lists what is allowed there. Operators (|, &, -, lift,
/// sym, hops) are those of sets: what a multigraph atom has several times they have once; alone it keeps its
/// multiplicities as weights.
Graph pattern(std::string_view text, Offset n_rows, std::optional<Offset> n_cols = std::nullopt,
              const PatternOptions& options = {});

/// The number of vertices a text fixes by itself (`lps(p, q)`, `file("...")` ...), if it does.
std::optional<Offset> implied_size(std::string_view text, const PatternOptions& options = {});

/// The text as the parser prints it back: canonical blanks, named arguments only where positional ones would
/// mislead.
std::string canonical_pattern(std::string_view text);

/// Names of all atoms, for messages and help.
std::vector<std::string> pattern_names();

}  // namespace manyhop
