"""Attention with hops and diffusion as dense float64 formulas, for comparison."""

import numpy as np


def attention(q, k, v, edges, *, hops=1, teleport=0.0, scale=None, bias=None):
    """One head: q [s, d], k [s_k, d], v [s_k, d_v], edges bool [s, s_k], bias [s, s_k]. Returns out, A, lse."""
    q, k, v = (np.asarray(x, dtype=np.float64) for x in (q, k, v))
    scores = q @ k.T * (q.shape[1] ** -0.5 if scale is None else scale)
    if bias is not None:
        scores = scores + bias
    scores = np.where(edges, scores, -np.inf)
    peak = np.max(scores, axis=1, keepdims=True, initial=-np.inf)
    raw = np.exp(scores - np.where(np.isfinite(peak), peak, 0))
    total = raw.sum(1, keepdims=True)
    a = np.divide(raw, total, out=np.zeros_like(raw), where=total > 0)
    with np.errstate(divide="ignore"):
        lse = (np.log(total) + np.where(np.isfinite(peak), peak, 0))[:, 0]
    z = v
    for _ in range(hops):
        z = (1 - teleport) * a @ z + (teleport * v if teleport else 0)
    return z, a, lse


def normalised(dense, how):
    rows, cols = dense.sum(1), dense.sum(0)
    inverse = lambda x: np.divide(1, x, out=np.zeros_like(x), where=x != 0)  # noqa: E731
    if how == "row":
        return dense * inverse(rows)[:, None]
    if how == "col":
        return dense * inverse(cols)[None, :]
    if how == "sym":
        return dense * np.sqrt(inverse(rows))[:, None] * np.sqrt(inverse(cols))[None, :]
    return dense
