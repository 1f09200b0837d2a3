// Random damage to bytes, the same for one (seed, index) on every machine.
#pragma once

#include <algorithm>
#include <array>
#include <string>
#include <string_view>

#include "manyhop/graphs/base/random.hpp"

namespace manyhop::fuzz {

/// Numbers that break parsers: limits of the integer types, of doubles, and things that are not numbers.
inline constexpr std::array<std::string_view, 24> kExtremes{"0",
                                                            "-1",
                                                            "1",
                                                            "2",
                                                            "255",
                                                            "65536",
                                                            "1048577",
                                                            "2147483646",
                                                            "2147483647",
                                                            "2147483648",
                                                            "nan",
                                                            "inf",
                                                            "1e308",
                                                            "1e-320",
                                                            "1e999",
                                                            "4294967296",
                                                            "1099511627776",
                                                            "9007199254740993",
                                                            "9223372036854775807",
                                                            "9223372036854775808",
                                                            "18446744073709551616",
                                                            "-9223372036854775808",
                                                            "0x10",
                                                            ""};

/// `bytes` after one to four damages; `other` gives the material of splices.
inline std::string mutate(std::string bytes, std::string_view other, CounterRng& rng) {
  const auto place = [&](std::size_t size) { return static_cast<std::size_t>(rng.below(size + 1)); };
  for (std::uint64_t count = 1 + rng.below(4); count > 0; --count) {
    const std::size_t at = place(bytes.size());
    switch (rng.below(9)) {
      case 0:  // flip a bit
        if (at < bytes.size()) bytes[at] = static_cast<char>(bytes[at] ^ (1 << rng.below(8)));
        break;
      case 1:  // another byte
        if (at < bytes.size()) bytes[at] = static_cast<char>(rng.below(256));
        break;
      case 2:  // delete
        bytes.erase(at, 1 + place(8));
        break;
      case 3:  // insert
        bytes.insert(at, 1, static_cast<char>(rng.below(256)));
        break;
      case 4:  // cut off
        if (rng.below(4) == 0) bytes.resize(at);
        break;
      case 5: {  // repeat a piece
        const std::string piece = bytes.substr(at, 1 + place(24));
        bytes.insert(place(bytes.size()), piece);
        break;
      }
      case 6: {  // splice
        const std::size_t from = place(other.size());
        bytes.insert(at, other.substr(from, 1 + place(24)));
        break;
      }
      case 7: {  // another number
        const std::size_t begin = bytes.find_first_of("0123456789", at);
        if (begin == std::string::npos) break;
        const std::size_t end = std::min(bytes.size(), bytes.find_first_not_of("0123456789.", begin));
        bytes.replace(begin, end - begin, kExtremes[static_cast<std::size_t>(rng.below(kExtremes.size()))]);
        break;
      }
      default: {  // an extreme little-endian integer
        constexpr std::array<std::uint64_t, 6> words{
            ~std::uint64_t{0}, std::uint64_t{1} << 63, std::uint64_t{1} << 40, 0x7FFFFFFF, 0xFFFF, 0};
        std::uint64_t word = words[static_cast<std::size_t>(rng.below(words.size()))];
        const std::size_t width = std::size_t{1} << rng.below(4);
        for (std::size_t i = at; i < std::min(bytes.size(), at + width); ++i, word >>= 8) {
          bytes[i] = static_cast<char>(word & 0xFF);
        }
      }
    }
    if (bytes.size() > 65536) bytes.resize(65536);
  }
  return bytes;
}

}  // namespace manyhop::fuzz
