import copy
import io
import pickle

import numpy as np
import pytest

import manyhop as mh

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
hf = mh.hf


@pytest.fixture(autouse=True)
def registered():
    hf.register()
    yield
    hf.register()


def llama(name="Llama", **given):
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(vocab_size=60, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
                                                    num_key_value_heads=2, intermediate_size=40, max_position_embeddings=128,
                                                    **given)
    return getattr(transformers, f"{name}ForCausalLM")(config).eval()


def ids(b=2, n=40):
    return torch.randint(2, 60, (b, n), generator=torch.Generator().manual_seed(1))


def plugged(model, *args, seed=0, **given):
    scores = hf.sparsek(model, *args, **given)
    torch.manual_seed(seed)
    for own in scores:
        torch.nn.init.normal_(own.weight)
    return scores


@torch.no_grad()
@pytest.mark.parametrize("name", ["Llama", "Mistral", "Qwen2"])
def test_enough_keys_are_the_model_itself(name):
    model = llama(name, **({"sliding_window": None} if name == "Mistral" else {}))
    want = model(ids()).logits
    plugged(model, 60, gate="values")
    assert (model(ids()).logits - want).abs().max() < 1e-5
    plugged(model, 3, cap=5, window=4, sinks=1)
    assert (model(ids()).logits - want).abs().max() > 1e-3
    hf.unplug(model)
    assert (model(ids()).logits - want).abs().max() < 1e-5
    assert not any("sparsek" in name for name in model.state_dict())


@torch.no_grad()
@pytest.mark.parametrize("layers", [None, [1]])
def test_decoding_is_the_whole_sequence(layers):
    model, x = llama(), ids()
    plugged(model, 3, cap=5, window=4, sinks=1, layers=layers)
    want = model(x, use_cache=False).logits
    cache = hf.SparseKCache(model)
    first = model(x[:, :12], past_key_values=cache).logits
    sizes, parts = [], [first]
    for part in x[:, 12:].split([1, 1, 20, 6], 1):
        parts.append(model(part, past_key_values=cache).logits)
        sizes.append(cache.bytes)
    assert (torch.cat(parts, 1) - want).abs().max() < 1e-5
    assert cache.get_seq_length() == 40
    if layers is None:
        assert len(set(sizes)) == 1
    positions, gates = cache.kept(1, item=1, score_head=1)
    assert len(positions) <= 5 and gates.sum() == pytest.approx(3) and (np.diff(positions) > 0).all()
    cache.reset()
    assert cache.get_seq_length() == 0 and (model(x, past_key_values=cache).logits - want).abs().max() < 1e-5


@torch.no_grad()
@pytest.mark.parametrize("layers", [None, [1]])
def test_caches_and_models_pickle(layers):
    model, x = llama(), ids()
    plugged(model, 3, cap=5, window=4, sinks=1, layers=layers)
    cache, file = hf.SparseKCache(model), io.BytesIO()
    model(x[:, :30], past_key_values=cache)
    torch.save(cache, file)
    file.seek(0)
    others = pickle.loads(pickle.dumps(cache)), copy.deepcopy(cache), torch.load(file, weights_only=False)
    want = model(x[:, 30:], past_key_values=cache).logits
    for other in others:
        assert other.get_seq_length() == 30
        assert torch.equal(pickle.loads(pickle.dumps(model))(x[:, 30:], past_key_values=other).logits, want)
        assert other.bytes == cache.bytes


@torch.no_grad()
@pytest.mark.parametrize("dtype, most", [(torch.float64, 1e-12), (torch.bfloat16, 0.05)])
def test_other_types(dtype, most):
    model, x = llama(), ids()
    plugged(model, 3, cap=5, window=4, sinks=1)
    model.to(dtype)
    want = model(x, use_cache=False).logits
    cache = hf.SparseKCache(model)
    got = torch.cat([model(part, past_key_values=cache).logits for part in x.split([12, 1, 27], 1)], 1)
    assert got.dtype == dtype and (got - want).norm() <= most * want.norm()


@torch.no_grad()
@pytest.mark.parametrize("dtype, most", [(torch.float16, 0.01), (torch.bfloat16, 0.05)])
@pytest.mark.parametrize("cast", [False, True])
def test_small_types_decode_by_cast_or_autocast(dtype, most, cast):
    model, x = llama(), ids()
    plugged(model, 3, cap=5, window=4, sinks=1)
    want = model(x, use_cache=False).logits
    if not cast:
        model.to(dtype)
    with torch.autocast("cpu", dtype=dtype, enabled=cast):
        whole = model(x, use_cache=False).logits
        cache = hf.SparseKCache(model)
        got = torch.cat([model(part, past_key_values=cache).logits for part in x.split([12, 1, 27], 1)], 1)
    assert got.dtype == whole.dtype == dtype
    assert (got - whole).norm() <= most * whole.norm()
    if cast:  # the scores, and so the keys that they choose, are those of the model in float32
        assert (got - want).norm() <= most * want.norm()


@torch.no_grad()
def test_a_running_cache_keeps_its_settings():
    model, x = llama(), ids()
    plugged(model, 3, cap=6, window=4, sinks=1)
    cache = hf.SparseKCache(model)
    model(x[:, :12], past_key_values=cache)
    for given, text in ((dict(window=5), "window: 5 where .* made with 4"), (dict(sinks=2), "sinks: 2 .* 1"),
                        (dict(keys=2), "keys: 2 .* 3"), (dict(cap=7), "cap: 7 .* 6"), (dict(gate="values"), "gate: values .* scores"),
                        (dict(temperature=2.0), "temperature: 2.0 .* 1.0")):
        hf.sparsek(model, **{**dict(keys=3, cap=6, window=4, sinks=1), **given})
        with pytest.raises(ValueError, match=text):
            model(x[:, 12:13], past_key_values=cache)
    hf.sparsek(model, 3, window=4, sinks=1)  # a cap of twice the keys is the same one
    want = model(x, use_cache=False).logits[:, 12:]
    assert (model(x[:, 12:], past_key_values=cache).logits - want).abs().max() < 1e-5


@torch.no_grad()
@pytest.mark.parametrize("given", [{}, {"num_beams": 3}, {"do_sample": True}])
def test_generate(given):
    model, x = llama(), ids(n=12)
    plugged(model, 3, cap=5, window=4, sinks=1)
    said = []
    for more in ({"past_key_values": hf.SparseKCache(model)}, {"use_cache": False}):
        torch.manual_seed(5)
        said.append(model.generate(x, max_new_tokens=10, pad_token_id=0, **{"do_sample": False, **given}, **more))
    assert torch.equal(*said)


def test_scores_alone_learn():
    model, x = llama(), ids()
    model.requires_grad_(False)
    scores = plugged(model, 3, cap=6, window=4, sinks=1)
    before = [p.detach().clone() for p in scores.parameters()]
    optimizer = torch.optim.Adam(scores.parameters(), 0.05)
    losses = []
    for _ in range(6):
        loss = model(x, labels=x, use_cache=False).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    assert losses[-1] < losses[0] and all((a != b).any() for a, b in zip(before, scores.parameters()))
    assert all(p.grad is None for n, p in model.named_parameters() if "sparsek" not in n)
    # Other settings keep what was learned; another number of scores begins anew.
    assert hf.sparsek(model, 4, cap=6)[0] is scores[0]
    assert hf.sparsek(model, 4, cap=6, score_heads=4)[0].weight.shape == (4, 32)
    assert not any(p.requires_grad for n, p in model.named_parameters() if "sparsek" not in n)


def test_gradient_checkpoints():
    model, x = llama(), ids()
    plugged(model, 3, cap=6, window=4)
    grads = []
    for on in (False, True):
        if on:
            model.gradient_checkpointing_enable()
        model.train().zero_grad()
        model(x, labels=x, use_cache=False).loss.backward()
        grads.append([p.grad.clone() for p in model.parameters()])
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*grads))


@torch.no_grad()
def test_padding_on_the_right_is_not_seen():
    model, x = llama(), ids()
    plugged(model, 3, cap=5, window=4)
    mask = torch.ones_like(x)
    mask[0, 25:] = 0
    got = model(x, attention_mask=mask, use_cache=False).logits
    assert (got[0, :25] - model(x[:1, :25], use_cache=False).logits[0]).abs().max() < 1e-5
    with pytest.raises(ValueError, match="right"):
        model(x, attention_mask=mask.flip(1), use_cache=False)
    cache = hf.SparseKCache(model)
    with pytest.raises(ValueError, match="padded batch"):
        model(x, attention_mask=mask, past_key_values=cache)
    assert torch.allclose(model(x, past_key_values=cache).logits, model(x, use_cache=False).logits, atol=1e-5)


def gradients(model, call, x):
    model.zero_grad()
    call(x, labels=x, use_cache=False).loss.backward()
    return [p.grad.clone() for p in model.parameters()]


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_models_compile_whole(backend):
    from torch._dynamo.testing import CompileCounterWithBackend

    torch._dynamo.reset()
    model, x, mask = llama(), ids(), torch.ones(2, 40, dtype=torch.int64)
    mask[0, 25:] = 0
    plugged(model, 3, cap=5, window=4, sinks=1)
    programs = CompileCounterWithBackend(backend)
    compiled = torch.compile(model, backend=programs, fullgraph=True)
    with torch.no_grad():
        for n in (40, 30, 20, 25, 39):
            assert (compiled(x[:, :n], use_cache=False).logits - model(x[:, :n], use_cache=False).logits).abs().max() < 1e-6
        assert programs.frame_count == 2  # one for the first length and one for all others
        got, want = (call(x, attention_mask=mask, use_cache=False).logits for call in (compiled, model))
        assert (got - want)[mask.bool()].abs().max() < 1e-6
        hf.sparsek(model, 2, cap=4, window=3)
        assert (compiled(x).logits - model(x).logits).abs().max() < 1e-6
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(gradients(model, compiled, x), gradients(model, model, x)))


@torch.no_grad()
def test_a_cache_lies_between_programs():
    from torch._dynamo.testing import CompileCounterWithBackend

    torch._dynamo.reset()
    model, x, counts, parts = llama(), ids(), [], []
    plugged(model, 3, cap=5, window=4, sinks=1)
    programs, cache = CompileCounterWithBackend("eager"), hf.SparseKCache(model)
    compiled = torch.compile(model, backend=programs)
    for part in x.split([12] + [1] * 28, 1):
        parts.append(compiled(part, past_key_values=cache).logits)
        counts.append(programs.frame_count)
    assert (torch.cat(parts, 1) - model(x, use_cache=False).logits).abs().max() < 1e-5
    assert counts[2] == counts[-1] > 0  # none is made for a token's place
    with pytest.raises(RuntimeError, match="SparseKCache is no part of a program: leave fullgraph=True away"):
        torch.compile(model, backend="eager", fullgraph=True)(x, past_key_values=hf.SparseKCache(model))


def test_attention_that_keeps_its_keywords_is_refused():
    model, x = llama(), ids()
    attention = model.model.layers[1].self_attn
    plain = type(attention).forward
    attention.forward = lambda hidden_states, position_embeddings, attention_mask, **_: plain(
        attention, hidden_states, position_embeddings, attention_mask)
    plugged(model, 3, window=4)
    with pytest.raises(TypeError, match="LlamaAttention keeps the keywords .* layer 1"):
        model(x, use_cache=False)


@torch.no_grad()
def test_programs_refuse_padding_on_the_left():
    """AOTAutograd leaves out what nothing looks at; this it must not."""
    model, mask = llama(), torch.ones(2, 40, dtype=torch.int64)
    plugged(model, 3, window=4)
    mask[0, :4] = 0
    torch._dynamo.reset()
    with pytest.raises(mh.Error, match="right"):
        torch.compile(model.model, backend="aot_eager")(ids(), attention_mask=mask, use_cache=False)
    with pytest.raises(mh.errors.BadValue, match="packed"):
        torch.compile(model.model, backend="aot_eager", fullgraph=True)(
            ids(), position_ids=torch.arange(40)[None].repeat(2, 1) % 10, use_cache=False)


def test_no_gradient_goes_through_a_cache():
    model, x = llama(), ids(n=12)
    plugged(model, 3, window=2)
    cache = hf.SparseKCache(model)
    with pytest.raises(ValueError, match="item: 0 of 0"):
        cache.kept(0)
    model(x[:, :8], past_key_values=cache)
    out = model(x[:, 8:], past_key_values=cache).logits
    with pytest.raises(ValueError, match="no gradient goes through a cache"):
        out.sum().backward()
    layer = mh.nn.SparseKAttention(24, 4, keys=3, window=2)
    with pytest.raises(ValueError, match="no gradient"):
        layer(torch.randn(1, 5, 24), []).sum().backward()
    positions, gates = cache.kept(1, 1)
    assert len(positions) == len(gates) > 0
    for where in ((2, 0), (0, 2), (-1, 0)):
        with pytest.raises(ValueError, match="layer|item"):
            cache.kept(*where)


@torch.no_grad()
def test_what_cannot_be():
    model, x = llama(), ids(n=12)
    with pytest.raises(ValueError, match="no SparseK layer"):
        hf.SparseKCache(model)
    plugged(model, 3, window=4)
    with pytest.raises(ValueError, match="SparseKCache"):
        model.generate(x, max_new_tokens=3, pad_token_id=0)
    cache = hf.SparseKCache(model)
    model(x, past_key_values=cache)
    with pytest.raises(ValueError, match="batch of 2"):
        model(x[:1, :1], past_key_values=cache)
    with pytest.raises(ValueError, match="taken back"):
        cache.crop(2)
    hf.sparsek(model, 3, cap=-1)
    with pytest.raises(ValueError, match="no cap"):
        model(x, past_key_values=hf.SparseKCache(model))
    for given, text in ((dict(layers=[7]), "layers: 7"), (dict(score_heads=3), "score_heads"), (dict(keys=-1), "keys"),
                        (dict(gate="both"), "gate"), (dict(keys=4, cap=2), "cap")):
        with pytest.raises(ValueError, match=text):
            hf.sparsek(model, **given)
    with pytest.raises(TypeError, match="no causal attention"):
        hf.sparsek(transformers.BertModel(transformers.BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1,
                                                                  num_attention_heads=1, intermediate_size=8)))
    sliding = llama("Mistral", sliding_window=6)
    hf.sparsek(sliding, 3)
    with pytest.raises(ValueError, match="sliding window"):
        sliding(x, use_cache=False)
