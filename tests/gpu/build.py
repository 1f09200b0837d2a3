"""Compiles the library with its CUDA backend, its device tests and the Python extension without CMake or installed packages.

    python3 tests/gpu/build.py --deps build/gpu --out build/gpu-out [--only test,extension]

--deps is what tests/gpu/pack made. Writes OUT/test_cuda and OUT/package/manyhop; prints one line for each command that failed, with
its messages, and ends with 1 then.
"""
import argparse
import concurrent.futures
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def sources(*patterns, without=()):
    found = sorted({p for pattern in patterns for p in ROOT.glob(pattern)})
    return [p for p in found if not any(part in p.relative_to(ROOT).as_posix() for part in without)]


def compile_all(commands, jobs):
    """[(command, object)] -> what failed."""
    failed = []

    def run(command):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            failed.append(f"{' '.join(map(str, command))}\n{done.stderr[-3000:]}")

    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        list(pool.map(run, commands))
    return failed


def cusparse_folder(cuda):
    """Where cusparse.h is: in the toolkit, or in the wheels that torch brings along."""
    folders = [cuda / "include", *(Path(path) / "nvidia" for path in sys.path)]
    for folder in folders:
        for header in [folder / "cusparse.h", *folder.glob("*/include/cusparse.h")]:
            if header.is_file():
                return header.parent
    return None


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--deps", type=Path, default=ROOT / "build" / "gpu")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "gpu-out")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--only", default="test,extension")
    options = parser.parse_args()
    deps, out = options.deps.resolve(), options.out.resolve()
    wanted = options.only.split(",")
    include = out / "include" / "manyhop"
    shutil.rmtree(out / "include", ignore_errors=True)
    include.mkdir(parents=True)
    (out / "objects").mkdir(exist_ok=True)
    for folder in ("graphs", "ops", "engine"):
        (include / folder).symlink_to(ROOT / folder)
    (include / "manyhop.hpp").symlink_to(ROOT / "engine" / "manyhop.hpp")
    cuda = Path(os.environ.get("CUDA_HOME", "/usr/local/cuda"))
    version = re.search(r"^project\(Manyhop VERSION ([0-9.]+)", (ROOT / "CMakeLists.txt").read_text(), re.M)[1]
    own = ["-I", out / "include", "-I", ROOT]
    outside = ["-isystem", deps / "include", "-isystem", deps / "include" / "eigen3"]
    cxx = ["g++", "-std=c++20", "-O2", "-fPIC", "-ffp-contract=off", *own, *outside, f'-DMANYHOP_VERSION="{version}"',
           "-DHWY_DISABLED_TARGETS=(HWY_SVE|HWY_SVE2|HWY_SVE_256|HWY_SVE2_128|HWY_RVV)", "-DHWY_SHARED_DEFINE", "-DFMT_SHARED"]
    nvcc = ["nvcc", "-std=c++20", "-O3", "--expt-relaxed-constexpr", "-diag-suppress", "554", "-Xcompiler=-fPIC", *own,
            "-gencode", "arch=compute_80,code=sm_80", "-gencode", "arch=compute_90,code=[sm_90,compute_90]"]
    header = cusparse_folder(cuda)
    if header is not None:
        nvcc += ["-DMANYHOP_HAS_CUSPARSE", "-isystem", header]
    print(f"cusparse.h: {header or 'not found, hops have own kernels alone'}")
    glue = [*cxx, "-isystem", deps / "nanobind_include", "-isystem", sysconfig.get_path("include"), "-DNDEBUG",
            "-fvisibility=hidden"]
    objects = {"lib": [], "test": [], "glue": []}
    commands = []

    def add(kind, command, source):
        name = re.sub(r"[/.]", "_", os.path.relpath(source, ROOT)) + ".o"
        target = out / "objects" / f"{kind}_{name}"
        objects[kind].append(target)
        commands.append([*command, "-c", source, "-o", target])

    for source in sources("ops/cuda/*.cu"):  # the longest first
        add("lib", nvcc, source)
    for source in sources("graphs/**/*.cpp", "ops/**/*.cpp", "engine/**/*.cpp",
                          without=("engine/cli/", "engine/python/", "not_compiled.cpp")):
        add("lib", cxx, source)
    if "test" in wanted:
        for source in [*sources("tests/ops/cuda/*.cpp", "tests/ops/test_device_layout.cpp"), ROOT / "tests/support/main.cpp"]:
            add("test", [*cxx, "-DMANYHOP_TEST_ON_DEVICE", "-isystem", cuda / "include"], source)
    if "extension" in wanted:
        for source in [*sources("engine/python/*.cpp"), deps / "nanobind_src" / "nb_combined.cpp"]:
            add("glue", glue, source)
    failed = compile_all(commands, options.jobs)
    libraries = sorted((deps / "lib").glob("*.so*"))
    link = [*libraries, f"-Wl,-rpath,{deps / 'lib'}", "-L", cuda / "lib64", "-lcudart_static", "-lpthread", "-ldl", "-lrt"]
    final = []
    if "test" in wanted:
        final.append(["g++", "-o", out / "test_cuda", *objects["test"], *objects["lib"], *link])
    if "extension" in wanted:
        package = out / "package" / "manyhop"
        package.mkdir(parents=True, exist_ok=True)
        for file in sources("engine/python/manyhop/*.py"):
            shutil.copy(file, package)
        final.append(["g++", "-shared", "-o", package / f"_core{sysconfig.get_config_var('EXT_SUFFIX')}", *objects["glue"],
                      *objects["lib"], *link])
    if not failed:
        failed = compile_all(final, options.jobs)
    print("\n".join(failed))
    print(f"{len(commands)} files compiled, {len(failed)} commands failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
