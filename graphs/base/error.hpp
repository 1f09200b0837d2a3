// The exceptions of the library: one base, four leaves. Each carries one sentence with the place, both
// numbers and the valid alternatives. Numerical outcome (converged, residual, bound) is data and never
// thrown.
#pragma once

#include <stdexcept>
#include <string>

namespace manyhop {

class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// A bad argument: value, shape, pattern text, or a backend that is not there.
class ValueError : public Error {
 public:
  using Error::Error;
};

/// A file that cannot be read, written or understood; the text names the line (text) or byte (binary).
class FileError : public Error {
 public:
  using Error::Error;
};

/// Work that would pass the memory limit; thrown before anything is allocated.
class LimitError : public Error {
 public:
  using Error::Error;
};

/// The stop flag of the running thread scope was raised; nothing was written.
class Interrupted : public Error {
 public:
  using Error::Error;
};

}  // namespace manyhop
