# SPDX-License-Identifier: Apache-2.0
"""Edited models beside the ones they come from."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
from onnx import numpy_helper


def outputs(model, sample):
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(
        model.proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, sample)


def random_sample(model, seed=0):
    rng = np.random.default_rng(seed)
    return {
        spec.name: rng.standard_normal(model.shapes[spec.name]).astype(np.float32)
        for spec in model.inputs
    }


def assert_same_function(model, edited, *, tolerance=2e-5):
    """Both compute the same on random inputs, and what is told of the edited one is so."""
    sample = random_sample(model)
    for one, two in zip(outputs(model, sample), outputs(edited, sample), strict=True):
        np.testing.assert_allclose(two, one, rtol=tolerance, atol=tolerance * np.abs(one).max())
    assert set(edited.source_nodes) == {node.name for node in edited.proto.graph.node}
    for tensor in edited.proto.graph.initializer:
        assert edited.shapes[tensor.name] == tuple(tensor.dims)
        assert edited.dtypes[tensor.name] == "float32" or tensor.data_type != 1
    made = {t for node in edited.proto.graph.node for t in node.output if t}
    assert made <= set(edited.shapes)


def constant(model, name):
    found = {t.name: t for t in model.proto.graph.initializer}
    return numpy_helper.to_array(found[name])
