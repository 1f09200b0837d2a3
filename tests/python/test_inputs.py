"""What may be given: broken matrices, broadcast arrays, DLPack, byte orders, arrays of one number, paths."""

import subprocess
import sys

import numpy as np
import pytest

import manyhop as mh


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
