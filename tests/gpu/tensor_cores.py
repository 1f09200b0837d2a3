"""Counts the tensor cores' instructions in the kernels that are written for them.

    python3 tests/gpu/tensor_cores.py --objects build/gpu-work/objects    # machine code, by cuobjdump
    python3 tests/gpu/tensor_cores.py                                     # PTX, by nvcc alone

HMMA or another MMA in machine code; where there is no cuobjdump with its nvdisasm (PATH, CUDA_HOME, NVIDIA's wheels) mma.sync or
wgmma in PTX, which nvcc makes for 8.0. An instance of a kernel of KERNELS without one fails, and so does a kernel that is not
found. Ends with 'not run' and 0 where there is neither tool.
"""
import argparse
import collections
import concurrent.futures
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
KERNELS = {"tile_scores": "run_weights.cu", "tile_hop": "run_hop.cu", "tile_gradient": "run_gradient.cu",
           "panel_lse": "sparsek_forward.cu", "panel_hop": "sparsek_forward.cu", "panel_hop_back": "sparsek_backward.cu",
           "panel_rows_back": "sparsek_backward.cu", "panel_keys_back": "sparsek_backward.cu"}


def find(name):
    folders = [Path(os.environ.get("CUDA_HOME", "/usr/local/cuda")) / "bin"]
    folders += [folder for path in sys.path for folder in Path(path).glob("nvidia/*/bin")]
    return shutil.which(name) or next((str(folder / name) for folder in folders if (folder / name).is_file()), None)


def output(*command):
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"FAILED: {' '.join(map(str, command))}\n{done.stderr[-2000:]}")
    return done.stdout


def count(text, begin, instruction):
    """Instructions of each function: {mangled name: how many}."""
    found, name = collections.Counter(), None
    for line in text.splitlines():
        if match := re.search(begin, line):
            name = match[1]
            found[name] += 0
        elif name and re.search(instruction, line):
            found[name] += 1
    return found


def in_objects(cuobjdump, objects):
    found = collections.Counter()
    for file in objects:
        for name, many in count(output(cuobjdump, "-sass", file), r"Function : (\S+)", r"\b\w*MMA\.").items():
            found[name] = found.get(name, 0) + many
    return found


def in_ptx(nvcc):
    found = collections.Counter()
    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / "manyhop").mkdir()
        for folder in ("graphs", "ops", "engine"):
            (Path(scratch) / "manyhop" / folder).symlink_to(ROOT / folder)

        def ptx(file):
            return output(nvcc, "-std=c++20", "--expt-relaxed-constexpr", "-w", "-ptx", "-arch=compute_80", "-I", scratch, "-I", ROOT,
                          ROOT / "ops" / "cuda" / file, "-o", "/dev/stdout")

        with concurrent.futures.ThreadPoolExecutor() as pool:
            for text in pool.map(ptx, dict.fromkeys(KERNELS.values())):
                found.update(count(text, r"\.entry (\w+)", r"\b(mma\.sync|wgmma)"))
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objects", type=Path, help="a folder of objects, or one file")
    options = parser.parse_args()
    cuobjdump, nvdisasm, nvcc = (find(name) for name in ("cuobjdump", "nvdisasm", "nvcc"))
    objects = []
    if options.objects:
        every = [options.objects] if options.objects.is_file() else sorted(options.objects.rglob("*.o"))
        objects = [file for file in every
                   if any(source.replace(".", "_") in file.name.replace(".", "_") for source in KERNELS.values())]
    if cuobjdump and nvdisasm and objects:
        os.environ["PATH"] += os.pathsep + os.path.dirname(nvdisasm)
        how, found = "machine code", in_objects(cuobjdump, objects)
    elif nvcc:
        how, found = "PTX for 8.0", in_ptx(nvcc)
    else:
        print("not run: neither cuobjdump nor nvcc")
        return 0
    failed = 0
    for kernel in KERNELS:
        # Mangled, so that the length of a name stands before it.
        counts = [many for name, many in found.items() if f"{len(kernel)}{kernel}" in name]
        good = bool(counts) and all(counts)
        failed += not good
        print(f"{'passed' if good else 'FAILED'} {kernel}: {len(counts)} instances, {min(counts, default=0)} to "
              f"{max(counts, default=0)} each")
    print(f"{len(KERNELS) - failed} passed, {failed} failed: tensor cores in {how}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
