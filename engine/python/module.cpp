// The extension module manyhop._core. Errors become those of manyhop.errors; Interrupted is
// KeyboardInterrupt.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/string_view.h>
#include <nanobind/stl/vector.h>

#include <new>

#include "bindings.hpp"
#include "call.hpp"
#include "manyhop/engine/version.hpp"
#include "manyhop/graphs/base/error.hpp"
#include "manyhop/graphs/base/parallel.hpp"

namespace manyhop::python {
namespace {

void raise(const char* name, const char* text) {
  const nb::module_ errors = nb::module_::import_("manyhop.errors");
  PyErr_SetString(errors.attr(name).ptr(), text);
}

void translate(const std::exception_ptr& pointer, void*) {
  try {
    std::rethrow_exception(pointer);
  } catch (const Interrupted& error) {
    // Python's handler has noted the signal and raises what it likes.
    if (PyErr_CheckSignals() == 0) PyErr_SetString(PyExc_KeyboardInterrupt, error.what());
  } catch (const ValueError& error) {
    raise("BadValue", error.what());
  } catch (const FileError& error) {
    raise("FileError", error.what());
  } catch (const LimitError& error) {
    raise("LimitError", error.what());
  } catch (const Error& error) {
    raise("Error", error.what());
  } catch (const nb::builtin_exception& error) {
    raise(error.type() == nb::exception_type::type_error ? "BadType" : "BadValue", error.what());
  } catch (const std::bad_alloc&) {
    raise("LimitError", "out of memory: try a smaller size, or set_memory_limit()");
  }
}

}  // namespace
}  // namespace manyhop::python

NB_MODULE(_core, m) {
  using namespace manyhop;
  using namespace manyhop::python;
  nb::register_exception_translator(translate);
  nb::set_leak_warnings(false);  // graphs that live to the end of the interpreter are no leak
  bind_graphs(m);
  bind_attention(m);
  bind_diffusion(m);
  bind_ppr(m);
  bind_spectral(m);
  bind_sparsek(m);
  m.def("version", [] { return std::string(version()); });
  m.def("simd_name", [] { return std::string(simd_name()); });
  m.def("available_backends", &available_backends);
  m.def("thread_count", &thread_count);
  m.def("set_threads", &set_default_threads);
  m.def("set_memory_limit", &set_default_limit);
  m.def("pooled_array", &pooled_array);
  m.def("release_memory", &release_memory);
}
