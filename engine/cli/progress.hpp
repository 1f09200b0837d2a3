#pragma once

#include <functional>
#include <string_view>

namespace manyhop::cli {

/// A callback for Context::progress that draws one bar on standard error, or an empty function when that is
/// not a terminal. Work under a second draws nothing. Safe to call from several threads.
std::function<void(std::string_view, double)> progress_bar();

/// Wipes the bar off its line, before anything else is printed.
void clear_progress();

}  // namespace manyhop::cli
