// Ctrl-C without half-written files. Signals are blocked in every thread and taken by one that waits for them
// with sigwait, so that what runs on arrival is ordinary code and not a signal handler.
#pragma once

#include <atomic>
#include <string>

namespace manyhop::cli {

/// Starts the waiting thread. Call first thing in main, before any other thread exists.
///
/// SIGINT, SIGTERM or SIGHUP raises the stop flag; the work polls it and leaves by Interrupted. What does not
/// poll (an eigen-solver's factorisation, a large read, a pipe that nobody feeds) is given 0.7 s, or until a
/// second signal: then the files listed below are removed and the process ends with 130.
void start_signal_thread();

const std::atomic<bool>& stop_flag();
/// All outputs are in place: later signals are ignored. False when a signal came first.
bool finish_work();

/// True for the first caller: who says that the run was interrupted, the work or the waiting thread.
bool first_to_say_interrupted();

/// Files and folders that must not outlive an interrupted or failed run, and those that may after all.
void forget_on_success(const std::string& path);
void keep(const std::string& path);
void keep_all();
void remove_listed();

}  // namespace manyhop::cli
