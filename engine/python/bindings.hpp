// One function for each area of the extension module.
#pragma once

#include <nanobind/nanobind.h>

namespace manyhop::python {

namespace nb = nanobind;

void bind_graphs(nb::module_& m);
void bind_attention(nb::module_& m);
void bind_diffusion(nb::module_& m);
void bind_ppr(nb::module_& m);
void bind_spectral(nb::module_& m);
void bind_sparsek(nb::module_& m);

}  // namespace manyhop::python
