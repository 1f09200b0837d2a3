# A thin front for the CMake presets. `make run` and `make test` install what is missing (Debian, Ubuntu) first.
SHELL := /bin/bash
.PHONY: help run test test-cpp test-python wheel bench peers format format-check tidy asan tsan clang neon nightly install clean

PREFIX ?= /usr/local
MUTATIONS ?= 10000
TIDY ?= ^$(CURDIR)/(graphs|ops|engine|tests|bench)/
MANYHOP_CUDA ?= AUTO
# Empty: what cmake/manyhop_cuda.cmake says.
MANYHOP_CUDA_ARCHITECTURES ?=
sources = $(shell git ls-files '*.cpp' '*.hpp' '*.cu' '*.cuh' 'tests/ops/cuda/emulator/*.h')
# A first `make run` leaves out the tests (and the packages only they need) and what nvcc takes minutes for; `make test`
# turns them on and they stay.
first = $(if $(wildcard build/default/CMakeCache.txt),,-DMANYHOP_TESTS=OFF -DMANYHOP_FUZZ=OFF -DMANYHOP_CUDA=OFF)
architectures = $(if $(MANYHOP_CUDA_ARCHITECTURES),'-DMANYHOP_CUDA_ARCHITECTURES=$(MANYHOP_CUDA_ARCHITECTURES)')
# The header of cuSPARSE, where tools/python cusparse has brought it.
cusparse = $(if $(wildcard build/venv/lib/python3*/site-packages/nvidia/*/include/cusparse.h),-DcuSPARSE_PYTHON=$(CURDIR)/build/venv/bin/python)

help:
	@echo 'make run      attention on a real text and diffusion on a real citation graph; writes out/'
	@echo 'make test     build everything and run the tests: test-cpp, then test-python'
	@echo 'make wheel    a self-contained Python wheel into dist/'
	@echo 'make bench    the benchmarks, as JSON into build/bench/'
	@echo 'make peers    the same work in torch, SciPy, DGL, PyG where they are installed (PYTHON=...)'
	@echo 'make asan     tests under AddressSanitizer and UBSan, built by clang++-16'
	@echo 'make tsan     tests under ThreadSanitizer with four threads'
	@echo 'make clang    build with clang++-16'
	@echo 'make neon     kernels and attention cross-compiled for 64-bit ARM, run under qemu (Debian)'
	@echo 'make format   clang-format-16 on every source;  make format-check only tells'
	@echo 'make tidy     clang-tidy-16 on every source, or on those that match TIDY (half an hour on two cores)'
	@echo 'make nightly  a million mutations of every file format under AddressSanitizer, and make neon'
	@echo 'make install  into PREFIX (default /usr/local)'
	@echo 'make clean    remove build/ and out/'

run:
	@tools/setup run
	@tools/build default $(first) -- manyhop_cli
	@examples/run.sh build/default/manyhop

test: test-cpp test-python

test-cpp:
	@tools/setup test
	@tools/build default -DMANYHOP_TESTS=ON -DMANYHOP_FUZZ=ON -DMANYHOP_CUDA=$(MANYHOP_CUDA) $(architectures) $(cusparse)
	@ctest --preset default

# MANYHOP_TORCH=2.13.0 installs that torch beside it and tests its operators too.
test-python:
	@tools/setup run python
	@tools/python test

wheel:
	@tools/setup run python
	@tools/python wheel

bench:
	@tools/setup bench
	@tools/build bench
	@bench/run.sh build/bench

PYTHON ?= python3
peers:
	@tools/setup run
	@tools/build default $(first) -- manyhop_cli
	@$(PYTHON) bench/peers.py --program build/default/manyhop

asan: sanitizer_setup = clang
asan tsan:
	@tools/setup test $(sanitizer_setup)
	@tools/build $@
	@ctest --preset $@

nightly: neon
	@tools/setup test clang
	@tools/build asan
	@MANYHOP_MUTATIONS=1000000 ctest --preset asan -L fuzz --timeout 86400

clang:
	@tools/setup test clang
	@tools/build clang

neon:
	@tools/setup test neon
	@tools/build neon -- test_ops test_engine
	@ctest --preset neon

format:
	@tools/setup format
	@clang-format-16 -i $(sources)

format-check:
	@tools/setup format
	@clang-format-16 --dry-run -Werror $(sources)

tidy:
	@tools/setup test bench python clang tidy
	@tools/python tools
	@cmake --preset tidy >build/tidy.log
	@run-clang-tidy-16 -quiet -p build/tidy '$(TIDY)' 2>build/tidy.errors >build/tidy.log || (grep -E 'warning:|error:' build/tidy.log; exit 1)

install:
	@tools/setup run
	@tools/build default $(first)
	@cmake --install build/default --prefix $(PREFIX)

clean:
	@rm -rf build out
