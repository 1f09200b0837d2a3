#!/usr/bin/env python3
"""Does diffusion help a sparse pattern to learn? Small Diffuser encoders, three arms from the same seeds.

    python examples/learn.py listops --out runs                       # 3 arms x 3 seeds; call it again to go on
    python examples/learn.py imdb --data DATA --out runs --seeds 0 1 2
    python examples/learn.py images --data DATA --out runs --seeds 0
    python examples/learn.py text --data DATA --out runs --seeds 0
    python examples/learn.py listops-long --data DATA --out runs --device cuda
    python examples/learn.py listops --out runs --arms diffusion --hops 1 2 5 --teleport 0 0.1   # an ablation: every combination
    python examples/learn.py listops --out runs --table --curves learning.svg                    # what is there, trained or not

Arms: `sparse` (the pattern, one hop), `diffusion` (the same pattern, --hops with --teleport), `full` (all pairs, one hop). Several
--pattern, --hops or --teleport make an arm of each combination; one hop without teleport is `sparse`. All
have the same parameters, batches, steps and learning rates to choose from: each arm takes the rate that its first seed did
best with on the validation set. A run writes a checkpoint every --save steps and goes on from it; a finished one is not run
again. Each run is a process of its own, whose peak of memory the table tells; on a GPU it is what torch allocated there, without the
engine's own scratch memory. Ctrl-C stops all; the same call goes on.

`listops` makes its own expressions (the grammar of Nangia and Bowman 2018 in the ranges of Long Range Arena, Tay et
al. 2021, between --least and --length tokens); the others read DATA/listops/long_{train,val,test}.tsv (a header, then expression, tab, value;
500 to 2000 tokens, longer ones than --length left out), DATA/imdb/train.tsv and test_a.tsv (label, stars, id, text; the first
--length bytes), DATA/images/cifar10_gray_*.bin (label byte, 1024 grey bytes), DATA/text/tinyshakespeare.txt.

The table says `undertrained` where full attention stays below the task's sanity level: nothing follows from such a row.
Wants torch; tqdm where it imports, matplotlib for --curves. The sizes of Long Range Arena, for a GPU (the base settings of its code, the
reviews' length that of the paper; which --rates suit this script's AdamW is for a search):

    listops-long --layers 6 --hidden 512 --heads 8 --inner 2048 --batch 32 --steps 5000      # length 2000
    imdb --length 4096 --layers 4 --hidden 256 --heads 4 --inner 1024 --batch 32 --steps 20000
    images --layers 1 --hidden 32 --heads 1 --inner 64 --batch 256 --steps 35000             # length 1025
"""
import argparse
import functools
import itertools
import json
import multiprocessing
import os
import random
import re
import resource
import statistics
import sys
import time
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F

import manyhop as mh
from learn_data import PAD, batch_of, load, pad

ARMS = ("sparse", "diffusion", "full")
SANITY = {"listops": 0.30, "listops-long": 0.30, "imdb": 0.62, "images": 0.25, "text": 0.40}

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("task", choices=sorted(SANITY))
parser.add_argument("--data", type=Path, help="folder of the data sets")
parser.add_argument("--out", type=Path, default=Path("runs"))
parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
parser.add_argument("--rates", nargs="+", type=float, default=[1e-3])
parser.add_argument("--steps", type=int, default=3000)
parser.add_argument("--batch", type=int, default=16)
parser.add_argument("--length", type=int, help="tokens (default: listops 400, listops-long 2000, imdb 1024, images 1025, text 512)")
parser.add_argument("--least", type=int, default=100, help="listops: tokens at least")
parser.add_argument("--examples", type=int, default=20000, help="listops and listops-long: expressions to train on, at most")
parser.add_argument("--layers", type=int, default=2)
parser.add_argument("--hidden", type=int, default=128)
parser.add_argument("--heads", type=int, default=4)
parser.add_argument("--inner", type=int, help="width between the two layers of a feed-forward block (default: twice --hidden)")
parser.add_argument("--dropout", type=float, default=0.1, help="of hidden states; 0 where what counts is a mean over many tokens")
parser.add_argument("--init", type=float, default=0.02, help="standard deviation of initial weights; hidden ** -0.5 learns means over many tokens sooner")
parser.add_argument("--pooling", choices=("first", "mean"), default="first",
                    help="what is classified: the first token's last state (padding is a token like others), or the mean of all but padding")
parser.add_argument("--normalise", action="store_true",
                    help="batch-normalise what is classified (means over all tokens always are): states that differ little from text to text are told apart sooner")
parser.add_argument("--pattern", nargs="+", default=["window(8)|global(1)|random(4,seed=1)"])
parser.add_argument("--hops", nargs="+", type=int, default=[5])
parser.add_argument("--teleport", nargs="+", type=float, default=[0.1])
parser.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda where torch sees a GPU and manyhop is built for it, else cpu")
parser.add_argument("--save", type=int, default=200)
parser.add_argument("--evaluate", type=int, default=500)
parser.add_argument("--test-examples", type=int, default=2000)
parser.add_argument("--table", action="store_true", help="print the table of finished runs and end")
parser.add_argument("--curves", type=Path, metavar="FILE.svg", help="draw validation accuracy against steps of the finished runs")


class Setting(NamedTuple):
    """What an arm is."""
    pattern: str
    hops: int
    teleport: float

    @property
    def arm(self):
        return "full" if self == FULL else "sparse" if self[1:] == (1, 0.0) else "diffusion"


FULL = Setting("full", 1, 0.0)


def settings_of(options):
    """Each once, in the order in which they run."""
    found = []
    if "sparse" in options.arms:
        found += [Setting(pattern, 1, 0.0) for pattern in options.pattern]
    if "diffusion" in options.arms:
        found += [Setting(*each) for each in itertools.product(options.pattern, options.hops, options.teleport)]
    if "full" in options.arms:
        found.append(FULL)
    return list(dict.fromkeys(found))


@torch.no_grad()
def accuracy(options, model, data):
    """Share of right classes; text: of right next characters."""
    model.eval()
    rows, labels = data
    right = count = 0
    for start in range(0, len(rows), options.batch if options.task != "text" else options.batch * options.length):
        if options.task == "text":
            stretch = rows[start:start + options.batch * options.length]
            ids = torch.tensor(stretch[: len(stretch) // options.length * options.length]).reshape(-1, options.length)
            if not len(ids):
                break
            found, want = model(ids.to(options.device)).logits[:, :-1].argmax(-1), ids[:, 1:]
        else:
            ids, want = pad(rows[start:start + options.batch], options), torch.tensor(labels[start:start + options.batch])
            found = model(ids.to(options.device), **lengths_in(options, ids)).logits.argmax(-1)
        right += int((found.cpu() == want).sum())
        count += want.numel()
    model.train()
    return right / count


def lengths_in(options, ids):
    """{"lengths": tokens of each row} where padding is left out."""
    return {} if options.task == "text" or options.pooling == "first" else {"lengths": ids.ne(PAD).sum(1).tolist()}


def build(options, setting, words, classes):
    kind = mh.nn.DiffuserForCausalLM if options.task == "text" else mh.nn.DiffuserForSequenceClassification
    model = kind(mh.nn.DiffuserConfig(
        vocab_size=words, hidden_size=options.hidden, num_hidden_layers=options.layers, num_attention_heads=options.heads,
        intermediate_size=options.inner or 2 * options.hidden, max_position_embeddings=options.length + PAD + 1, num_labels=classes,
        pooling=options.pooling, initializer_range=options.init, hidden_dropout_prob=options.dropout, attention_probs_dropout_prob=0.0, **setting._asdict()))
    if options.task != "text" and (options.pooling == "mean" or options.normalise):
        # Means over many tokens differ little from text to text: without this the head would have to grow first.
        model.classifier = torch.nn.Sequential(torch.nn.BatchNorm1d(options.hidden), model.classifier)
    return model.to(options.device)  # made on the CPU: the same weights everywhere


def progress(steps, begin, name):
    try:
        from tqdm import tqdm
    except ImportError:
        return range(begin, steps)
    return tqdm(range(begin, steps), initial=begin, total=steps, desc=name, mininterval=5)


def write(path, text):
    partial = path.with_name(f"{path.name}.part")
    partial.write_text(text)
    os.replace(partial, path)


def peak_mib(options):
    """Of this process, resident; on a GPU, of what torch had allocated there."""
    if options.device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    try:  # not ru_maxrss, which begins with what the process that started this one had
        return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 1024)


def wait(options):
    """For what is queued on the GPU, before a look at the clock."""
    if options.device == "cuda":
        torch.cuda.synchronize()


def file_of(options, setting, rate, seed):
    """Without its ending."""
    pattern = re.sub("[^a-z0-9]+", "-", setting.pattern.lower()).strip("-")[:80]
    return options.out / f"{options.task}-{setting.arm}-{pattern}-{setting.hops}-{setting.teleport:g}-{rate:g}-{seed}"


def given_of(options, setting):
    """What a run depends on, beside rate and seed."""
    apart = ("out", "arms", "seeds", "rates", "data", "table", "curves", "save")
    return {key: value for key, value in vars(options).items() if key not in apart} | setting._asdict()


def refuse_others(path, told, given):
    other = [f"{key} {told.get(key)!r}, not {given.get(key)!r}" for key in {**told, **given} if told.get(key) != given.get(key)]
    if other:
        raise SystemExit(f"learn.py: {path}: of other options ({'; '.join(other)}); give another --out")


def train(options, data, setting, rate, seed):
    """One run, from where it was left; writes its record."""
    training, validation, test, words, classes = data
    name = file_of(options, setting, rate, seed).name
    record, checkpoint = (options.out / f"{name}.{ending}" for ending in ("json", "pt"))
    given = given_of(options, setting)
    torch.manual_seed(seed)
    model = build(options, setting, words, classes)
    optimiser = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.01)
    warmup = max(1, options.steps // 20)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda s: min((s + 1) / warmup, max(0.0, (options.steps - s) / max(1, options.steps - warmup))))
    rng, begin, curve, seconds, peak = random.Random(seed), 0, [], [], 0.0
    if checkpoint.exists():
        kept = torch.load(checkpoint, map_location="cpu", weights_only=False)  # what is loaded moves to where it belongs
        refuse_others(checkpoint, kept["given"], given)
        model.load_state_dict(kept["model"])
        optimiser.load_state_dict(kept["optimiser"])
        schedule.load_state_dict(kept["schedule"])
        torch.set_rng_state(kept["torch"])
        if options.device == "cuda":
            torch.cuda.set_rng_state(kept["cuda"])
        rng.setstate(kept["random"])
        begin, curve, seconds, peak = kept["step"], kept["curve"], kept["seconds"], kept["peak"]
    model.train()
    parent = multiprocessing.parent_process()
    for step in progress(options.steps, begin, name):
        if not parent.is_alive():
            raise SystemExit("learn.py: left alone; the same call goes on from the last checkpoint")
        start = time.perf_counter()
        ids, labels = batch_of(options, training, rng)
        loss = model(ids.to(options.device), labels=labels.to(options.device), **lengths_in(options, ids)).loss
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        wait(options)
        seconds.append(time.perf_counter() - start)
        done = step + 1
        if done % options.evaluate == 0 or done == options.steps:
            curve.append({"step": done, "loss": float(loss.detach()), "validation": accuracy(options, model, validation)})
            print(f"{name}: step {done}, loss {curve[-1]['loss']:.3f}, validation {curve[-1]['validation']:.3f}", flush=True)
        if done % options.save == 0 and done < options.steps:
            partial = checkpoint.with_name(f"{name}.part")
            torch.save({"model": model.state_dict(), "optimiser": optimiser.state_dict(), "schedule": schedule.state_dict(),
                        "torch": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state() if options.device == "cuda" else None,
                        "random": rng.getstate(), "step": done, "curve": curve, "seconds": seconds,
                        "peak": max(peak, peak_mib(options)), "given": given}, partial)
            os.replace(partial, checkpoint)
    told = {"arm": setting.arm, "rate": rate, "seed": seed, "given": given, "curve": curve, "test": accuracy(options, model, test),
            "seconds_a_step": statistics.median(seconds), "peak_mib": max(peak, peak_mib(options)),
            "parameters": sum(p.numel() for p in model.parameters())}
    write(record, json.dumps(told, indent=1))
    checkpoint.unlink(missing_ok=True)


def train_or_say(*run):
    try:
        train(*run)
    except KeyboardInterrupt:  # who waits for it says so
        raise SystemExit(130) from None
    except PROBLEMS as problem:
        raise SystemExit(f"learn.py: {problem}") from None


def record_of(options, data, setting, rate, seed):
    """Of a run, which is done now if it was not before, in a process of its own; data() is what load() gives."""
    record = file_of(options, setting, rate, seed)
    record = record.with_name(f"{record.name}.json")
    if not record.exists():
        process = multiprocessing.get_context("spawn").Process(target=train_or_say, args=(options, data(), setting, rate, seed))
        process.start()
        try:
            process.join()
        finally:
            process.join(5)  # Ctrl-C has reached it too
            process.terminate()
            process.join()
        if process.exitcode:
            raise SystemExit(abs(process.exitcode))
    told = json.loads(record.read_text())
    refuse_others(record, told["given"], given_of(options, setting))
    return told


def records(options):
    """{(setting, rate, seed): record}, sparse and full attention around the arms with diffusion."""
    found = {}
    for path in sorted(options.out.glob(f"{options.task}-*.json")):
        told = json.loads(path.read_text())
        if told["given"]["task"] == options.task:
            found[Setting(*(told["given"][key] for key in Setting._fields)), told["rate"], told["seed"]] = told
    return dict(sorted(found.items(), key=lambda item: (ARMS.index(item[0][0].arm), item[0])))


def chosen(options, found):
    """{setting: records of its seeds} at the rate that the first seed did best with."""
    best = {}
    for setting in dict.fromkeys(key[0] for key in found):
        first = [told for (s, _, seed), told in found.items() if s == setting and seed == options.seeds[0]]
        if first:
            best[setting] = max(first, key=lambda told: told["curve"][-1]["validation"])["rate"]
    return {setting: [found[key] for key in found if key[:2] == (setting, rate)] for setting, rate in best.items()}


def unequal(options, found, rows):
    """Names of what arms that are compared must have alike and have not."""
    told = list(itertools.chain(*rows.values()))
    names = [key for key in told[0]["given"] if key not in Setting._fields and any(t["given"].get(key) != told[0]["given"][key] for t in told)] if told else []
    if len({t["parameters"] for t in told}) > 1:
        names.append("parameters")
    if len({frozenset(rate for s, rate, seed in found if s == setting and seed == options.seeds[0]) for setting in rows}) > 1:
        names.append("rates")
    return names


def table(options, found, rows):
    """rows: what chosen() made of found."""
    doubts = []
    if FULL not in rows or statistics.mean(told["test"] for told in rows[FULL]) < SANITY[options.task]:
        doubts.append(f"undertrained: full attention is below its sanity level of {SANITY[options.task]:.2f}, or absent")
    if names := unequal(options, found, rows):
        doubts.append(f"not to be compared: arms differ in {', '.join(names)}")
    print(f"{options.task}: accuracy on the test set" + (f" ({'; '.join(doubts)})" if doubts else ""))
    print(f"{'arm':10s} {'hops':>4s} {'teleport':>8s} {'rate':>7s} {'seeds':>5s} {'mean':>7s} {'spread':>7s} {'steps':>6s} {'parameters':>10s} {'s/step':>7s} "
          f"{'peak MiB':>9s} pattern")
    for setting, told in rows.items():
        tests = [t["test"] for t in told]
        spread = statistics.stdev(tests) if len(tests) > 1 else float("nan")
        print(f"{setting.arm:10s} {setting.hops:4d} {setting.teleport:8g} {told[0]['rate']:7g} {len(tests):5d} {statistics.mean(tests):7.4f} {spread:7.4f} "
              f"{told[0]['given']['steps']:6d} {told[0]['parameters']:10d} {statistics.median(t['seconds_a_step'] for t in told):7.3f} "
              f"{max(t['peak_mib'] for t in told):9.0f} {setting.pattern}")


def draw(options, rows):
    """A line for each arm, the mean of its seeds, in a band from the worst to the best of them."""
    try:
        from matplotlib import colormaps
        from matplotlib.figure import Figure
    except ImportError:
        print(f"{options.curves}: not drawn, matplotlib does not import")
        return
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot(xlabel="step", ylabel="accuracy on the validation set", title=options.task)
    for i, (setting, told) in enumerate(rows.items()):
        at = {}
        for point in itertools.chain(*(t["curve"] for t in told)):
            at.setdefault(point["step"], []).append(point["validation"])
        label = {"full": "full", "sparse": f"sparse: {setting.pattern}",
                 "diffusion": f"diffusion: {setting.hops} hops, teleport {setting.teleport:g}, {setting.pattern}"}[setting.arm]
        colour = colormaps["tab20"].colors[i % 20]
        axes.plot(list(at), [statistics.mean(v) for v in at.values()], ".-", color=colour, label=label)
        axes.fill_between(list(at), [min(v) for v in at.values()], [max(v) for v in at.values()], color=colour, alpha=0.2, linewidth=0)
    if rows:
        axes.legend(fontsize="x-small")
    try:
        figure.savefig(options.curves)
    except ValueError as problem:  # of an ending that names no format
        raise SystemExit(f"learn.py: {options.curves}: {problem}") from None


def device_of(options):
    """The device asked for, or the best there is."""
    lacks = []
    if not torch.cuda.is_available():
        lacks.append("torch sees no GPU")
    if "cuda" not in mh._core.available_backends():
        lacks.append("manyhop is built without its CUDA backend")
    if options.device == "cuda" and lacks:
        raise SystemExit(f"learn.py: --device cuda: {' and '.join(lacks)}")
    return options.device or ("cpu" if lacks else "cuda")


def main():
    options = parser.parse_args()
    if options.task != "listops" and options.data is None and not options.table:
        parser.error(f"{options.task} reads files: --data FOLDER")
    if options.length is None:
        options.length = {"listops": 400, "listops-long": 2000, "imdb": 1024, "images": 1025, "text": 512}[options.task]
    options.out.mkdir(parents=True, exist_ok=True)
    if not options.table:
        options.device = device_of(options)
        data = functools.cache(lambda: load(options))
        for setting in settings_of(options):
            tried = [record_of(options, data, setting, rate, options.seeds[0]) for rate in options.rates]
            best = max(tried, key=lambda told: told["curve"][-1]["validation"])["rate"]
            for seed in options.seeds[1:]:
                record_of(options, data, setting, best, seed)
    found = records(options)
    rows = chosen(options, found)
    table(options, found, rows)
    if options.curves:
        draw(options, rows)


PROBLEMS = (OSError, mh.errors.Error)  # files that are not there, options that no engine takes

if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.stderr.write("learn.py: stopped; the same call goes on from the last checkpoint\n")
        raise SystemExit(130) from None
    except PROBLEMS as problem:
        raise SystemExit(f"learn.py: {problem}") from None
