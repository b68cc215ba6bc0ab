# SPDX-License-Identifier: Apache-2.0
"""Taking slices of outputs away again gives the model that was there before them."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from analyzer.graph.slices import with_slices, without_slices

NET = """g (float[1,4,20] a, float[1,3,20] b) => (float[1,7,20] y, float[1,4,20] z) {
    [join] y = Concat <axis = 1> (a, b)  [r] z = Relu(a)
}"""


@pytest.fixture
def sample():
    rng = np.random.default_rng(0)
    return {
        "a": rng.uniform(-640, 640, (1, 4, 20)).astype(np.float32),
        "b": rng.uniform(0, 1, (1, 3, 20)).astype(np.float32),
    }


@pytest.mark.parametrize(
    "asked", [{}, {"mine": "y[:, 1:3]"}, {"steps": "z[:, ::2, 3:]", "all": "z[...]"}]
)
@pytest.mark.parametrize("opset", [9, 13])
def test_back_and_forth(bind, sample, asked, opset):
    """Nodes, outputs and constants are those of the model; those found by themselves go, too."""
    model = bind(NET, opset=opset)
    cut = with_slices(model, asked, sample)
    # y joins unlike parts: cut by itself where nothing of it is asked for
    found = set() if "mine" in asked else {"y[:, :4]", "y[:, 4:]"}
    assert set(cut.slices) == {*asked, *found}
    back = without_slices(cut)
    assert back.slices == {}
    assert back.outputs == model.outputs
    for part in ("node", "output", "input", "initializer"):
        assert list(getattr(back.proto.graph, part)) == list(getattr(model.proto.graph, part))
    onnx.checker.check_model(back.proto, full_check=True)


def test_the_sliced_model_stays_as_it_is(bind, sample):
    """A copy is made."""
    cut = with_slices(bind(NET), {"mine": "y[:, 1:3]"}, sample)
    before = cut.proto.SerializeToString(deterministic=True)
    without_slices(cut)
    assert cut.proto.SerializeToString(deterministic=True) == before


def test_a_model_without_slices_is_itself(bind):
    """Nothing to do."""
    model = bind(NET)
    assert without_slices(model) is model
