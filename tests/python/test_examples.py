import json
import subprocess
import sys
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


def test_learn_goes_on_where_it_was_left(tmp_path):
    call = [sys.executable, str(EXAMPLES / "learn.py"), "listops", "--out", str(tmp_path), "--steps", "6", "--batch", "2", "--examples", "20",
            "--least", "5", "--length", "40", "--hidden", "16", "--layers", "1", "--heads", "2", "--evaluate", "3", "--save", "2",
            "--seeds", "0", "--arms", "sparse", "diffusion", "--test-examples", "10"]
    done = subprocess.run(call, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "undertrained" in done.stdout  # without full attention nothing can be compared
    again = subprocess.run(call, capture_output=True, text=True)
    table = lambda text: text[text.index("listops: accuracy"):]  # noqa: E731
    assert again.returncode == 0 and table(again.stdout) == table(done.stdout) and "step 6" not in again.stdout
    other = subprocess.run([*call, "--hops", "3"], capture_output=True, text=True)
    assert other.returncode != 0 and "other options" in other.stderr
    mean = subprocess.run([*call, "--pooling", "mean", "--arms", "full", "--out", str(tmp_path / "mean")], capture_output=True, text=True)
    assert mean.returncode == 0 and mean.stdout.splitlines()[-1].split()[0] == "full", mean.stderr


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
