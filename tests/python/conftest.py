import signal

import numpy as np
import pytest

import manyhop as mh

# A shell that starts a job in the background has it ignore Ctrl-C, and its children too; the tests of Ctrl-C want it heard.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def rng():
    return np.random.default_rng(7)


@pytest.fixture
def odd_graph():
    """24 tokens with an empty row, a hub row and a hub column."""
    g = mh.graph("window(2)|random(2, seed=3)", 24)
    dense = g.to_dense() > 0
    dense[5, :] = False
    dense[9, :] = True
    dense[:, 4] = True
    dense[5, :] = False
    rows, cols = np.nonzero(dense)
    return mh.Graph.from_edges(rows, cols, shape=dense.shape)
