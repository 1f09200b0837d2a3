// The seam to oneTBB: tasks.cpp alone names it. parallel_for is what everything else calls.
#pragma once

#include <cstdint>

namespace manyhop::tasks {

/// Threads that wait for work. Opaque; lives as long as the process.
struct Arena;

/// An arena of `threads` threads, the caller's included. Not thread-safe: the caller holds a lock.
Arena* make_arena(int threads);

/// Calls body(data, c) once for each c in [0, chunks) on the arena's threads and waits. The first exception
/// of a chunk reaches the caller. A thread that waits in here takes up no chunk of another loop.
void run(Arena& arena, std::int64_t chunks, void (*body)(void* data, std::int64_t chunk), void* data);

}  // namespace manyhop::tasks
