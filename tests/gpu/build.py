"""Compiles the library with its CUDA backend, its device tests and the Python extension without CMake or installed packages.

    python3 tests/gpu/build.py --deps build/gpu --out build/gpu-work [--only test,extension] [--architectures 80,90]

--deps is what tests/gpu/pack made. Machine code is for the GPU that is there, for 8.0 and 9.0 where none is. Writes
OUT/test_cuda and OUT/package/manyhop; objects whose command and files are those of the last run are not compiled again.

What cannot be compiled is left out and told, and the rest is linked all the same: a test without its file, test_cuda without
a part of the library (calls of that part end it). Ends with 1 then. Without Python.h or numpy there is no extension, and
OUT/extension.txt says why.
"""
import argparse
import concurrent.futures
import hashlib
import importlib.util
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


def digest(command, files):
    """Of a command and the contents of its files; '' where one is not there."""
    found = hashlib.sha256(repr([str(word) for word in command]).encode())
    try:
        for file in files:
            found.update(Path(file).read_bytes())
    except OSError:
        return ""
    return found.hexdigest()


def compile_one(command, source, target):
    """What the compiler says where it fails, else None."""
    kept, rule = target.with_suffix(".key"), target.with_suffix(".d")
    command = [*command, "-MD", "-MF", rule, "-c", source, "-o", target]

    def key():
        files = rule.read_text().split(":", 1)[1].replace("\\\n", " ").split() if rule.is_file() else ["/"]
        return digest(command, files)

    if target.is_file() and kept.is_file() and kept.read_text() == key() != "":
        return None
    for old in (target, kept, rule):
        old.unlink(missing_ok=True)
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode == 0:
        kept.write_text(key())
        return None
    return f"{' '.join(map(str, command))}\n{done.stderr[-3000:]}"


def cusparse_folder(cuda):
    """Where cusparse.h is: in the toolkit, or in the wheels that torch brings along."""
    folders = [cuda / "include", *(Path(path) / "nvidia" for path in sys.path)]
    for folder in folders:
        for header in [folder / "cusparse.h", *folder.glob("*/include/cusparse.h")]:
            if header.is_file():
                return header.parent
    return None


def answer(*command):
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


def architectures(cuda):
    """Of the GPUs here, by the driver's tool or nvcc's own; 80 and 90 where there is none that would do."""
    asked = answer("nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader").replace(".", "")
    asked = asked or answer(cuda / "bin" / "__nvcc_device_query").replace(",", "\n")
    found = sorted({int(word) for word in asked.split() if word.isdigit() and int(word) >= 80})
    return found or [80, 90]


def code_for(wanted):
    """Options of nvcc: machine code; what the compiler does not know yet is made from PTX by the driver."""
    known = {int(word) for word in re.findall(r"\d+", answer("nvcc", "--list-gpu-code"))}
    options = []
    for number in wanted:
        base = number if number in known or not known else max(k for k in known if k <= number)
        code = f"sm_{base}" if base == number else f"compute_{base}"
        options += ["-gencode", f"arch=compute_{base},code={code}"]
    return options


def why_no_extension():
    header = Path(sysconfig.get_path("include")) / "Python.h"
    if not header.is_file():
        return f"no {header}"
    return "" if importlib.util.find_spec("numpy") else f"no numpy for {sys.executable}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--deps", type=Path, default=ROOT / "build" / "gpu")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "gpu-work")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--only", default="test,extension")
    parser.add_argument("--architectures", default="", help="80,90; the present GPU's without it")
    options = parser.parse_args()
    deps, out = options.deps.resolve(), options.out.resolve()
    wanted = options.only.split(",")
    include = out / "include" / "manyhop"
    # What an earlier build made is no result of one that is cut off.
    for old in ("include", "package"):
        shutil.rmtree(out / old, ignore_errors=True)
    (out / "test_cuda").unlink(missing_ok=True)
    include.mkdir(parents=True)
    (out / "objects").mkdir(exist_ok=True)
    for folder in ("graphs", "ops", "engine"):
        (include / folder).symlink_to(ROOT / folder)
    (include / "manyhop.hpp").symlink_to(ROOT / "engine" / "manyhop.hpp")
    reason = why_no_extension() if "extension" in wanted else ""
    if reason:
        print(f"no Python extension: {reason}")
        wanted.remove("extension")
    (out / "extension.txt").write_text(reason)
    cuda = Path(os.environ.get("CUDA_HOME", "/usr/local/cuda"))
    version = re.search(r"^project\(Manyhop VERSION ([0-9.]+)", (ROOT / "CMakeLists.txt").read_text(), re.M)[1]
    own = ["-I", out / "include", "-I", ROOT]
    outside = ["-isystem", deps / "include", "-isystem", deps / "include" / "eigen3"]
    cxx = ["g++", "-std=c++20", "-O2", "-fPIC", "-ffp-contract=off", *own, *outside, f'-DMANYHOP_VERSION="{version}"',
           "-DHWY_DISABLED_TARGETS=(HWY_SVE|HWY_SVE2|HWY_SVE_256|HWY_SVE2_128|HWY_RVV)", "-DHWY_SHARED_DEFINE", "-DFMT_SHARED"]
    given = [int(word) for word in options.architectures.split(",") if word]
    code = code_for(given or architectures(cuda))
    # -lineinfo: compute-sanitizer and profilers name lines then; the machine code is the same.
    nvcc = ["nvcc", "-std=c++20", "-O3", "-lineinfo", "--expt-relaxed-constexpr", "-diag-suppress", "554,20050", "-Xcompiler=-fPIC",
            *own, *code]
    print("machine code:", " ".join(code[1::2]))
    header = cusparse_folder(cuda)
    if header is not None:
        nvcc += ["-DMANYHOP_HAS_CUSPARSE", "-isystem", header]
    print(f"cusparse.h: {header or 'not found, hops have own kernels alone'}")
    (out / "cusparse.txt").write_text(str(header or ""))
    glue = [*cxx, "-isystem", deps / "nanobind_include", "-isystem", sysconfig.get_path("include"), "-DNDEBUG",
            "-fvisibility=hidden"]
    jobs = {"lib": [], "test": [], "glue": []}  # (command, source, object)

    def add(kind, command, source):
        name = re.sub(r"[/.]", "_", os.path.relpath(source, ROOT)) + ".o"
        jobs[kind].append((command, source, out / "objects" / f"{kind}_{name}"))

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
    everything = [job for kind in jobs.values() for job in kind]
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        told = list(pool.map(lambda job: compile_one(*job), everything))
    failed = [text for text in told if text]
    objects = {kind: [target for *_, target in some if target.is_file()] for kind, some in jobs.items()}
    whole = {kind: len(objects[kind]) == len(some) for kind, some in jobs.items()}

    libraries = sorted((deps / "lib").glob("*.so*"))
    link = [*libraries, f"-Wl,-rpath,{deps / 'lib'}", "-L", cuda / "lib64", "-lcudart_static", "-lpthread", "-ldl", "-lrt"]
    final = {}
    if "test" in wanted:
        lax = [] if whole["lib"] else ["-no-pie", "-Wl,--unresolved-symbols=ignore-in-object-files"]
        final[out / "test_cuda"] = ["g++", *objects["test"], *objects["lib"], *lax, *link]
    if "extension" in wanted and whole["glue"] and whole["lib"]:
        package = out / "package" / "manyhop"
        package.mkdir(parents=True, exist_ok=True)
        for folder in (".", "nn"):
            (package / folder).mkdir(exist_ok=True)
            for file in sources(f"engine/python/manyhop/{folder}/*.py"):
                shutil.copy(file, package / folder)
        final[package / f"_core{sysconfig.get_config_var('EXT_SUFFIX')}"] = ["g++", "-shared", *objects["glue"], *objects["lib"],
                                                                            *link]
    elif "extension" in wanted:
        (out / "extension.txt").write_text("a file of it was not compiled")
    for target, command in final.items():
        done = subprocess.run([*command, "-o", target], capture_output=True, text=True)
        if done.returncode != 0:
            failed.append(f"link of {target}\n{done.stderr[-3000:]}")
    if failed:
        print("\n".join(failed))
        for text in failed:  # again, where a reader of the end finds them
            print("failed:", re.sub(r".* -c (\S+) -o .*", r"\1", text.split("\n", 1)[0]))
    made = [target.name for target in final if target.is_file()]
    print(f"{len(everything)} files, {len(failed)} commands failed; made {', '.join(made) or 'nothing'}"
          f"{'; no extension: ' + reason if reason else ''}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
