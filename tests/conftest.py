# SPDX-License-Identifier: Apache-2.0
"""Small bound models from ONNX text, and the shared real ones (absent in a release)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from analyzer.load import bind_shapes, load_model

MODELS = Path(__file__).resolve().parents[2] / "shared" / "models"


@pytest.fixture
def bind(tmp_path):
    """Return a function: graph text, and values of tensors the text only names -> bound model."""

    def make(text, *, opset=13, **weights):
        proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": {opset}]> {text}')
        proto.graph.initializer.extend(
            numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()
        )
        path = tmp_path / "tiny.onnx"
        path.write_bytes(proto.SerializeToString())
        return bound(path, {})

    return make


@pytest.fixture
def two_ends(bind):
    """A small bound model of two branches with an output each."""
    rng = np.random.default_rng(0)
    return bind(
        """g (float[1,8] x) => (float[1,8] y, float[1,8] z) {
            [a] h = Gemm(x, w0)  [r] k = Relu(h)  [b] y = Gemm(k, w1)  [c] z = MatMul(h, w1)
        }""",
        w0=rng.standard_normal((8, 8)).astype(np.float32),
        w1=rng.standard_normal((8, 8)).astype(np.float32),
    )


@pytest.fixture
def shared():
    """Return a function: name of a shared model -> bound model, free axes 1 where not given."""

    def make(name, **shapes):
        path = MODELS / name / "model.onnx"
        if not path.is_file():
            pytest.skip(f"the shared model {name} is not here")
        return bound(path, shapes)

    return make


def bound(path, shapes):
    model = load_model(path)
    free = {spec.name: tuple(d or 1 for d in spec.shape) for spec in model.inputs}
    return bind_shapes(model, {**free, **shapes})
