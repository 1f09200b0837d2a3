#!/usr/bin/env python3
"""Does diffusion help a sparse pattern to learn? Small Diffuser encoders, three arms from the same seeds.

    python examples/learn.py listops --out runs                       # 3 arms x 3 seeds; call it again to go on
    python examples/learn.py imdb --data DATA --out runs --seeds 0 1 2
    python examples/learn.py images --data DATA --out runs --seeds 0
    python examples/learn.py text --data DATA --out runs --seeds 0
    python examples/learn.py listops --out runs --table               # what is there, trained or not

Arms: `sparse` (the pattern, one hop), `diffusion` (the same pattern, --hops with --teleport), `full` (all pairs, one hop). All
have the same parameters, batches, steps and learning rates to choose from: each arm takes the rate that its first seed did
best with on the validation set. A run writes a checkpoint every --save steps and goes on from it; a finished one is not run
again. `listops` makes its own expressions (the grammar of Nangia and Bowman 2018 in the ranges of Long Range Arena, Tay et
al. 2021, between --least and --length tokens); the others read DATA/imdb/train.tsv and test_a.tsv (label, stars, id, text; the first
--length bytes), DATA/images/cifar10_gray_*.bin (label byte, 1024 grey bytes), DATA/text/tinyshakespeare.txt.

The table says `undertrained` where full attention stays below the task's sanity level: nothing follows from such a row.
Wants torch; tqdm where it imports. Larger: --layers 6 --hidden 512 --heads 8 --length 2048 and --pattern are the sizes of Long
Range Arena.
"""
import argparse
import json
import os
import random
import resource
import statistics
import time
from pathlib import Path

import torch
import torch.nn.functional as F

import manyhop as mh

PAD, CLS, FIRST = 1, 2, 3
OPERATORS = {"[MIN": min, "[MAX": max, "[MED": lambda x: int(statistics.median(x)),
             "[SM": lambda x: sum(x) % 10}
TOKENS = [str(i) for i in range(10)] + list(OPERATORS) + ["]"]
ARMS = ("sparse", "diffusion", "full")
SANITY = {"listops": 0.30, "imdb": 0.62, "images": 0.25, "text": 0.40}

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("task", choices=sorted(SANITY))
parser.add_argument("--data", type=Path, help="folder of the data sets")
parser.add_argument("--out", type=Path, default=Path("runs"))
parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
parser.add_argument("--rates", nargs="+", type=float, default=[1e-3])
parser.add_argument("--steps", type=int, default=3000)
parser.add_argument("--batch", type=int, default=16)
parser.add_argument("--length", type=int, help="tokens (default: 400, 1024, 1025, 512)")
parser.add_argument("--least", type=int, default=100, help="listops: tokens at least")
parser.add_argument("--examples", type=int, default=20000, help="listops: expressions to train on")
parser.add_argument("--layers", type=int, default=2)
parser.add_argument("--hidden", type=int, default=128)
parser.add_argument("--heads", type=int, default=4)
parser.add_argument("--dropout", type=float, default=0.1, help="of hidden states; 0 where what counts is a mean over many tokens")
parser.add_argument("--init", type=float, default=0.02, help="standard deviation of initial weights; hidden ** -0.5 learns means over many tokens sooner")
parser.add_argument("--pooling", choices=("first", "mean"), default="first",
                    help="what is classified: the first token's last state (padding is a token like others), or the mean of all but padding")
parser.add_argument("--normalise", action="store_true",
                    help="batch-normalise what is classified (means over all tokens always are): states that differ little from text to text are told apart sooner")
parser.add_argument("--pattern", default="window(8)|global(1)|random(4,seed=1)")
parser.add_argument("--hops", type=int, default=5)
parser.add_argument("--teleport", type=float, default=0.1)
parser.add_argument("--save", type=int, default=200)
parser.add_argument("--evaluate", type=int, default=500)
parser.add_argument("--test-examples", type=int, default=2000)
parser.add_argument("--table", action="store_true", help="print the table of finished runs and end")


def expression(rng, depth):
    """Tokens and value of a random expression: 2 to 10 arguments, a digit with probability 3/4, depth at most 10."""
    if depth <= 1 or rng.random() < 0.75:
        value = rng.randrange(10)
        return [str(value)], value
    name = rng.choice(list(OPERATORS))
    parts = [expression(rng, depth - 1) for _ in range(rng.randint(2, 10))]
    return [name, *(token for tokens, _ in parts for token in tokens), "]"], OPERATORS[name]([value for _, value in parts])


def listops(options, seed, count):
    rng = random.Random(seed)
    rows, labels = [], []
    while len(rows) < count:
        tokens, value = expression(rng, 10)
        if options.least <= len(tokens) < options.length:
            rows.append([CLS] + [FIRST + TOKENS.index(token) for token in tokens])
            labels.append(value)
    return rows, labels


def read_imdb(path, options):
    rows, labels = [], []
    with open(path, encoding="utf-8") as file:
        for line in file:
            label, _, _, text = line.rstrip("\n").split("\t", 3)
            if label not in ("0", "1"):  # a header
                continue
            rows.append([CLS] + [FIRST + byte for byte in text.encode()[: options.length - 1]])
            labels.append(int(label))
    return rows, labels


def read_images(path):
    data = Path(path).read_bytes()
    records = [data[i:i + 1025] for i in range(0, len(data), 1025)]
    return [[CLS] + [FIRST + byte for byte in record[1:]] for record in records], [record[0] for record in records]


def shuffled(rows, labels, seed):
    order = list(range(len(rows)))
    random.Random(seed).shuffle(order)
    return [rows[i] for i in order], [labels[i] for i in order]


def load(options):
    """(train, validation, test), each (rows, labels), then words and classes; text has no labels."""
    if options.task == "listops":
        sizes = (options.examples, 1000, options.test_examples)
        return *(listops(options, 1001 + i, size) for i, size in enumerate(sizes)), FIRST + len(TOKENS), 10
    if options.data is None:
        parser.error(f"{options.task} reads files: --data FOLDER")
    if options.task == "text":
        text = (options.data / "text" / "tinyshakespeare.txt").read_text()
        words = sorted(set(text))
        ids = [FIRST + words.index(c) for c in text]
        cut = [0, int(0.9 * len(ids)), int(0.95 * len(ids)), len(ids)]
        return *((ids[a:b], None) for a, b in zip(cut, cut[1:])), FIRST + len(words), FIRST + len(words)
    if options.task == "imdb":
        rows, labels = shuffled(*read_imdb(options.data / "imdb" / "train.tsv", options), 0)
        test = shuffled(*read_imdb(options.data / "imdb" / "test_a.tsv", options), 0)
        classes = 2
    else:
        rows, labels = shuffled(*read_images(options.data / "images" / "cifar10_gray_train10k.bin"), 0)
        test = shuffled(*read_images(options.data / "images" / "cifar10_gray_test2k.bin"), 0)
        classes = 10
    test = tuple(part[: options.test_examples] for part in test)
    return (rows[1000:], labels[1000:]), (rows[:1000], labels[:1000]), test, FIRST + 256, classes


def pad(rows, options):
    """[b, length], the length a multiple of a fifth of the longest: few lengths, so that few graphs and plans serve all batches."""
    part = -(-options.length // 5)
    length = min(options.length, -(-max(map(len, rows)) // part) * part)
    ids = torch.full((len(rows), length), PAD)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
    return ids


def by_length(data):
    """The same rows and labels, short ones first: rows of a batch are neighbours, so that little is padded."""
    rows, labels = data
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    return [rows[i] for i in order], [labels[i] for i in order]


def batch_of(options, data, rng):
    """Text: stretches from anywhere. Else a random choice out of neighbours in length, sixteen times as many as a batch takes."""
    rows, labels = data
    if options.task == "text":
        starts = [rng.randrange(len(rows) - options.length) for _ in range(options.batch)]
        ids = torch.tensor([rows[i:i + options.length] for i in starts])
        return ids, ids
    middle = rng.randrange(len(rows))
    near = range(max(0, middle - 8 * options.batch), min(len(rows), middle + 8 * options.batch + 1))
    chosen = [rng.choice(near) for _ in range(options.batch)]
    return pad([rows[i] for i in chosen], options), torch.tensor([labels[i] for i in chosen])


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
            found, want = model(ids).logits[:, :-1].argmax(-1), ids[:, 1:]
        else:
            ids, want = pad(rows[start:start + options.batch], options), torch.tensor(labels[start:start + options.batch])
            found = model(ids, **lengths_in(options, ids)).logits.argmax(-1)
        right += int((found == want).sum())
        count += want.numel()
    model.train()
    return right / count


def lengths_in(options, ids):
    """{"lengths": tokens of each row} where padding is left out."""
    return {} if options.task == "text" or options.pooling == "first" else {"lengths": ids.ne(PAD).sum(1).tolist()}


def build(options, arm, words, classes):
    pattern, hops, teleport = {"sparse": (options.pattern, 1, 0.0), "diffusion": (options.pattern, options.hops, options.teleport),
                               "full": ("full", 1, 0.0)}[arm]
    kind = mh.nn.DiffuserForCausalLM if options.task == "text" else mh.nn.DiffuserForSequenceClassification
    model = kind(mh.nn.DiffuserConfig(
        vocab_size=words, hidden_size=options.hidden, num_hidden_layers=options.layers, num_attention_heads=options.heads,
        intermediate_size=2 * options.hidden, max_position_embeddings=options.length + PAD + 1, num_labels=classes,
        pooling=options.pooling, initializer_range=options.init, hidden_dropout_prob=options.dropout, attention_probs_dropout_prob=0.0, pattern=pattern, hops=hops, teleport=teleport))
    if options.task != "text" and (options.pooling == "mean" or options.normalise):
        # Means over many tokens differ little from text to text: without this the head would have to grow first.
        model.classifier = torch.nn.Sequential(torch.nn.BatchNorm1d(options.hidden), model.classifier)
    return model


def progress(steps, begin, name):
    try:
        from tqdm import tqdm
    except ImportError:
        return range(begin, steps)
    return tqdm(range(begin, steps), initial=begin, total=steps, desc=name, mininterval=5)


def write(path, text):
    partial = path.with_suffix(".part")
    partial.write_text(text)
    os.replace(partial, path)


def train(options, arm, rate, seed, data):
    """One run, from where it was left; returns its record."""
    training, validation, test, words, classes = data
    name = f"{options.task}-{arm}-{rate:g}-{seed}"
    record, checkpoint = options.out / f"{name}.json", options.out / f"{name}.pt"
    given = {key: value for key, value in vars(options).items()
             if key not in ("out", "arms", "seeds", "rates", "data", "table", "save")}
    if record.exists():
        told = json.loads(record.read_text())
        if told["given"] != given:
            raise SystemExit(f"{record}: of other options; give another --out")
        return told
    torch.manual_seed(seed)
    model = build(options, arm, words, classes)
    optimiser = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.01)
    warmup = max(1, options.steps // 20)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda s: min((s + 1) / warmup, max(0.0, (options.steps - s) / max(1, options.steps - warmup))))
    rng, begin, curve, seconds = random.Random(seed), 0, [], []
    if checkpoint.exists():
        kept = torch.load(checkpoint, weights_only=False)
        if kept["given"] != given:
            raise SystemExit(f"{checkpoint}: of other options; give another --out")
        model.load_state_dict(kept["model"])
        optimiser.load_state_dict(kept["optimiser"])
        schedule.load_state_dict(kept["schedule"])
        torch.set_rng_state(kept["torch"])
        rng.setstate(kept["random"])
        begin, curve, seconds = kept["step"], kept["curve"], kept["seconds"]
    model.train()
    for step in progress(options.steps, begin, name):
        start = time.perf_counter()
        ids, labels = batch_of(options, training, rng)
        loss = model(ids, labels=labels, **lengths_in(options, ids)).loss
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        seconds.append(time.perf_counter() - start)
        done = step + 1
        if done % options.evaluate == 0 or done == options.steps:
            curve.append({"step": done, "loss": float(loss.detach()), "validation": accuracy(options, model, validation)})
            print(f"{name}: step {done}, loss {curve[-1]['loss']:.3f}, validation {curve[-1]['validation']:.3f}", flush=True)
        if done % options.save == 0 and done < options.steps:
            partial = checkpoint.with_suffix(".part")
            torch.save({"model": model.state_dict(), "optimiser": optimiser.state_dict(), "schedule": schedule.state_dict(),
                        "torch": torch.get_rng_state(), "random": rng.getstate(), "step": done, "curve": curve,
                        "seconds": seconds, "given": given}, partial)
            os.replace(partial, checkpoint)
    told = {"arm": arm, "rate": rate, "seed": seed, "given": given, "curve": curve, "test": accuracy(options, model, test),
            "seconds_a_step": statistics.median(seconds), "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            "parameters": sum(p.numel() for p in model.parameters())}
    write(record, json.dumps(told, indent=1))
    checkpoint.unlink(missing_ok=True)
    return told


def records(options):
    found = {}
    for path in sorted(options.out.glob(f"{options.task}-*.json")):
        told = json.loads(path.read_text())
        found[(told["arm"], told["rate"], told["seed"])] = told
    return found


def table(options):
    found = records(options)
    best = {}
    for arm in ARMS:
        first = [told for (a, _, seed), told in found.items() if a == arm and seed == options.seeds[0]]
        if first:
            best[arm] = max(first, key=lambda told: told["curve"][-1]["validation"])["rate"]
    rows = {arm: [found[key] for key in found if key[:2] == (arm, rate)] for arm, rate in best.items()}
    sane = "full" in rows and statistics.mean(told["test"] for told in rows["full"]) >= SANITY[options.task]
    print(f"{options.task}: accuracy on the test set{'' if sane else ' (undertrained: full attention is below its sanity level'}"
          f"{'' if sane else f' of {SANITY[options.task]:.2f}, or absent)'}")
    print(f"{'arm':10s} {'rate':>7s} {'seeds':>5s} {'mean':>7s} {'spread':>7s} {'steps':>6s} {'parameters':>10s} {'s/step':>7s} {'peak MiB':>9s}")
    for arm, told in rows.items():
        tests = [t["test"] for t in told]
        spread = statistics.stdev(tests) if len(tests) > 1 else float("nan")
        print(f"{arm:10s} {best[arm]:7g} {len(tests):5d} {statistics.mean(tests):7.4f} {spread:7.4f} {told[0]['given']['steps']:6d} "
              f"{told[0]['parameters']:10d} {statistics.median(t['seconds_a_step'] for t in told):7.3f} "
              f"{max(t['peak_mib'] for t in told):9.0f}")


def main():
    options = parser.parse_args()
    if options.length is None:
        options.length = {"listops": 400, "imdb": 1024, "images": 1025, "text": 512}[options.task]
    options.out.mkdir(parents=True, exist_ok=True)
    if not options.table:
        *parts, words, classes = load(options)
        data = (*(part if options.task == "text" else by_length(part) for part in parts), words, classes)
        for arm in options.arms:
            tried = [train(options, arm, rate, options.seeds[0], data) for rate in options.rates]
            best = max(tried, key=lambda told: told["curve"][-1]["validation"])["rate"]
            for seed in options.seeds[1:]:
                train(options, arm, best, seed, data)
    table(options)


if __name__ == "__main__":
    try:
        main()
    except (OSError, mh.errors.Error) as problem:  # files that are not there, options that no engine takes
        raise SystemExit(f"learn.py: {problem}") from None
