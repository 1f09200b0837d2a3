import json

import numpy as np
import pytest

import manyhop as mh

torch = pytest.importorskip("torch")
nn = mh.nn

SMALL = dict(vocab_size=40, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48,
             max_position_embeddings=80, pattern="window(3)|global(1)|random(2)", hops=4, teleport=0.2)


@pytest.fixture(autouse=True)
def one_thread():
    """Tensors of these sizes are done before a second thread has woken up."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def ids(b, n, seed=0):
    return torch.randint(2, 40, (b, n), generator=torch.Generator().manual_seed(seed))


def messages(block, x, graph, hops, teleport):
    """DiffuserSelfAttention as message passing over arcs, in double: edge scores, softmax into each receiver, sums of messages."""
    double = lambda layer: torch.nn.functional.linear(x.double(), layer.weight.double(), layer.bias.double())  # noqa: E731
    b, n, width = x.shape
    heads = block.num_heads
    q, k, v = (double(layer).view(b, n, heads, -1) for layer in (block.query, block.key, block.value))
    senders, receivers = (torch.from_numpy(part) for part in graph.to_edge_index())
    scores = (q[:, receivers] * k[:, senders]).sum(-1) / (width // heads) ** 0.5  # [b, m, h]
    a = torch.exp(scores - scores.max())
    total = torch.zeros(b, n, heads, dtype=torch.float64).index_add_(1, receivers, a)
    a = a / total[:, receivers]
    z = v
    for _ in range(hops):
        z = (1 - teleport) * torch.zeros_like(v).index_add_(1, receivers, a[..., None] * z[:, senders]) + teleport * v
    return z.reshape(b, n, width)


@pytest.mark.parametrize("n", [512, 1024])
def test_attention_is_the_message_passing_of_the_paper(n):
    torch.manual_seed(1)
    block = nn.DiffuserAttention(48, 3, "diffuser_ref(4096)").eval()
    x = torch.randn(1, n, 48)
    with torch.no_grad():
        got = block.self(x)
        want = messages(block.self, x, mh.graph("diffuser_ref(4096)", n), 5, 0.1)
        assert (got - want).norm() / want.norm() < 1e-5
        whole = torch.nn.functional.layer_norm(block.output.dense(want.float()) + x, (48,), block.output.LayerNorm.weight,
                                               block.output.LayerNorm.bias, 1e-5)
        assert (block(x) - whole).abs().max() < 1e-5


@pytest.mark.parametrize("n", [512, 1024])
def test_attention_is_what_dgl_computes(n):
    """The same weights in DGL's own message passing, in float32 as the module."""
    dgl = pytest.importorskip("dgl")
    torch.manual_seed(2)
    block = nn.DiffuserSelfAttention(96, 3, "diffuser_ref(4096)", hops=5, teleport=0.1).eval()
    x = torch.randn(1, n, 96)
    graph = dgl.graph(tuple(torch.from_numpy(part) for part in mh.graph("diffuser_ref(4096)", n).to_edge_index()), num_nodes=n)
    with torch.no_grad():
        q, k, v = (layer(x[0]).view(n, 3, 32) for layer in (block.query, block.key, block.value))
        a = dgl.ops.edge_softmax(graph, dgl.ops.u_dot_v(graph, k, q) / 32 ** 0.5)  # an edge sends its source's key and value
        z = v
        for _ in range(5):
            z = 0.9 * dgl.ops.u_mul_e_sum(graph, z, a) + 0.1 * v
        assert (block(x)[0] - z.view(n, 96)).abs().max() < 1e-5


def test_names_are_those_of_the_reference_code():
    model = nn.DiffuserForSequenceClassification(**SMALL)
    layer = [f"{part}.{kind}" for part in
             ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense",
              "attention.output.LayerNorm", "intermediate.dense", "output.dense", "output.LayerNorm") for kind in ("weight", "bias")]
    want = {f"diffuser.encoder.layer.{i}.{name}" for i in range(2) for name in layer}
    want |= {f"diffuser.embeddings.{name}" for name in
             ("word_embeddings.weight", "position_embeddings.weight", "token_type_embeddings.weight", "LayerNorm.weight",
              "LayerNorm.bias")}
    head = {f"classifier.{part}.{kind}" for part in ("dense", "out_proj") for kind in ("weight", "bias")}
    assert set(model.state_dict()) == want | head
    lm = {"lm_head.bias", "lm_head.dense.weight", "lm_head.dense.bias", "lm_head.layer_norm.weight", "lm_head.layer_norm.bias",
          "lm_head.decoder.weight", "lm_head.decoder.bias"}
    for kind in (nn.DiffuserForMaskedLM, nn.DiffuserForCausalLM):
        assert set(kind(**SMALL).state_dict()) == want | lm
    pooler = nn.DiffuserModel(nn.DiffuserConfig(**SMALL), add_pooling_layer=True).state_dict()
    assert {"pooler.dense.weight", "pooler.dense.bias"} <= set(pooler)


def test_a_configuration_of_the_reference_code(tmp_path):
    given = {"attention_mode": "diffuser", "attention_window": [64] * 12, "hidden_size": 768, "num_hidden_layers": 12,
             "num_attention_heads": 12, "vocab_size": 50265, "max_position_embeddings": 4098, "num_rand": 64, "num_glob": 64}
    (tmp_path / "config.json").write_text(json.dumps(given))
    config = nn.DiffuserConfig.from_json(tmp_path / "config.json", num_labels=5)
    assert (config.pattern, config.hops, config.teleport, config.num_labels) == ("diffuser_ref(4096)", 5, 0.1, 5)
    for other in ({"num_rand": 32}, {"num_glob": 0}, {"attention_window": [64] * 11 + [128]}):
        with pytest.raises(mh.errors.BadValue, match="diffuser_ref has 64 of each"):
            nn.DiffuserConfig.from_dict({**given, **other})
        assert nn.DiffuserConfig.from_dict({**given, **other}, pattern="full").pattern == "full"


def test_checkpoints_of_the_reference_code():
    """They may hold the positions as a buffer, and a pooler that its heads do not use."""
    for kind, name in ((nn.DiffuserForSequenceClassification, "diffuser."), (nn.DiffuserForCausalLM, "diffuser."),
                       (nn.DiffuserModel, "")):
        model = kind(**SMALL)
        held = {key: torch.full_like(x, 0.5) for key, x in model.state_dict().items()}
        extra = {f"{name}embeddings.position_ids": torch.arange(SMALL["max_position_embeddings"])[None],
                 f"{name}pooler.dense.weight": torch.zeros(8, 8), f"{name}pooler.dense.bias": torch.zeros(8)}
        given = {**held, **extra}
        model.load_state_dict(given)
        assert all(bool((x == 0.5).all()) for x in model.state_dict().values()) and set(given) == {*held, *extra}
        with pytest.raises(RuntimeError, match="Unexpected key"):
            model.load_state_dict({**held, f"{name}embeddings.other": torch.zeros(1)})
    pooled = nn.DiffuserModel(**SMALL, add_pooling_layer=True)
    with pytest.raises(RuntimeError, match="pooler.dense.weight"):
        pooled.load_state_dict(nn.DiffuserModel(**SMALL).state_dict())


def test_full_pattern_with_one_hop_is_a_transformer():
    torch.manual_seed(0)
    config = nn.DiffuserConfig(**{**SMALL, "pattern": "full", "hops": 1, "teleport": 0.0})
    layer = nn.DiffuserLayer(config).eval()
    peer = torch.nn.TransformerEncoderLayer(32, 4, 48, activation="gelu", batch_first=True).eval()
    peer.self_attn.in_proj_weight.data = torch.cat([p.weight.data for p in (layer.attention.self.query, layer.attention.self.key,
                                                                            layer.attention.self.value)])
    peer.self_attn.in_proj_bias.data = torch.cat([p.bias.data for p in (layer.attention.self.query, layer.attention.self.key,
                                                                        layer.attention.self.value)])
    for mine, other in ((layer.attention.output.dense, peer.self_attn.out_proj), (layer.attention.output.LayerNorm, peer.norm1),
                        (layer.intermediate.dense, peer.linear1), (layer.output.dense, peer.linear2), (layer.output.LayerNorm, peer.norm2)):
        other.load_state_dict(mine.state_dict())
    x = torch.randn(2, 19, 32, requires_grad=True)
    got, want = layer(x), peer(x)
    assert (got - want).abs().max() < 1e-5
    toward = torch.randn_like(want)
    grads = [torch.autograd.grad((out * toward).sum(), x)[0] for out in (got, want)]
    assert (grads[0] - grads[1]).norm() < 1e-5 * grads[1].norm()


def test_padding_changes_nothing():
    # A pattern that is the same on a prefix: padded or not, a sequence sees the same edges.
    model = nn.DiffuserForSequenceClassification(**{**SMALL, "pattern": "window(3)|global(1)", "pooling": "mean"}).eval()
    short, long = ids(1, 20), ids(1, 33, 1)
    padded = torch.ones(2, 33, dtype=torch.int64)
    padded[0, :20], padded[1] = short, long
    with torch.no_grad():
        both = model(padded, attention_mask=(padded != 1).long())
        assert torch.allclose(both.logits[0], model(short).logits[0], atol=1e-5)
        assert torch.allclose(both.logits[1], model(long).logits[0], atol=1e-5)
        assert torch.allclose(both.hidden[0, :20], model(short).hidden[0], atol=1e-5)


def test_causal_models_do_not_look_ahead():
    model = nn.DiffuserForCausalLM(**{**SMALL, "pattern": "window(3)|global(2)"}).eval()
    x = ids(1, 30)
    other = x.clone()
    other[0, 17:] = 3
    with torch.no_grad():
        a, b = model(x).logits, model(other).logits
    assert torch.equal(a[0, :17], b[0, :17]) and not torch.equal(a[0, 17:], b[0, 17:])
    assert torch.allclose(model(x, labels=x).loss, torch.nn.functional.cross_entropy(a[0, :-1], x[0, 1:]))


@pytest.mark.parametrize("backward", ["stored", "checkpointed"])
def test_training_learns_and_repeats(backward):
    def losses():
        torch.manual_seed(3)
        model = nn.DiffuserForSequenceClassification(**{**SMALL, "backward": backward, "attention_probs_dropout_prob": 0.05})
        optimizer = torch.optim.Adam(model.parameters(), 5e-3)
        x = ids(12, 24)
        labels = (x[:, 5] % 2).long()
        found = []
        for _ in range(16):
            loss = model(x, labels=labels).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            found.append(loss.item())
        assert all(p.grad is not None for p in model.parameters())
        return found

    first = losses()
    assert first[-1] < 0.7 * first[0]
    assert first == losses()


def test_compiles_without_a_graph_break():
    model = nn.DiffuserModel(nn.DiffuserConfig(**SMALL)).eval()
    x = ids(2, 24)
    nn.graph_of(SMALL["pattern"], 24)
    with torch.no_grad():
        compiled = torch.compile(model.encoder.layer[0], fullgraph=True, backend="aot_eager")
        hidden = model.embeddings(x)
        graph = mh.graph(SMALL["pattern"], 24)
        assert torch.allclose(compiled(hidden, graph), model.encoder.layer[0](hidden, graph), atol=1e-6)


def test_compiles_with_a_pattern_text():
    for block in (nn.DiffuserAttention(32, 4, "window(2)|global(1)", hops=2), nn.DiffuserAttention(32, 4, "window(2)", causal=True)):
        block.eval()
        x = torch.randn(2, 12, 32)
        compiled = torch.compile(block, fullgraph=True, backend="aot_eager")
        assert torch.allclose(compiled(x), block(x), atol=1e-6)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_models_with_a_mask_compile_whole(backend):
    torch._dynamo.reset()
    config = nn.DiffuserConfig(vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24,
                               max_position_embeddings=40, pattern="window(3)|global(1)", hops=2, pooling="mean")
    model = nn.DiffuserForSequenceClassification(config).eval()
    compiled = torch.compile(model, backend=backend, fullgraph=True)
    ids, mask = torch.randint(2, 50, (2, 12)), torch.ones(2, 12, dtype=torch.int64)
    for padding in (12, 7, 3):
        mask[1, padding:] = 0
        mine, theirs = compiled(ids, mask).logits, model(ids, mask).logits
        assert torch.allclose(mine, theirs, atol=1e-5)
        first, second = (torch.autograd.grad(x.square().sum(), model.diffuser.embeddings.word_embeddings.weight)[0] for x in (mine, theirs))
        assert torch.allclose(first, second, atol=1e-5)
    for bad, part in ((mask.flip(1), "right"), (mask * 2, "other numbers")):
        with pytest.raises(mh.Error, match=part):
            compiled(ids, bad)
    torch.library.opcheck(torch.ops.manyhop.lengths_of.default, (mask,))


def test_a_causal_module_keeps_the_causal_part_of_a_given_graph():
    block = nn.DiffuserAttention(32, 4, "window(2)", causal=True).eval()
    graph = mh.graph("window(4)", 20)
    x = torch.randn(1, 20, 32)
    later = x.clone()
    later[:, 10:] += 1
    assert torch.equal(block(x, graph)[:, :10], block(later, graph)[:, :10])
    assert block(torch.zeros(0, 20, 32)).shape == (0, 20, 32)


def test_appnp():
    graph = mh.graph("smallworld(4, 0.1, 2)", 40)
    x = torch.randn(40, 3, dtype=torch.float64, requires_grad=True)
    layer = nn.APPNP(hops=7, teleport=0.15, learn=True)
    want = mh.diffuse(graph, x.detach().numpy(), teleport=0.15, hops=7).value
    got = layer(x, graph)
    assert np.allclose(got.detach().numpy(), want, atol=1e-6)
    got.square().sum().backward()
    assert layer.logit.grad.abs() > 0 and x.grad.abs().sum() > 0
    assert np.allclose(nn.APPNP(tol=1e-9, teleport=0.3)(x, graph).detach().numpy(),
                       mh.diffuse(graph, x.detach().numpy(), teleport=0.3, tol=1e-9).value)


@pytest.mark.parametrize("call, part", [
    (lambda: nn.DiffuserConfig(hidden_size=30, num_attention_heads=4), "30"), (lambda: nn.DiffuserConfig(hidden_act="swish"), "gelu"),
    (lambda: nn.DiffuserConfig(pooling="last"), "mean"), (lambda: nn.DiffuserConfig(pattern=["self"]), "12 layers"),
    (lambda: nn.lengths_of(torch.tensor([[0, 1, 1]])), "right"), (lambda: nn.lengths_of(torch.ones(3)), "1 axes"),
    (lambda: nn.DiffuserAttention(32, 4, mh.graph("full", 5))(torch.zeros(1, 6, 32)), "5 x 5"),
    (lambda: nn.DiffuserAttention(32, 4, 5)(torch.zeros(1, 6, 32)), "int"), (lambda: nn.APPNP(teleport=0.0, learn=True), "(0, 1)"),
    (lambda: nn.lengths_of(torch.tensor([[0.0, -1e4]])), "other numbers"),
    (lambda: nn.DiffuserModel(**SMALL)(ids(3, 16), torch.ones(3, 5)), "[3, 5] for input_ids of [3, 16]"),
    (lambda: nn.DiffuserModel(**SMALL)(ids(1, 4), torch.ones(1, 4), lengths=[3]), "give one"),
    (lambda: nn.DiffuserModel(**SMALL)(ids(1, 4)[0]), "1 axes"),
    (lambda: nn.SparseKAttention(24, 6, kv_heads=3, score_heads=2), "2 beside 3"),
    (lambda: mh.diffuse(mh.graph("window(1)", 4), torch.ones(4), hops=2, backward="implicit"), "give tol"),
    (lambda: nn.DiffuserModel(**SMALL)(ids(1, 79)), "78 positions"), (lambda: nn.DiffuserModel({"hidden_size": 3}), "dict")])
def test_bad_calls(call, part):
    with pytest.raises(mh.Error) as caught:
        call()
    assert part in str(caught.value)


HIDDEN = torch.zeros(2, 6, 32)
MODEL = dict(SMALL, num_hidden_layers=1)


@pytest.mark.parametrize("field, value, kind, part", [
    ("num_attention_heads", 0, ValueError, "num_attention_heads: 0, an integer from 1"), ("num_attention_heads", 4.0, TypeError, "4.0"),
    ("hidden_size", "a", TypeError, "hidden_size: 'a'"), ("hidden_size", -4, ValueError, "hidden_size: -4"),
    ("num_hidden_layers", -1, ValueError, "num_hidden_layers: -1"), ("vocab_size", 0, ValueError, "vocab_size: 0"),
    ("intermediate_size", 0, ValueError, "intermediate_size: 0"), ("hidden_act", ["gelu"], TypeError, "hidden_act"),
    ("hidden_dropout_prob", 2, ValueError, "hidden_dropout_prob: 2.0, a number in [0, 1]"),
    ("attention_probs_dropout_prob", 1.0, ValueError, "[0, 1)"), ("max_position_embeddings", 2, ValueError, "from 3 to"),
    ("pad_token_id", 40, ValueError, "pad_token_id: 40, an integer from 0 to 39"), ("layer_norm_eps", "x", TypeError, "layer_norm_eps"),
    ("initializer_range", -1, ValueError, "initializer_range: -1"), ("num_labels", 0, ValueError, "num_labels: 0"),
    ("pattern", 3, TypeError, "pattern: 3"), ("pattern", "windw(3)", ValueError, "column 1"), ("hops", -1, ValueError, "hops: -1"),
    ("hops", 2.5, TypeError, "hops: 2.5"), ("teleport", "x", TypeError, "teleport: str"), ("teleport", 2, ValueError, "teleport: 2.0"),
    ("backward", "x", ValueError, "stored, checkpointed or implicit"), ("pooling", 3, TypeError, "pooling: 3"),
    ("depth", 3, TypeError, "no field 'depth'")])
def test_bad_fields(field, value, kind, part):
    for make in (nn.DiffuserModel, nn.DiffuserEncoder):
        with pytest.raises(kind) as caught:
            make(**{**SMALL, field: value})
        assert isinstance(caught.value, mh.Error) and part in str(caught.value)


@pytest.mark.parametrize("call, kind, part", [
    (lambda: nn.DiffuserSelfAttention(32, 0), ValueError, "num_heads: 0"),
    (lambda: nn.DiffuserSelfAttention(32, 4, "self", hops=-1), ValueError, "hops: -1"),
    (lambda: nn.DiffuserSelfAttention(32, 4, "self", dropout=1.0), ValueError, "dropout: 1.0, a number in [0, 1)"),
    (lambda: nn.DiffuserSelfAttention(32, 4, "self", teleport="x"), TypeError, "teleport: str"),
    (lambda: nn.DiffuserSelfAttention(32, 4, "self", causal=1), TypeError, "causal: 1"),
    (lambda: nn.DiffuserSelfAttention(32, 4, "self")(HIDDEN[0]), ValueError, "hidden: 2 axes, [batch, tokens, width]"),
    (lambda: nn.DiffuserSelfAttention(32, 4, "self")(HIDDEN[..., :16]), ValueError, "width 16, the module has 32"),
    (lambda: nn.DiffuserSelfAttention(32, 4, "self")(HIDDEN.long()), TypeError, "hidden: torch.int64"),
    (lambda: nn.DiffuserSelfAttention(32, 4, "self")(torch.nested.nested_tensor(list(HIDDEN))), TypeError, "hidden: a nested tensor"),
    (lambda: nn.DiffuserSelfAttention(32, 4, "self")(HIDDEN.double()), TypeError, "torch.float64, the weights are torch.float32"),
    (lambda: nn.DiffuserAttention(32, 4, "self")(HIDDEN.numpy()), TypeError, "hidden: ndarray"),
    (lambda: nn.DiffuserAttention(32, 4, "self", hidden_dropout=2), ValueError, "hidden_dropout: 2.0"),
    (lambda: nn.DiffuserEncoder(**MODEL)(HIDDEN[0]), ValueError, "2 axes"),
    (lambda: nn.DiffuserLayer(3), TypeError, "config: int"), (lambda: nn.DiffuserEmbeddings(3), TypeError, "config: int"),
    (lambda: nn.DiffuserLayer(nn.DiffuserConfig(num_hidden_layers=1, pattern=["self"]), 3), ValueError,
     "layer: 3, an integer from 0 to 0"),
    (lambda: nn.DiffuserModel(**MODEL)([[1, 2]]), TypeError, "input_ids: list"),
    (lambda: nn.DiffuserModel(**MODEL)(torch.zeros(1, 4)), TypeError, "input_ids: torch.float32"),
    (lambda: nn.DiffuserModel(**MODEL)(torch.full((1, 4), 40)), ValueError, "input_ids: 40, numbers from 0 to 39"),
    (lambda: nn.DiffuserModel(**MODEL)(ids(1, 4), token_type_ids=ids(1, 3)), ValueError, "token_type_ids: shape [1, 3], [1, 4]"),
    (lambda: nn.DiffuserModel(**MODEL)(ids(1, 4), position_ids=torch.full((1, 4), 80)), ValueError, "position_ids: 80"),
    (lambda: nn.DiffuserModel(**MODEL)(ids(1, 4), [[1, 1, 1, 0]]), TypeError, "attention_mask: list"),
    (lambda: nn.DiffuserForSequenceClassification(**MODEL)(ids(2, 4), labels=torch.tensor([0, 2])), ValueError,
     "labels: 2, numbers from 0 to 1"),
    (lambda: nn.DiffuserForSequenceClassification(**MODEL)(ids(2, 4), labels=torch.tensor([0])), ValueError, "shape [1], [2]"),
    (lambda: nn.DiffuserForSequenceClassification(**MODEL)(ids(2, 0)), ValueError, "0 tokens"),
    (lambda: nn.DiffuserForMaskedLM(**MODEL)(ids(2, 4), labels=ids(2, 3)), ValueError, "labels: shape [2, 3], [2, 4]"),
    (lambda: nn.DiffuserForCausalLM(**MODEL)(ids(2, 4), labels=[1]), TypeError, "labels: list"),
    (lambda: nn.graph_of("self", [3]), TypeError, "n: [3]"), (lambda: nn.lengths_of([[1]]), TypeError, "attention_mask: list"),
    (lambda: nn.DiffuserConfig.from_dict(3), TypeError, "config: int"),
    (lambda: nn.DiffuserConfig.from_json("/nowhere.json"), mh.errors.FileError, "/nowhere.json"),
    (lambda: nn.APPNP(teleport="x"), TypeError, "teleport: str"), (lambda: nn.APPNP(teleport="x", learn=True), TypeError, "teleport: str"),
    (lambda: nn.APPNP(hops=-1), ValueError, "hops: -1"), (lambda: nn.APPNP(hops=3, tol=1e-3), ValueError, "3 and 0.001"),
    (lambda: nn.APPNP(dropout=2), ValueError, "dropout: 2.0"), (lambda: nn.APPNP(normalization="x"), ValueError, "sym, row, col or none"),
    (lambda: nn.APPNP(learn="x"), TypeError, "learn: 'x'"),
    (lambda: nn.APPNP(dropout=0.5)([1.0], mh.graph("self", 1)), TypeError, "x: list"),
    (lambda: nn.SparseKAttention(0, 4), ValueError, "hidden_size: 0"), (lambda: nn.SparseKAttention("x", 4), TypeError, "hidden_size: 'x'"),
    (lambda: nn.SparseKAttention(32, 4)(HIDDEN[..., :16]), ValueError, "width 16, the module has 32"),
    (lambda: nn.SparseKAttention(32, 4)([1]), TypeError, "hidden: list"),
    (lambda: nn.SparseKAttention(32, 4)(HIDDEN, 3), TypeError, "caches: int"),
    (lambda: nn.SparseKAttention(32, 4)(HIDDEN, [1, 2]), TypeError, "caches: a list with int"),
    (lambda: nn.SparseKScores(16, 0), ValueError, "heads: 0"), (lambda: nn.SparseKScores(16, 2)(HIDDEN), ValueError, "width 32"),
    (lambda: nn.SparseKScores(32, 2)(HIDDEN, "x"), TypeError, "first: 'x'")])
def test_bad_arguments_of_modules_are_one_sentence(call, kind, part):
    with pytest.raises(kind) as caught:
        call()
    assert isinstance(caught.value, mh.Error) and part in str(caught.value) and "\n" not in str(caught.value)


def test_labels_may_be_shares_of_classes_and_narrow_integers():
    model = nn.DiffuserForSequenceClassification(**MODEL).eval()
    plain = model(ids(2, 4), labels=torch.tensor([0, 1]))
    assert torch.allclose(plain.loss, model(ids(2, 4), labels=torch.eye(2)).loss)
    assert torch.equal(plain.loss, model(ids(2, 4), labels=torch.tensor([0, 1], dtype=torch.int32)).loss)
    assert torch.equal(model(ids(2, 4), labels=torch.tensor([0, -100])).loss, model(ids(2, 4)[:1], labels=torch.tensor([0])).loss)
