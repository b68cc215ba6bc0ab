# SPDX-License-Identifier: Apache-2.0
"""Sessions: values go in and out uncopied, quantizers stay as they are, failures raise."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import pytest

from analyzer.graph.session import open_session, run, to_value


def model_of(text):
    header = '<ir_version: 8, opset_import: ["": 13]>'
    return onnx.parser.parse_model(f"{header} {text}").SerializeToString()


DOUBLE = "g (float[N] x) => (float[N] y, float[N] z) { y = Add(x, x)  z = Neg(y) }"


def test_run_returns_what_was_asked_for():
    """Only the named outputs are fetched, by name."""
    session = open_session(model_of(DOUBLE))
    made = run(session, ["z"], {"x": to_value(np.float32([1, 2]))})
    assert list(made) == ["z"]
    np.testing.assert_array_equal(made["z"].numpy(), np.float32([-2, -4]))


def test_a_value_is_a_copy():
    """Changing the array afterwards does not reach the session; any memory order will do."""
    array = np.asfortranarray(np.float32([[1, 2], [3, 4]]))
    value = to_value(array)
    array[:] = 0
    np.testing.assert_array_equal(value.numpy(), np.float32([[1, 2], [3, 4]]))


def test_sessions_can_be_called_from_several_threads():
    """One session, many threads, every result its own."""
    session = open_session(model_of(DOUBLE))

    def one(k):
        return run(session, ["y"], {"x": to_value(np.full(1000, k, np.float32))})["y"].numpy()

    with ThreadPoolExecutor(4) as pool:
        for k, result in enumerate(pool.map(one, range(64))):
            np.testing.assert_array_equal(result, np.full(1000, 2 * k, np.float32))


def test_quantizers_are_not_fused_into_integer_kernels():
    """Q/DQ around a MatMul computes in float: the saturating int8 product stays exact."""
    model = model_of(
        """g (float[1,2] x) => (float[1,1] y)
        <float s = {0.5}, int8 z = {0}, float[2,1] w = {3, 5}> {
            q = QuantizeLinear(x, s, z)
            d = DequantizeLinear(q, s, z)
            y = MatMul(d, w)
        }"""
    )
    made = run(open_session(model), ["y"], {"x": to_value(np.float32([[0.6, 100]]))})
    np.testing.assert_array_equal(made["y"].numpy(), np.float32([[0.5 * 3 + 63.5 * 5]]))


def test_a_model_that_cannot_run_raises():
    """A broken model is no silent fallback."""
    with pytest.raises(Exception, match="NoSuchOp"):
        open_session(model_of("g (float[1] x) => (float[1] y) { y = NoSuchOp(x) }"))
