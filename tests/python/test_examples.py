import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
EXAMPLES = Path(__file__).parents[2] / "examples"


def two_circles(folder, n=120):
    """Two classes that cite mostly their own; words that tell them apart a little."""
    rng = np.random.default_rng(0)
    labels = np.arange(n) % 2
    edges = {(min(u, v), max(u, v)) for u in range(n) for v in rng.integers(0, n, 4)
             if u != v and (labels[u] == labels[v] or rng.random() < 0.1)}
    folder.mkdir()
    (folder / "edges.txt").write_text("".join(f"{u} {v}\n" for u, v in sorted(edges)))
    (folder / "labels.txt").write_text("".join(f"{c}\n" for c in labels))
    entries = [(i + 1, j + 1) for i in range(n) for j in range(10) if rng.random() < (0.35 if (j < 5) == (labels[i] == 0) else 0.25)]
    (folder / "features.mtx").write_text(f"%%MatrixMarket matrix coordinate pattern general\n{n} 10 {len(entries)}\n" +
                                         "".join(f"{i} {j}\n" for i, j in entries))
    (folder / "masks.txt").write_text("".join("".join(rng.choice(list("ttvs"), 10)) + "\n" for _ in range(n)))
    return folder


def nodes(*options, cwd):
    return subprocess.run([sys.executable, str(EXAMPLES / "nodes.py"), *map(str, options)], cwd=cwd, capture_output=True, text=True)


def test_nodes(tmp_path):
    out = tmp_path / "nodes.json"
    methods = "labels,mlp,sgc,appnp,pprgo,gdc"
    call = [two_circles(tmp_path / "circles"), "--methods", methods, "--epochs", 25, "--out", out, "--seeds"]
    first = nodes(*call, 1, cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    kept = json.loads(out.read_text())
    again = nodes(*call, 2, cwd=tmp_path)
    found = json.loads(out.read_text())["circles"]
    assert list(found) == methods.split(",") and all(len(runs) == 2 for runs in found.values())
    assert all(found[m]["0"] == kept["circles"][m]["0"] for m in found), "finished runs are not run again"
    assert np.mean([found["labels"][s][0] for s in "01"]) > 0.8 < np.mean([found["appnp"][s][0] for s in "01"])
    assert "circles" in again.stdout.splitlines()[-1]


def test_nodes_without_features(tmp_path):
    done = nodes(EXAMPLES / "cora", "--seeds", 1, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].split()[0] == "cora"
    assert nodes(EXAMPLES / "cora", "--methods", "gcn", cwd=tmp_path).returncode == 2


TINY = ["--steps", "6", "--batch", "16", "--examples", "20", "--least", "5", "--length", "40", "--hidden", "16", "--layers", "1", "--heads", "2",
        "--evaluate", "6", "--save", "2", "--seeds", "0", "--test-examples", "10"]


def learn(*options, task="listops", **more):
    return subprocess.run([sys.executable, str(EXAMPLES / "learn.py"), task, *TINY, *map(str, options)], capture_output=True, text=True, **more)


def learned(folder):
    """{(arm, pattern, hops, teleport): record} of the one seed there."""
    found = [json.loads(path.read_text()) for path in folder.glob("*.json")]
    return {(told["arm"], *(told["given"][key] for key in ("pattern", "hops", "teleport"))): told for told in found}


def test_learn_does_what_is_done_once(tmp_path):
    call = ["--out", tmp_path, "--arms", "sparse", "diffusion"]
    done = learn(*call)
    assert done.returncode == 0, done.stderr
    assert "undertrained" in done.stdout  # without full attention nothing can be compared
    again = learn(*call)
    table = lambda text: text[text.index("listops: accuracy"):]  # noqa: E731
    assert again.returncode == 0 and table(again.stdout) == table(done.stdout) and "step 6" not in again.stdout
    other = learn(*call, "--dropout", 0.2)
    assert other.returncode != 0 and "other options (dropout 0.1, not 0.2)" in other.stderr and len(other.stderr.splitlines()) == 1
    mean = learn(*call, "--pooling", "mean", "--arms", "full", "--out", tmp_path / "mean")
    assert mean.returncode == 0 and mean.stdout.splitlines()[-1].split()[0] == "full", mean.stderr


def test_learn_goes_on_where_it_was_stopped(tmp_path):
    call = ["--arms", "diffusion", "--steps", 150, "--evaluate", 150, "--save", 1, "--batch", 2]
    running = subprocess.Popen([sys.executable, str(EXAMPLES / "learn.py"), "listops", *TINY, *map(str, call), "--out", str(tmp_path / "a")],
                               stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True)
    while running.poll() is None and not list(tmp_path.glob("a/*.pt")):
        time.sleep(0.01)
    os.killpg(running.pid, signal.SIGINT)  # as Ctrl-C does: the run and the one who waits for it
    told = running.communicate(timeout=60)[1]
    assert running.returncode == 130 and "learn.py: stopped" in told and "Traceback" not in told, told
    assert list(tmp_path.glob("a/*.pt")) and not list(tmp_path.glob("a/*.json"))
    for folder in "ab":  # b at one go
        done = learn(*call, "--out", tmp_path / folder)
        assert done.returncode == 0, done.stderr
    stopped, whole = (next(iter(learned(tmp_path / folder).values())) for folder in "ab")
    assert stopped["curve"] == whole["curve"] and stopped["test"] == whole["test"]


def test_learn_sweeps_and_draws(tmp_path):
    pytest.importorskip("matplotlib")
    drawing = tmp_path / "curves.svg"
    done = learn("--out", tmp_path, "--arms", "diffusion", "--hops", 1, 2, "--teleport", 0, 0.25, "--pattern", "window(2)", "--curves", drawing)
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()[-4:]]
    assert [(row[0], row[1], row[2], row[-1]) for row in rows] == [
        ("sparse", "1", "0", "window(2)"), ("diffusion", "1", "0.25", "window(2)"), ("diffusion", "2", "0", "window(2)"),
        ("diffusion", "2", "0.25", "window(2)")]
    assert "<svg" in drawing.read_text() and "not to be compared" not in done.stdout
    drawing.unlink()
    (tmp_path / "matplotlib.py").write_text("raise ImportError")
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    without = learn("--out", tmp_path, "--table", "--curves", drawing, env={**os.environ, "PYTHONPATH": path})
    assert without.returncode == 0 and "not drawn" in without.stdout.splitlines()[-1] and not drawing.exists(), without.stderr
    more = learn("--out", tmp_path, "--arms", "full", "--steps", 2, "--rates", 1e-3, 2e-3)
    assert "not to be compared: arms differ in steps, rates" in more.stdout, more.stderr


def test_learn_tells_the_peak_of_each_run(tmp_path):
    done = learn("--out", tmp_path, "--arms", "diffusion", "--pattern", "full", "window(1)", "--hops", 2, "--teleport", 0, "--length", 400, "--batch", 24,
                 "--steps", 2)
    assert done.returncode == 0, done.stderr
    peak = {key[1]: told["peak_mib"] for key, told in learned(tmp_path).items()}
    assert peak["window(1)"] < peak["full"] - 20, "the larger run came first"


def test_learn_long_listops(tmp_path):
    (tmp_path / "listops").mkdir()
    for part in ("train", "val", "test"):
        (tmp_path / "listops" / f"long_{part}.tsv").write_text(
            "Source\tTarget\n" + "[MAX 2 9 [MIN 4 7 ] 0 ]\t9\n[SM 2 3 5 5 5 5 ]\t5\n" * 8 + f"[MED {'1 ' * 60}]\t1\n")
    call = ["--data", tmp_path, "--arms", "sparse", "--out", tmp_path / "out"]
    done = learn(*call, task="listops-long")
    assert done.returncode == 0, done.stderr
    assert learn("--out", tmp_path / "out", "--table").stdout.splitlines()[-1].split()[0] == "arm"  # no run of another task
    assert learn(task="listops-long").returncode == 2
    short = learn(*call, "--least", 70, "--length", 90, "--out", tmp_path / "short", task="listops-long")
    assert short.returncode == 1 and "no expression of 70 to 89 tokens" in short.stderr.splitlines()[-1]


def test_learn_says_which_device_is_absent(tmp_path):
    import torch

    import manyhop as mh

    if torch.cuda.is_available() and "cuda" in mh._core.available_backends():
        pytest.skip("it is not absent")
    done = learn("--device", "cuda", "--out", tmp_path)
    assert done.returncode == 1 and done.stderr.startswith("learn.py: --device cuda: ") and len(done.stderr.splitlines()) == 1


def tiny_llama(folder):
    """A language model that knows nothing, with a tokenizer of bytes."""
    import torch
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.LlamaConfig(vocab_size=256, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
                                      intermediate_size=40, max_position_embeddings=512)
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def test_sparsek_lm_goes_on_where_it_was_left(tmp_path):
    pytest.importorskip("transformers")
    texts = []
    for name in ("train", "test"):
        texts.append(tmp_path / f"{name}.txt")
        texts[-1].write_text("".join(chr(97 + i) for i in np.random.default_rng(len(texts)).integers(0, 26, 1500)))
    call = [sys.executable, "-W", "ignore", str(EXAMPLES / "sparsek_lm.py"), "smollm2", "--model", str(tiny_llama(tmp_path / "model")),
            "--train", str(texts[0]), "--test", str(texts[1]), "--skip", "0", "--out", str(tmp_path / "out"), "--length", "256",
            "--budgets", "32", "--train-length", "128", "--fit-texts", "2", "--epochs", "2", "--steps", "2", "--generate", "4",
            "--threads", "1"]
    done = subprocess.run(call, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    arms = {"full", "window/32", "sinks/32", *(f"sparsek/32/{v}" for v in ("random", "fitted", "local", "trained"))}
    assert {key for key in results if key[0] != "_"} == arms and results["_exact"]["difference"] < 1e-4
    assert "trained: step 2 of 2" in done.stdout and done.stdout.count("MiB of keys and values") == 6
    again = subprocess.run([*call[:-4], "--threads", "1"], capture_output=True, text=True)
    table = lambda text: text[text.index("loss per token by length"):]  # noqa: E731
    assert again.returncode == 0 and table(again.stdout) == table(done.stdout) and "step" not in again.stdout
    other = subprocess.run([*call, "--share", "0.25"], capture_output=True, text=True)
    assert other.returncode != 0 and "other options" in other.stderr


@pytest.mark.parametrize("call", [["nodes.py", "nowhere"], ["learn.py", "imdb", "--data", "nowhere"],
                                  ["sparsek_lm.py", "stories", "--stories", "nowhere"]])
def test_a_missing_file_is_one_sentence(call, tmp_path):
    if call[0] == "sparsek_lm.py":
        pytest.importorskip("transformers")
    done = subprocess.run([sys.executable, str(EXAMPLES / call[0]), *call[1:]], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith(f"{call[0]}: ") and "nowhere" in done.stderr, done.stderr
    assert len(done.stderr.splitlines()) == 1
