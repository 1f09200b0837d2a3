"""What a machine with a GPU runs as one command, as far as it goes without one."""
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
GPU = ROOT / "tests" / "gpu"
BLIND = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHON": sys.executable}  # where there is a GPU, too

pytestmark = pytest.mark.skipif(not (GPU / "run").is_file(), reason="no source tree beside the tests")


@pytest.fixture(scope="module")
def build():
    spec = importlib.util.spec_from_file_location("gpu_build", GPU / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_scripts_are_well_formed():
    for name in ("pack", "run"):
        done = subprocess.run(["bash", "-n", GPU / name], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    for file in [*GPU.glob("*.py"), ROOT / "bench" / "gpu.py"]:
        compile(file.read_text(), file, "exec")


@pytest.mark.skipif(not shutil.which("g++") or not importlib.util.find_spec("nanobind"), reason="pack wants g++ and nanobind")
def test_pack_fits(tmp_path):
    done = subprocess.run([GPU / "pack", tmp_path / "packed"], env=BLIND, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    packed = tmp_path / "packed"
    assert sum(file.stat().st_size for file in packed.rglob("*") if file.is_file()) < 64 << 20
    assert (packed / "COMMIT").read_text().strip()
    for file in ("include/doctest/doctest.h", "include/hwy/highway.h", "include/eigen3/Eigen/Core", "nanobind_src/nb_combined.cpp"):
        assert (packed / file).is_file(), file
    assert any((packed / "lib").glob("libtbb.so*"))


def test_run_without_a_gpu(tmp_path):
    done = subprocess.run([GPU / "run", "--dry", tmp_path / "packed", tmp_path / "out"], env=BLIND, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    if importlib.util.find_spec("torch"):
        assert "skipped: no GPU (" in (tmp_path / "out" / "log.txt").read_text()  # with how many
    assert (told["device"], told["passed"], told["failed"], told["status"]) == ("none", 0, 0, 0)
    lines = done.stdout.splitlines()
    for name in ("tests", "memcheck", "hops by cuSPARSE"):
        assert any(line.startswith(name) and "skipped: no GPU" in line for line in lines), name
    assert told["skipped"] == sum(line[20:].startswith(" skipped: no GPU") for line in set(lines))
    assert {file.name for file in (tmp_path / "out").iterdir()} <= {"summary.txt", "log.txt", "bench.txt"}


def test_a_gpu_that_cannot_be_used_is_a_failure():
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("it can")
    for script in (GPU / "check.py", ROOT / "bench" / "gpu.py"):
        done = subprocess.run([sys.executable, script], env={**BLIND, "MANYHOP_EXPECT_GPU": "1"}, capture_output=True, text=True)
        assert done.returncode == 1 and "FAILED: a GPU is here" in done.stdout, done.stderr


def test_check_itself(tmp_path):
    """The dense formula and the comparisons, on the CPU."""
    pytest.importorskip("torch")
    done = subprocess.run([sys.executable, GPU / "check.py", "--device", "cpu", "--only",
                           "rectangle,causal_selection,memory_limit"], env=BLIND, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.splitlines()[-1].endswith(" 0 failed, 0 not run"), done.stdout


@pytest.mark.skipif(not shutil.which("g++"), reason="no g++")
def test_build_compiles_what_has_changed(build, tmp_path):
    source, header, target = tmp_path / "a.cpp", tmp_path / "a.hpp", tmp_path / "a.o"
    header.write_text("int f();\n")
    source.write_text('#include "a.hpp"\nint f() { return 1; }\n')
    assert build.compile_one(["g++"], source, target) is None
    made = target.stat().st_mtime_ns
    assert build.compile_one(["g++"], source, target) is None and target.stat().st_mtime_ns == made
    header.write_text("long f();\n")
    assert "error" in build.compile_one(["g++"], source, target) and not target.exists()


def test_build_knows_architectures(build, monkeypatch):
    told = {"nvidia-smi": "9.0\n9.0\n", "nvcc": "sm_80\nsm_90\nsm_100\n"}
    monkeypatch.setattr(build, "answer", lambda name, *_: told.get(str(name), ""))
    assert build.architectures(Path("/nowhere")) == [90]
    assert build.code_for([90, 121]) == ["-gencode", "arch=compute_90,code=sm_90", "-gencode", "arch=compute_100,code=compute_100"]
    told.clear()
    assert build.architectures(Path("/nowhere")) == [80, 90]
