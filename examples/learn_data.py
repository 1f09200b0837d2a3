"""Data sets of learn.py: expressions of its own, reviews, images and text as rows of numbers, and batches of them."""
import random
import statistics
from pathlib import Path

import torch

PAD, CLS, FIRST = 1, 2, 3
OPERATORS = {"[MIN": min, "[MAX": max, "[MED": lambda x: int(statistics.median(x)),
             "[SM": lambda x: sum(x) % 10}
TOKENS = [str(i) for i in range(10)] + list(OPERATORS) + ["]"]


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


def read_listops(path, options, count):
    rows, labels = [], []
    with open(path, encoding="utf-8") as file:
        next(file)
        for line in file:
            source, value = line.rstrip("\n").split("\t")
            tokens = source.split()
            if options.least <= len(tokens) < options.length and len(rows) < count:
                rows.append([CLS] + [FIRST + TOKENS.index(token) for token in tokens])
                labels.append(int(value))
    if not rows:
        raise SystemExit(f"learn.py: {path}: no expression of {options.least} to {options.length - 1} tokens; see --length")
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
    """(train, validation, test), each (rows, labels), then words and classes; text has no labels, else short rows come first."""
    *parts, words, classes = read(options)
    return *(parts if options.task == "text" else map(by_length, parts)), words, classes


def read(options):
    """The same in the order of the files."""
    if options.task == "listops":
        sizes = (options.examples, 1000, options.test_examples)
        return *(listops(options, 1001 + i, size) for i, size in enumerate(sizes)), FIRST + len(TOKENS), 10
    if options.task == "listops-long":
        sizes = (options.examples, 1000, options.test_examples)
        return *(read_listops(options.data / "listops" / f"long_{part}.tsv", options, size)
                 for part, size in zip(("train", "val", "test"), sizes)), FIRST + len(TOKENS), 10
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
