# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: E501 - a graph per line reads best
"""Every rule of the ESP-DL targets against esp-ppq: small graphs, all chips and precisions."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

sys.path.insert(0, str(Path(__file__).parent))

from esp_plans import (
    accumulated,
    differences,
    isolated,
    job,
    planned,
    relative,
    save_samples,
)

pytestmark = [pytest.mark.peer, pytest.mark.filterwarnings("ignore")]

RNG = np.random.default_rng(20)
SAMPLES = 2
CHIPS = ("esp32p4", "esp32s3", "esp32")
# what is used where a graph names it
WEIGHTS = {
    "w": RNG.standard_normal((4, 4, 3, 3)) / 6, "w1": RNG.standard_normal((4, 4, 1, 1)) / 2,
    "dw": RNG.standard_normal((4, 1, 3, 3)) / 3, "b": RNG.standard_normal(4),
    "v": RNG.standard_normal((16, 8)) / 4, "vt": RNG.standard_normal((8, 16)) / 4,
    "vb": RNG.standard_normal(8), "k": RNG.uniform(0.5, 2, (1, 4, 1, 1)),
    "k1": RNG.uniform(-2, 2, (1, 4, 6, 6)), "slope": RNG.uniform(0, 0.4, (4, 1, 1)),
    "zero": 0.0, "six": 6.0, "half": 0.5, "threshold": 0.3, "s24": np.array([2, 2], np.int64),
    "flat": np.array([1, -1], np.int64), "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64),
    "scales": np.array([1.0, 1.0, 2.0, 2.0]), "large": RNG.standard_normal((144, 100)),
    "spike": np.where(np.arange(14400) == 77, -5.0, RNG.standard_normal(14400)).reshape(144, 100),
    "gw": RNG.standard_normal((1, 9, 4)) / 2, "gr": RNG.standard_normal((1, 9, 3)) / 2,
    "gb": RNG.standard_normal((1, 18)) / 4, "h0": RNG.standard_normal((1, 1, 3)),
    "mask": np.where(np.tri(6) == 0, -np.inf, 0.0)[None, None], "table": RNG.standard_normal((5, 4)),
    "rows": np.array([[0, 3, 1]], np.int64), "norm": RNG.uniform(0.5, 2, 4),
}  # fmt: skip
IMAGE = "float[1,4,6,6] x"
Y = "float[1,4,6,6] y"
PAD = "<pads = [1,1,1,1]>"
GRAPHS = {
    "relu": f"({IMAGE}) => ({Y}) {{ [c] h = Conv{PAD}(x, w, b) [r] a = Relu(h) "
            f"[d] y = Conv{PAD}(a, w) }}",
    "clip": f"({IMAGE}) => ({Y}) {{ [c] h = Conv{PAD}(x, w, b) [r] a = Clip(h, zero, six) "
            f"[d] y = Conv{PAD}(a, w) }}",
    "branch": f"({IMAGE}) => ({Y}, float[1,4,6,6] z) {{ [c] h = Conv{PAD}(x, w) [r] y = Relu(h) "
              "[s] z = Sigmoid(h) }",
    "output": f"({IMAGE}) => ({Y}, float[1,4,6,6] h) {{ [c] h = Conv{PAD}(x, w) [r] y = Relu(h) }}",
    "chain": f"({IMAGE}) => ({Y}) {{ [t] h = Tanh(x) [r] a = Relu(h) [c] y = Clip(a, zero, half) }}",
    "depthwise": f"({IMAGE}) => ({Y}) {{ [c] h = Conv<pads = [1,1,1,1], group = 4>(x, dw, b) "
                 "[p] y = Conv(h, w1) }",
    "gemm": "(float[1,16] x) => (float[1,8] y) { [f] h = Gemm(x, v, vb) [r] a = Relu(h) "
            "[g] g = Gemm<transB = 1, transA = 0>(x, vt) [p] y = Add(a, g) }",
    "matmul": "(float[2,3,16] x) => (float[2,3,8] y) { [m] y = MatMul(x, v) }",
    "scores": "(float[1,2,6,8] q, float[1,2,8,6] k2) => (float[1,2,6,6] y) "
              "{ [m] y = MatMul(q, k2) }",
    "skip": f"({IMAGE}) => ({Y}) {{ [r0] a = Relu(x) [c] h = Conv{PAD}(a, w) [add] s = Add(h, a) "
            "[r1] y = Relu(s) }",
    "aligned": f"({IMAGE}) => ({Y}) {{ [t] a = Tanh(x) [s] b2 = Sigmoid(x) [add] y = Add(a, b2) }}",
    "constant": f"({IMAGE}) => ({Y}) {{ [t] a = Tanh(x) [add] h = Add(a, k1) [c] y = Conv(h, w1) }}",
    "concat": f"({IMAGE}) => (float[1,12,6,6] y) {{ [a] p = Conv{PAD}(x, w) "
              "[m] q = MaxPool<kernel_shape = [3,3], pads = [1,1,1,1], strides = [1,1]>(p) [b] r = Conv(x, w1) "
              "[cat] y = Concat<axis = 1>(p, q, r) }",
    "split": f"({IMAGE}) => (float[1,2,6,6] y) {{ [c] h = Conv(x, w1) "
             "[s] a, b2 = Split<axis = 1>(h, s24) [add] y = Add(a, b2) }",
    "resize": f"({IMAGE}) => (float[1,4,12,12] y) {{ [c] h = Conv(x, w1) "
              '[up] y = Resize<mode = "nearest", coordinate_transformation_mode = "asymmetric", '
              'nearest_mode = "floor">(h, , scales) }',
    "moved": f"({IMAGE}) => (float[1,144] y) {{ [c] h = Conv(x, w1) "
             "[t] a = Transpose<perm = [0,2,3,1]>(h) [f] b2 = Reshape(a, flat) [r] y = Relu(b2) }",
    "moved input": f"({IMAGE}) => (float[1,6,6,4] y) {{ [t] y = Transpose<perm = [0,2,3,1]>(x) }}",
    "pad": f"({IMAGE}) => (float[1,4,8,8] y) {{ [c] h = Conv(x, w1) [p] y = Pad(h, pads, half) }}",
    "silu": f"({IMAGE}) => ({Y}) {{ [c] h = Conv(x, w1) [s] a = Sigmoid(h) [m] y = Mul(h, a) }}",
    "functions": f"({IMAGE}) => ({Y}) {{ [a] e0 = HardSwish(x) [b] e1 = Tanh(e0) "
                 "[e] e2 = Elu<alpha = 0.5>(e1) [l] e3 = LeakyRelu<alpha = 0.2>(e2) "
                 "[p] e4 = PRelu(e3, slope) [x1] y = Exp(e4) }",
    "square": f"({IMAGE}) => ({Y}) {{ [t] h = Tanh(x) [sq] y = Mul(h, h) }}",
    "softmax": f"({IMAGE}) => ({Y}) {{ [s] p = Softmax<axis = 1>(x) [add] y = Add(p, x) }}",
    "softmax relu": f"({IMAGE}) => ({Y}) {{ [s] p = Softmax<axis = 1>(x) [r] y = Relu(p) }}",
    "float between": f"({IMAGE}) => ({Y}) {{ [s] a = Sigmoid(x) [q] b2 = Sqrt(a) [t] y = Tanh(b2) }}",
    "means": f"({IMAGE}) => (float[1,4,1,1] y) {{ [g] a = GlobalAveragePool(x) "
             "[m] y = Mul(a, k) }",
    "compare": f"({IMAGE}) => ({Y}) {{ [t] a = Tanh(x) [s] b2 = Sigmoid(x) [g] c2 = Greater(a, b2) "
               "[w] y = Where(c2, a, b2) }",
    "compare constant": f"({IMAGE}) => ({Y}) {{ [t] a = Tanh(x) [l] c2 = Less(a, threshold) "
                        "[w] y = Where(c2, x, k1) }",
    "large constant": "(float[1,144] x) => (float[1,100] y) { [m] y = MatMul(x, spike) }",
    "mask": "(float[1,1,6,6] x) => (float[1,1,6,6] y) { [t] a = Tanh(x) [add] s = Add(a, mask) "
            "[p] y = Softmax<axis = 3>(s) }",
    "lost outputs": f"({IMAGE}) => ({Y}, float[1,4,6,6] h, float[1,4,6,6] s) {{ [c] h = Conv(x, w1) "
                    "[n] a = BatchNormalization(h, norm, b, b, norm) [g] s = Sigmoid(a) [m] y = Mul(s, a) }",
    "biased output": f"({IMAGE}) => ({Y}, float[1,4,6,6] h) {{ [c] h = Conv(x, w1) [a] s = Add(h, k) "
                     "[t] y = Tanh(s) }",
    "biased outputs": "(float[1,16] x) => (float[1,8] y, float[1,8] h) { [f] h = Gemm(x, v) [a] y = Add(h, vb) }",
    "gather": "(float[1,3,4] x) => (float[1,3,4] y) { [g] a = Gather(table, rows) "
              "[add] y = Add(a, x) }",
    "gru": "(float[5,1,4] x) => (float[5,1,1,3] y, float[1,1,3] last) { [t] a = Tanh(x) "
           "[g] y, last = GRU<hidden_size = 3, linear_before_reset = 1>(a, gw, gr, gb, , h0) }",
}  # fmt: skip
# graph -> tables to try on it
TABLES = {
    "relu": [{"c": "int16"}, {"c": "int16", "r": "int16"}, {"r": "int16"}, {"d": "fp32"}],
    "clip": [{"c": "int16"}, {"r": "int16"}],
    "aligned": [{"add": "int16"}, {"t": "int16"}, {"add": "fp32"}],
    "skip": [{"add": "int16"}, {"c": "int16"}, {"r1": "int16"}],
    "concat": [{"cat": "int16"}, {"a": "int16"}],
    "functions": [{"b": "int16"}],
    "compare": [{"g": "int16"}],
    "float between": [{"q": "int8"}],
    "resize": [{"up": "int16"}],
}


@dataclass(frozen=True)
class Case:
    graph: str
    target: str
    precision: str
    algorithm: str | None = None
    table: tuple = ()


def cases():
    for graph in GRAPHS:
        for target in CHIPS:
            for precision in ("int8", "int16", "w8a16"):
                if precision != "w8a16" or graph in ("relu", "depthwise", "gemm", "scores"):
                    yield Case(graph, target, precision)
    for graph, tables in TABLES.items():
        for table in tables:
            # KL of 16 bits has a million bins: seconds per tensor
            yield Case(graph, "esp32p4", "int8", "minmax", tuple(table.items()))
            yield Case(graph, "esp32s3", "int8", "percentile", tuple(table.items()))
    for algorithm in ("minmax", "percentile", "mse"):
        yield Case("skip", "esp32p4", "int8", algorithm)
        yield Case("skip", "esp32s3", "int16", algorithm)


CASES = list(cases())


@pytest.fixture(scope="module")
def answers(judge, tmp_path_factory):
    """Ask about all cases at once; return case -> (model, samples, answer)."""
    folder = tmp_path_factory.mktemp("rules")
    jobs, files = [], []
    made = {name: write(folder, name) for name in GRAPHS}
    for case in CASES:
        path, inputs, samples = made[case.graph]
        options = {"target": case.target, "precision": case.precision, "table": dict(case.table)}
        if case.algorithm:
            options["algorithm"] = case.algorithm
        jobs.append(job(path, inputs, isolated=True, graphwise=True, **options))
        files.append((path, samples, options))
    (folder / "jobs.json").write_text(json.dumps(jobs), encoding="utf-8")
    found = judge("esp-ppq", "esp_ppq_plans", folder / "jobs.json")
    return dict(zip(CASES, zip(files, found, strict=True), strict=True))


def write(folder, name):
    """Write one graph and its inputs."""
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 14]> g {GRAPHS[name]}')
    read = {t for node in proto.graph.node for t in node.input}
    for tensor, value in WEIGHTS.items():
        if tensor in read:
            array = np.asarray(value)
            array = array if array.dtype == np.int64 else array.astype(np.float32)
            proto.graph.initializer.append(numpy_helper.from_array(array, tensor))
    path = folder / f"{name.replace(' ', '_')}.onnx"
    onnx.save(proto, path)
    rng = np.random.default_rng(len(name))
    samples = []
    for _ in range(SAMPLES):
        shapes = {i.name: [d.dim_value for d in i.type.tensor_type.shape.dim]
                  for i in proto.graph.input}  # fmt: skip
        samples.append(
            {n: (2 * rng.standard_normal(s) + 0.3).astype(np.float32) for n, s in shapes.items()}
        )
    return path, save_samples(path.with_suffix(".npz"), samples), samples


def name_of(case):
    table = ",".join(f"{n}@{p}" for n, p in case.table)
    return " ".join(filter(None, [case.graph, case.target, case.precision, case.algorithm, table]))


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_every_slot_and_error_agrees(answers, case):
    """State, bits, rounding and scale of all slots; isolated and accumulated errors within 1e-3."""
    (path, samples, options), theirs = answers[case]
    assert "error" not in theirs, theirs
    mine = planned(path, samples, **options)
    differing, total = differences(theirs["configs"], mine)
    assert not differing
    assert total > 1
    if case.graph == "gru":
        return  # what happens inside is not simulated, and the plan says so
    for found, column in ((isolated, "isolated"), (accumulated, "graphwise")):
        off = relative(found(mine, samples), theirs[column])
        # sums of 16-bit products are not exact in float32, and their errors are that small
        bound = 1e-3 if case.precision == "int8" and not case.table else 1e-2
        assert max(off.values(), default=0) < bound, off
