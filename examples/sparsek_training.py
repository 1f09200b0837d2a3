"""Scores of keys for a pretrained model: fitted to full attention, then trained layer by layer, then on the model's own loss."""
import time

import numpy as np
import torch
import torch.nn.functional as F
from transformers import AttentionInterface

import manyhop as mh

SINKS = 4
VARIANTS = ("random", "fitted", "local", "trained")


def say(text):
    print(time.strftime("%H:%M:%S"), text, flush=True)


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


def pieces_of(paths, tokenizer, length, options, first=0):
    """Pieces of `length` tokens of the texts, in turn, without overlap, from number `first` on; ends the program where there are none."""
    texts = [torch.tensor(tokenizer(p.read_text(errors="replace")[options.skip:]).input_ids) for p in paths]
    found = []
    for i in range(max((len(t) // length for t in texts), default=0)):
        found += [t[i * length:(i + 1) * length] for t in texts if len(t) >= (i + 1) * length]
    if len(found) <= first:
        raise SystemExit(f"{' '.join(map(str, paths)) or '--train: no text'}: {len(found)} pieces of {length} tokens, {first + 1} or "
                         "more are wanted")
    return found[first:]


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
            texts = pieces_of(options.train, tokenizer, options.train_length, options, options.fit_texts)
            train(model, scores, texts, options, path)
        scores.load_state_dict(torch.load(path)["scores"])
        return
    if not path.exists():
        texts = pieces_of(options.train, tokenizer, options.train_length, options)[:options.fit_texts]
        scores, kept, layers = fit(model, texts, options)
        save(options.out / "fitted.pt", scores.state_dict())
        if not {"local", "trained"}.isdisjoint(options.variants):
            local(model, scores, kept, layers, options)
            save(options.out / "local.pt", scores.state_dict())
        scores = plug(model, "sparsek", budget, options)
    scores.load_state_dict(torch.load(path))
