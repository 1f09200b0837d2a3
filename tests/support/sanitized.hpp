// Whether a sanitizer watches: it looks at paths, not at numbers, and takes ten times as long or more.
#pragma once

#if defined(__has_feature)
#define MANYHOP_HAS_FEATURE(x) __has_feature(x)
#else
#define MANYHOP_HAS_FEATURE(x) 0
#endif

namespace manyhop::test {

#if defined(__SANITIZE_THREAD__) || MANYHOP_HAS_FEATURE(thread_sanitizer)
inline constexpr bool kThreadSanitizer = true;
#else
inline constexpr bool kThreadSanitizer = false;
#endif

#if defined(__SANITIZE_ADDRESS__) || MANYHOP_HAS_FEATURE(address_sanitizer)
inline constexpr bool kSanitized = true;
#else
inline constexpr bool kSanitized = kThreadSanitizer;
#endif

}  // namespace manyhop::test
