import numpy as np
import pytest

import manyhop as mh


def test_eigenvalues_equal_numpys():
    g = mh.graph("window(2)|random(2)", 60)
    s = ((g.to_dense() + g.to_dense().T) > 0).astype(float)
    d = s.sum(1) ** -0.5
    values = np.linalg.eigvalsh(d[:, None] * s * d)
    r = mh.spectral.gap(g, vectors=True)
    assert abs(r.lambda2 - values[-2]) < 1e-8 and abs(r.lambda_n - values[0]) < 1e-8
    assert abs(r.gap - (1 - values[-2])) < 1e-8 and r.converged
    n = d[:, None] * s * d
    for i, value in enumerate((r.lambda2, r.lambda_n)):
        assert np.linalg.norm(n @ r.vectors[:, i] - value * r.vectors[:, i]) < 1e-8


def test_survey_of_known_graphs():
    r = mh.spectral.survey(mh.graph("hypercube", 64), everything=True)
    assert abs(r.gap - 2 / 6) < 1e-9 and r.diameter == (6, 6)
    assert r.cheeger["lower"] - 1e-12 <= r.cut["conductance"] <= r.cheeger["upper"] + 1e-12
    assert r.hops_for[0.1]["ppr"] > 0 and "density" in r
    split = mh.spectral.survey(mh.batch([mh.graph("full", 3), mh.graph("full", 4)]))
    assert split.components == 2 and split.gap == 0


def test_transition_may_be_complex():
    ring = mh.Graph.from_edge_index(np.array([[0, 1, 2], [1, 2, 0]]))
    assert abs(abs(mh.spectral.gap(ring, operator="transition").lambda2) - 1) < 1e-9


def test_reach_counts_rows():
    found = mh.spectral.reach(mh.graph("window(1)", 9), 2)
    assert found[0] == {"hop": 1, "mean": pytest.approx(25 / 81), "min": pytest.approx(2 / 9)}


def test_design_is_reproduced():
    found = mh.spectral.design(256, 24, align=4, seeds=1)
    best = found.chosen
    g = mh.graph(best["pattern"], 256)
    assert g.nnz == best["edges"] and abs(mh.spectral.gap(g).gap - best["gap"]) < 1e-8


@pytest.mark.parametrize("make, kind, words", [
    (lambda g: mh.spectral.gap(g, operator=None), TypeError, "operator"),
    (lambda g: mh.spectral.gap(g, tol="a"), TypeError, "tol: str"),
    (lambda g: mh.spectral.gap(g, max_iterations=1.5), TypeError, "max_iterations: 1.5"),
    (lambda g: mh.spectral.gap(g, max_iterations=2**40), ValueError, "max_iterations"),
    (lambda g: mh.spectral.gap(g, vectors="no"), TypeError, "vectors: 'no'"),
    (lambda g: mh.spectral.survey(g, eps=0.1), TypeError, "eps: float"),
    (lambda g: mh.spectral.survey(g, seed=-1), ValueError, "seed: -1"),
    (lambda g: mh.spectral.reach(g, "a"), TypeError, "hops: 'a'"),
    (lambda g: mh.spectral.reach(g, 2, exact_rows=0), ValueError, "exact_rows: 0"),
    (lambda g: mh.spectral.design(64.0, 8), TypeError, "n: 64.0"),
    (lambda g: mh.spectral.design(64, "a"), TypeError, "edges_per_token: str"),
    (lambda g: mh.spectral.design(64, 8, keep=None), TypeError, "keep: NoneType"),
])
def test_mistakes_are_one_sentence(make, kind, words):
    with pytest.raises(kind, match=words) as caught:
        make(mh.graph("full", 8))
    assert isinstance(caught.value, mh.Error) and "\n" not in str(caught.value)


def test_mistakes():
    with pytest.raises(ValueError, match="normalized"):
        mh.spectral.gap(mh.graph("full", 4), operator="best")
    with pytest.raises(TypeError, match="Graph"):
        mh.spectral.gap("full")
    with pytest.raises(ValueError, match="2 x 3|square"):
        mh.spectral.gap(mh.graph("full", 2, 3))
    with pytest.raises(AttributeError, match="gap"):
        mh.spectral.gap(mh.graph("full", 4)).gapp
