# SPDX-License-Identifier: Apache-2.0
"""QA111: norms are found however they are written, and only their inside is taken out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from analyzer.diagnose import diagnose
from analyzer.diagnose.norms import norms, norms_of
from analyzer.graph.view import GraphView
from analyzer.records import LayerError

LAYER = """
    [m] mean = ReduceMean<axes=[-1]>(x)   [c] d = Sub(x, mean)   [s] sq = Pow(d, two)
    [v] var = ReduceMean<axes=[-1]>(sq)   [e] ve = Add(var, eps)  [r] sd = Sqrt(ve)
    [n] z = Div(d, sd)   [g] zg = Mul(z, gain)   [b] y = Add(zg, offset)
"""
RMS = """
    [s] sq = Mul(x, x)   [v] var = ReduceMean<axes=[-1]>(sq)   [e] ve = Add(var, eps)
    [r] sd = Sqrt(ve)   [i] inv = Div(one, sd)   [n] z = Mul(x, inv)   [g] y = Mul(gain, z)
"""
POWER = """
    [s] sq = Pow(x, two)   [v] var = ReduceMean<axes=[-1]>(sq)   [e] ve = Add(var, eps)
    [r] inv = Pow(ve, minus_half)   [n] y = Mul(x, inv)
"""
KERAS = """
    [m] mean = ReduceMean<axes=[-1]>(x)   [c] d = Sub(x, mean)   [s] sq = Mul(d, d)
    [v] var = ReduceMean<axes=[-1]>(sq)   [e] ve = Add(var, eps)   [r] sd = Sqrt(ve)
    [i] inv = Reciprocal(sd)   [k] ig = Mul(inv, gain)   [n] xs = Mul(x, ig)
    [o] ms = Mul(mean, ig)   [b] off = Sub(offset, ms)   [a] y = Add(xs, off)
"""
TWO, EPS = np.float32(2), np.float32(1e-5)
GAIN, OFFSET = np.linspace(0.5, 1.5, 16, dtype=np.float32), np.zeros(16, np.float32)
FOR_LAYER = {"two": TWO, "eps": EPS, "gain": GAIN, "offset": OFFSET}


def read(bind, text, **constants):
    """Bind a norm of x behind which a MatMul reads its result y."""
    body = f"g (float[1,8,16] x) => (float[1,8,16] out) {{ {text} [w] out = MatMul(y, w) }}"
    return bind(body, w=np.eye(16, dtype=np.float32), **constants)


@pytest.mark.parametrize(
    ("text", "constants", "kind", "nodes"),
    [
        (LAYER, FOR_LAYER, "LayerNorm", "mcsverngb"),
        (RMS, {"eps": EPS, "one": np.float32(1), "gain": GAIN}, "RMSNorm", "svering"),
        (POWER, {"two": TWO, "eps": EPS, "minus_half": np.float32(-0.5)}, "RMSNorm", "svern"),
        (KERAS, {"eps": EPS, "gain": GAIN, "offset": OFFSET}, "LayerNorm", "mcsveriknoba"),
    ],
    ids=["layer", "rms", "power", "keras"],
)
def test_all_nodes_of_a_norm_are_found(bind, text, constants, kind, nodes):
    """Gain, offset and everything between; its input and its output are not inside."""
    view = GraphView(read(bind, text, **constants).proto.graph)
    (norm,) = norms_of(view)
    assert norm.kind == kind
    assert norm.nodes == tuple(nodes)
    tensors = {t for n in nodes for t in (*view.nodes[n].input, *view.nodes[n].output)}
    assert norm.inner == tensors - {"x", "y"}


def test_a_norm_ends_where_positions_are_added(bind):
    """A constant with a value per position is no offset of the norm."""
    place = np.ones((1, 8, 16), np.float32)
    model = bind(
        f"g (float[1,8,16] x) => (float[1,8,16] out) {{ {LAYER} [p] out = Add(y, place) }}",
        place=place,
        **FOR_LAYER,
    )
    (norm,) = norms_of(GraphView(model.proto.graph))
    assert norm.nodes[-1] == "b"


def test_a_standard_deviation_is_no_norm(bind):
    """Where nothing is divided by the root there is none (pooling of statistics)."""
    text = LAYER.split("[n]")[0]
    model = bind(f"g (float[1,8,16] x) => (float[1,8,1] sd) {{ {text} }}", two=TWO, eps=EPS)
    assert not list(norms_of(GraphView(model.proto.graph)))


def test_a_norm_of_one_node_holds_its_parameters(bind):
    """Of a LayerNormalization only gain and offset are inside."""
    model = bind(
        "g (float[1,8,16] x) => (float[1,8,16] y) { [n] y = LayerNormalization(x, gain, offset) }",
        opset=17,
        gain=GAIN,
        offset=OFFSET,
    )
    (norm,) = norms_of(GraphView(model.proto.graph))
    assert (norm.kind, norm.inner) == ("LayerNormalization", {"gain", "offset"})


def test_the_variance_is_the_cause(bind, case_of, quantizer):
    """Variances from 1e-4 to 1 on steps of 1/255: the small ones are 0; without, no noise is left.

    The input's own quantizer stays, and is exact here.
    """
    model = read(bind, LAYER, **FOR_LAYER)
    rng = np.random.default_rng(0)
    rows = rng.choice([-1.0, 1.0], (1, 8, 16)) * np.geomspace(1 / 64, 1, 8).reshape(1, 8, 1)
    quantizers = [
        quantizer("m", "in0", "x", 2.0**-20, qmin=-(1 << 22), qmax=1 << 22),
        quantizer("v", "out0", "var", 1 / 255, qmin=0, qmax=255),
    ]
    case = case_of(model, quantizers, [{"x": rows.astype(np.float32)}])
    case = replace(case, rows=[LayerError("v", "ReduceMean", local_nsr=0.01)])
    (found,) = norms(case)
    assert (found.code, found.layer, found.changes) == ("QA111", "v", {("v", "out0"): None})
    assert found.evidence == {
        "norm": "LayerNorm", "quantizers": 1, "first": "m", "last": "b", "local_nsr": 0.01
    }  # fmt: skip
    (finding,) = (f for f in diagnose(case) if f.code == "QA111")
    assert finding.gain == pytest.approx(1.0, abs=1e-3)


def test_several_norms_are_tried_together_too(bind, case_of, quantizer):
    """One candidate for all, then the loudest first."""
    model = bind(
        """g (float[1,8,16] x) => (float[1,8,16] y) {
            [s] sq = Mul(x, x)  [v] var = ReduceMean<axes=[-1]>(sq)  [e] ve = Add(var, eps)
            [r] sd = Sqrt(ve)  [n] z = Div(x, sd)  [w] h = MatMul(z, weight)
            [S] sq2 = Mul(h, h)  [V] var2 = ReduceMean<axes=[-1]>(sq2)  [E] ve2 = Add(var2, eps)
            [R] sd2 = Sqrt(ve2)  [N] y = Div(h, sd2)
        }""",
        weight=np.eye(16, dtype=np.float32),
        eps=EPS,
    )
    quantizers = [quantizer(n, "out0", t, 0.01) for n, t in (("v", "var"), ("V", "var2"))]
    sample = {"x": np.random.default_rng(0).standard_normal((1, 8, 16)).astype(np.float32)}
    case = case_of(model, quantizers, [sample])
    rows = [LayerError(n, "ReduceMean", local_nsr=x) for n, x in (("v", 0.1), ("V", 0.2))]
    found = list(norms(replace(case, rows=rows)))
    assert [c.layer for c in found] == [None, "V", "v"]
    assert set(found[0].changes) == {("v", "out0"), ("V", "out0")}
