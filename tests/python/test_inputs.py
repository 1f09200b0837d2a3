"""What may be given: broken matrices, broadcast arrays, DLPack, byte orders, arrays of one number, paths."""

import pathlib
import subprocess
import sys

import numpy as np
import pytest

import manyhop as mh


def changed(matrix, **parts):
    """A matrix some of whose arrays have been assigned to, which SciPy does not check."""
    for name, value in parts.items():
        setattr(matrix, name, value)
    return matrix


def broken_matrices():
    sp = pytest.importorskip("scipy.sparse")
    eye = sp.eye_array(4)
    far = np.array([10**8, 1, 2, 3])
    for kind in ("csr", "csc", "bsr"):
        made = lambda: sp.bsr_array(eye, blocksize=(1, 1)) if kind == "bsr" else eye.asformat(kind)  # noqa: B023
        yield changed(made(), indices=far), "indices: 100000000, an integer from 0 to 3"
        yield changed(made(), indices=np.array([0, -7, 2, 3])), "indices: -7"
        yield changed(made(), indptr=np.array([0, 1, 2, 3, 10**9])), "ends at 1000000000, there are 4 indices and 4 values"
        yield changed(made(), indptr=np.array([0, 900000, 2, 3, 4])), r"indptr\[2\] is 2 after 900000"
        yield changed(made(), indptr=np.array([-5, 1, 2, 3, 4])), r"indptr\[0\] is -5"
        yield changed(made(), indptr=np.array([0, 1])), r"\[2\], integers \[5\]"
        yield changed(made(), indices=np.array([0.0, 1, 2, 3])), "float64"
    yield changed(eye.tocsr(), data=np.ones(2)), "4 indices and 2 values"
    yield changed(eye.tocoo(), coords=(far, np.arange(4))), "rows: 100000000"
    yield changed(eye.tocoo(), coords=(np.arange(4), far - 10**9)), "columns: -999999999"
    yield changed(eye.tocoo(), data=np.ones(1)), "4 rows, 4 columns and 1 values"
    yield changed(sp.dia_array((np.ones((1, 4)), [0]), shape=(4, 4)), offsets=np.arange(9)), r"offsets \[9\] beside data \[1, 4\]"
    lists = eye.tolil()
    lists.rows[1] = [0, 1, 2]
    yield lists, "row 1 has 3 columns and 1 values"
    lists = eye.tolil()
    lists.rows[1] = [10**6]
    yield lists, "1000000"
    keys = eye.todok()
    keys._dict[(9, 9)] = 1.0
    yield keys, "dok matrix that SciPy cannot convert"


def test_broken_matrices_are_refused():
    for matrix, words in broken_matrices():
        with pytest.raises(mh.errors.BadValue, match=words) as caught:
            mh.Graph.from_scipy(matrix)
        assert "\n" not in str(caught.value)


def test_whole_matrices_of_all_formats_pass():
    sp = pytest.importorskip("scipy.sparse")
    want = sp.random_array((12, 6), density=0.3, rng=np.random.default_rng(0)).toarray()
    for kind in ("csr", "csc", "coo", "dia", "lil", "dok"):
        assert np.array_equal(mh.Graph.from_scipy(sp.coo_array(want).asformat(kind)).to_dense(), want)
    assert np.array_equal(mh.Graph.from_scipy(sp.bsr_array(want, blocksize=(3, 2))).to_dense(), want)
    roomy = sp.csr_array(np.eye(3))
    roomy.indices, roomy.data = np.append(roomy.indices, [9, 9]), np.append(roomy.data, [5.0, 5.0])
    assert mh.Graph.from_scipy(roomy).to_dense().tolist() == np.eye(3).tolist()  # what lies past indptr[-1] does not count
    for kind in ("csr", "csc", "coo"):
        assert mh.Graph.from_scipy(sp.coo_array((0, 5)).asformat(kind)).shape == (0, 5)


@pytest.mark.filterwarnings("ignore:Sparse")
def test_broken_sparse_tensors_are_refused():
    torch = pytest.importorskip("torch")
    one, far, begin = torch.ones(1), torch.tensor([10**8]), torch.tensor([0, 1, 1])
    for tensor, words in (
            (torch.sparse_coo_tensor([[10**8], [0]], one, (2, 2), check_invariants=False), "coo tensor: rows: 100000000"),
            (torch.sparse_csr_tensor(begin, far, one, (2, 2), check_invariants=False), "csr tensor: indices: 100000000"),
            (torch.sparse_csc_tensor(begin, far, one, (2, 2), check_invariants=False), "csc tensor: indices: 100000000"),
            (torch.sparse_csr_tensor(torch.tensor([0, 900000, 1]), begin[:1], one, (2, 2), check_invariants=False),
             r"indptr\[2\] is 1 after 900000")):
        with pytest.raises(mh.errors.BadValue, match=words):
            mh.Graph.from_torch(tensor)


# Broadcast arrays: without room for a copy, shapes are refused as shapes and sizes by the limit.
class Numpy:
    wide = staticmethod(np.broadcast_to)

    def zeros(*shape, dtype=np.float32):
        return np.zeros(shape, dtype)


class Torch:
    def wide(value, shape):
        return Torch.zeros(dtype=np.asarray(value).dtype).expand(shape)

    def zeros(*shape, dtype=np.float32):
        torch = pytest.importorskip("torch")
        return torch.from_numpy(np.zeros(shape, dtype))


GRAPH = mh.graph("window(1)", 1000)
HALF, ONE = np.float16(0), np.float32(1)
WIDE, LONG, HEADS = (1000, 10**10), (10**12,), (10**9, 2, 1000, 4)


@pytest.mark.parametrize("of", [Numpy, Torch])
@pytest.mark.parametrize("call", [
    lambda of, q: mh.attention(q, q, q, GRAPH, bias=of.wide(0.0, (10**9, 2, GRAPH.nnz))),
    lambda of, q: mh.attention(of.wide(HALF, HEADS), of.wide(HALF, HEADS), of.zeros(1, 2, 1000, 4, dtype=np.float16), GRAPH),
    lambda of, q: mh.diffuse(GRAPH, of.wide(0.0, (10**9, 1000))),
    lambda of, q: mh.diffuse(GRAPH, np.zeros(1000), weights=of.wide(1.0, LONG)),
    lambda of, q: GRAPH.with_weights(of.wide(ONE, LONG)),
    lambda of, q: mh.Graph.from_edge_index([[0], [1]], 2, of.wide(ONE, LONG)),
    lambda of, q: mh.Graph.from_csr([0, 1], [0], of.wide(ONE, LONG)),
    lambda of, q: mh.sparsek_attention(q, q, q, of.wide(HALF, (10**9, 2, 1000))),
])
def test_shapes_are_looked_at_before_anything_is_copied(call, of):
    with pytest.raises(mh.errors.BadValue, match="[0-9].*(1000|2998|1 edges|\\[1, ).*"):
        call(of, of.zeros(1, 2, 1000, 4))


@pytest.mark.parametrize("of", [Numpy, Torch])
@pytest.mark.parametrize("call", [
    lambda of: mh.diffuse(GRAPH, of.wide(0.0, WIDE)),
    lambda of: mh.attention(*[of.wide(HALF, HEADS)] * 3, GRAPH),
    lambda of: mh.Graph.from_edges(of.wide(0, LONG), of.wide(0, LONG), shape=(2, 2)),
    lambda of: mh.Graph.from_edge_index(of.wide(0, (2, 10**12))),
    lambda of: mh.sparsek(of.wide(0.0, WIDE), 1),
    lambda of: mh.sparsek(of.wide(HALF, WIDE), 1),
    lambda of: mh.sparsek(of.wide(0.0, (10, 10**11, 10)), 1),
    lambda of: mh.sparsek_jvp(of.wide(0.0, WIDE), of.wide(0.0, WIDE)),
    lambda of: mh.topk(of.wide(0.0, WIDE[::-1]), 1000),
    lambda of: mh.ppr(GRAPH, of.wide(0, LONG)),
    lambda of: mh.select(of.wide(ONE, LONG), 1),
    lambda of: mh.causal_sparsek(of.wide(HALF, (10**6, 10**6)), 1),
])
def test_copies_stay_within_the_memory_limit(call, of):
    with pytest.raises(mh.errors.LimitError, match="memory limit: .* takes [0-9]+ bytes, the limit is [0-9]+"):
        call(of)


def test_what_the_system_does_not_give_is_an_error_of_limits():
    code = """if True:
        import resource
        import numpy as np, manyhop as mh
        graph = mh.graph("self", 1000)
        mh.diffuse(graph, np.zeros(1000))
        mh.set_memory_limit(2**50)
        resource.setrlimit(resource.RLIMIT_AS, (2**33, 2**33))
        for call in (lambda: mh.diffuse(graph, np.broadcast_to(0.0, (1000, 10**8))),
                     lambda: mh.sparsek(np.broadcast_to(np.float16(0), (1000, 10**8)), 1)):
            try:
                call()
            except mh.errors.LimitError as error:
                assert "out of memory: " in str(error), error
            else:
                raise SystemExit("no error")
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


class OnlyDlpack:
    """What exports DLPack and nothing else."""

    def __init__(self, array, device=(1, 0)):
        self.array, self.device = array, device

    def __dlpack__(self, **options):
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.device


def test_dlpack_is_read_where_it_lies(rng):
    q = rng.standard_normal((1, 2, 1000, 4)).astype(np.float32)
    x = rng.standard_normal((1000, 3))
    given, graph = OnlyDlpack(q), GRAPH
    assert np.array_equal(mh.attention(given, given, given, graph), mh.attention(q, q, q, graph))
    assert np.array_equal(mh.diffuse(graph, OnlyDlpack(x)).value, mh.diffuse(graph, x).value)
    assert np.array_equal(mh.sparsek(OnlyDlpack(x), 2), mh.sparsek(x, 2))
    again = mh.Graph.from_csr(OnlyDlpack(graph.indptr.copy()), OnlyDlpack(graph.indices.copy()), OnlyDlpack(np.ones(graph.nnz)))
    assert again == graph.with_weights(np.ones(graph.nnz))
    assert np.shares_memory(mh._check.to_numpy(given, "q"), q)


@pytest.mark.parametrize("call", [lambda x: mh.attention(x, x, x, GRAPH), lambda x: mh.diffuse(GRAPH, x),
                                  lambda x: mh.sparsek(x, 1), lambda x: mh.Graph.from_csr(x, [])])
def test_dlpack_elsewhere_is_refused(call):
    with pytest.raises(mh.errors.BadType, match="OnlyDlpack on device 3 of DLPack's kind 2, the CPU"):
        call(OnlyDlpack(np.zeros(4), (2, 3)))


def test_byte_orders_and_arrays_of_one_number(rng):
    x = rng.standard_normal((1000, 3))
    want = mh.diffuse(GRAPH, x).value
    for given in (x.astype(">f8"), np.asfortranarray(x.astype(">f8"))):
        assert np.array_equal(mh.diffuse(GRAPH, given).value, want)
    assert np.array_equal(mh.diffuse(GRAPH, x, teleport=np.array(0.1), tol=np.array(1e-6)).value, want)
    q = rng.standard_normal((1, 1, 1000, 4))
    assert np.array_equal(mh.attention(q, q, q, GRAPH, hops=np.array(2), teleport=np.array(np.float32(0.25)), scale=np.array(1)),
                          mh.attention(q, q, q, GRAPH, hops=2, teleport=0.25, scale=1))
    assert np.array_equal(mh.sparsek(x, np.array(2)), mh.sparsek(x, 2))
    for wrong in (np.array(True), np.array([0.1]), np.array("a"), np.array(1j)):
        with pytest.raises(mh.errors.BadType, match="teleport"):
            mh.diffuse(GRAPH, x, teleport=wrong)


def test_paths_are_names(tmp_path):
    g = mh.graph("window(1)", 5)
    for path in (tmp_path / "a.mtx", str(tmp_path / "b.mtx"), str(tmp_path / "c.mtx").encode()):
        g.save(path)
        assert mh.Graph.load(path) == g
    for wrong in (None, 3, [tmp_path], 1.5):
        for call in (mh.Graph.load, g.save):
            with pytest.raises(mh.errors.BadType, match="path: .*, a text or a path is wanted"):
                call(wrong)
    assert not pathlib.Path("None").exists()


def test_numbers_of_another_kernel_are_refused():
    x = np.ones(1000)
    for given, words in ((dict(t=3.0), "t: 3.0 with kernel ppr, only kernel heat"),
                         (dict(kernel="heat", teleport=0.3), "teleport: 0.3 with kernel heat, only kernel ppr"),
                         (dict(kernel="coefficients", coefficients=[1, 2], t=2), "t: 2.0 with kernel coefficients")):
        with pytest.raises(mh.errors.BadValue, match=words):
            mh.diffuse(GRAPH, x, **given)
    torch = pytest.importorskip("torch")
    with pytest.raises(mh.errors.BadValue, match="t: a tensor with kernel ppr"):
        mh.diffuse(GRAPH, torch.ones(1000), t=torch.tensor(1.0))


def test_without_a_hop_there_is_no_residual():
    result = mh.diffuse(GRAPH, np.ones(1000), hops=0)
    assert np.isnan(result.residual) and result.converged and np.array_equal(result.value, np.ones(1000))


def test_weights_have_the_layout_of_lse(rng):
    torch = pytest.importorskip("torch")
    graph = mh.batch([mh.graph("full", 3), mh.graph("window(1)", 5)])
    q = rng.standard_normal((8, 2, 4))
    by_tensor = mh.attention(*[torch.from_numpy(q)] * 3, graph, layout="thd", return_lse=True, return_weights=True)
    for (out, lse, weights) in (mh.attention(q, q, q, graph, layout="thd", return_lse=True, return_weights=True), by_tensor):
        assert out.shape == (8, 2, 4) and lse.shape == (2, 8) and weights.shape == (2, graph.nnz)
    unequal = [mh.graph("window(1)", 8), mh.graph("full", 8)]
    p = q.transpose(1, 0, 2)[None]
    _, weights = mh.attention(p, p, p, unequal, return_weights=True)
    out, tensor = mh.attention(*[torch.from_numpy(p).requires_grad_()] * 3, unequal, return_weights=True)
    assert weights.shape == tensor.shape == (22 + 64,) and np.array_equal(weights, tensor.numpy())
    out.sum().backward()
    _, flat = mh.attention(q, q, q, unequal, layout="thd", return_weights=True)
    assert np.array_equal(flat, weights)
    two = np.concatenate([p, p])
    for given in (two, torch.from_numpy(two)):
        with pytest.raises(mh.errors.BadValue, match="22 to 64 edges with a batch of 2"):
            mh.attention(given, given, given, unequal, return_weights=True)
