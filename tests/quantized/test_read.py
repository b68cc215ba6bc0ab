# SPDX-License-Identifier: Apache-2.0
"""Reading quantized files: grids on edges, stored weights, integer operators, refusals."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from analyzer.errors import ModelError
from analyzer.quantized import read_quantized
from analyzer.quantized.operators import INTEGER_OPS
from analyzer.quantized.read import read_float_form

PAIR = """g (float[1,2,2,2] x) => (float[1,2,2,2] y) {
    q = QuantizeLinear(x, s, z)
    d = DequantizeLinear(q, s, z)
    w = DequantizeLinear<axis = 0>(wq, ws, wz)
    [conv] y = Conv(d, w)
}"""
PAIR_VALUES = {
    "s": np.float32(0.5),
    "z": np.int8(3),
    "wq": np.int8([[[[2]], [[-4]]], [[[6]], [[8]]]]),
    "ws": np.float32([0.25, 2.0]),
    "wz": np.int8([0, 2]),
}


def grid_of(form, node, index):
    (grid,) = form.edges[node, index]
    return grid


def test_a_pair_is_a_grid_on_the_edge_to_its_reader(save):
    """Scale, zero point and range are those of the file; the pair itself is gone."""
    form = read_float_form(save("pair", PAIR, **PAIR_VALUES))
    grid = grid_of(form, "conv", 0)
    assert (grid.bits, grid.signed, grid.qmin, grid.qmax) == (8, True, -128, 127)
    assert (grid.scale.tolist(), grid.zero_point.tolist(), grid.axis) == ([0.5], [3], None)
    assert [node.op_type for node in form.proto.graph.node] == ["Conv"]
    assert form.proto.graph.node[0].input[0] == "x"


def test_stored_weights_are_dequantized(save):
    """(q - zero point) * scale of its channel: (2-0)/4, (-4-0)/4, (6-2)*2, (8-2)*2."""
    form = read_float_form(save("pair", PAIR, **PAIR_VALUES))
    name = form.proto.graph.node[0].input[1]
    weight = next(t for t in form.proto.graph.initializer if t.name == name)
    assert numpy_helper.to_array(weight).ravel().tolist() == [0.5, -1.0, 8.0, 12.0]
    grid = grid_of(form, "conv", 1)
    assert (grid.axis, grid.scale.tolist(), grid.zero_point.tolist()) == (0, [0.25, 2.0], [0, 2])
    assert dict(form.grids) == {"activation": 1, "constant": 1}


def test_channels_follow_a_transposed_weight(save):
    """A weight quantized along axis 0 and then transposed is quantized along axis 1."""
    path = save(
        "turned",
        """g (float[1,2] x) => (float[1,3] y) {
            w = DequantizeLinear<axis = 0>(wq, ws)
            t = Transpose<perm = [1,0]>(w)
            [fc] y = MatMul(x, t)
        }""",
        wq=np.int8([[1, 2], [3, 4], [5, 6]]), ws=np.float32([1.0, 0.5, 0.25]),
    )  # fmt: skip
    form = read_float_form(path)
    grid = grid_of(form, "fc", 1)
    assert (grid.axis, grid.scale.tolist()) == (1, [1.0, 0.5, 0.25])
    name = form.proto.graph.node[0].input[1]
    weight = next(t for t in form.proto.graph.initializer if t.name == name)
    assert numpy_helper.to_array(weight).tolist() == [[1.0, 1.5, 1.25], [2.0, 2.0, 1.5]]


def test_a_clip_of_integers_narrows_the_grid(save, bound, simulated, as_onnxruntime):
    """Torch writes a range of 7 bits as uint8 with a Clip between the pair."""
    path = save(
        "narrow",
        """g (float[4] x) => (float[4] y) {
            q = QuantizeLinear(x, s, z)
            c = Clip(q, , top)
            d = DequantizeLinear(c, s, z)
            [act] y = Sigmoid(d)
        }""",
        s=np.float32(0.1), z=np.uint8(5), top=np.uint8(127),
    )  # fmt: skip
    grid = grid_of(read_float_form(path), "act", 0)
    assert (grid.signed, grid.qmin, grid.qmax) == (False, 0, 127)
    feeds = {"x": np.float32([-3.0, 0.04, 12.17, 99.0])}
    result = read_quantized(bound(path, quantized=True), path)
    np.testing.assert_array_equal(simulated(result, feeds)[0], as_onnxruntime(path, feeds)[0])


def test_integers_that_are_only_moved_stay_on_their_grid(save, bound, simulated, as_onnxruntime):
    """int8 input, moved as integers, read by a Conv, and an int8 output: all float afterwards."""
    path = save(
        "moved",
        """g (int8[1,2,2,1] x) => (int8[1,2,4] y) {
            t = Transpose<perm = [0,3,1,2]>(x)
            d = DequantizeLinear(t, s, z)
            w = DequantizeLinear(wq, ws)
            [conv] c = Conv(d, w)
            q = QuantizeLinear(c, so, zo)
            y = Reshape(q, shape)
        }""",
        s=np.float32(0.5), z=np.int8(-128), wq=np.int8([[[[3]]], [[[-2]]]]), ws=np.float32(0.1),
        so=np.float32(0.4), zo=np.int8(1), shape=np.array([1, 2, 4]),
    )  # fmt: skip
    form = read_float_form(path)
    kinds = [v.type.tensor_type.elem_type for v in (*form.proto.graph.input,
                                                     *form.proto.graph.output)]  # fmt: skip
    assert kinds == [TensorProto.FLOAT] * 2
    levels = np.int8([[[[-120], [-3]], [[0], [127]]]])
    result = read_quantized(bound(path, quantized=True), path)
    ours = simulated(result, {"x": (levels.astype(np.float32) + 128) * np.float32(0.5)})[0]
    theirs = as_onnxruntime(path, {"x": levels})[0]
    np.testing.assert_array_equal(ours, (theirs.astype(np.float32) - 1) * np.float32(0.4))


@pytest.mark.parametrize("op", ["Conv", "Sigmoid"])
def test_a_relu_its_quantizer_stands_in_for_is_written_out(save, op):
    """A lowest level that means 0 clips like a Relu, but a Sigmoid has none to lose."""
    node = "[n] h = Conv(x, w)" if op == "Conv" else "[n] h = Sigmoid(x)"
    path = save(
        "clipped",
        f"""g (float[1,1,2,2] x) => (float[1,1,2,2] y) {{
            {node}
            q = QuantizeLinear(h, s, z)
            y = DequantizeLinear(q, s, z)
        }}""",
        s=np.float32(0.1), z=np.int8(-128), w=np.float32([[[[1.0]]]]),
    )  # fmt: skip
    restored = read_float_form(path).restored
    assert list(restored) == (["n"] if op == "Conv" else [])


def integer_model(op):
    """One integer operator between QuantizeLinear and DequantizeLinear."""
    rng = np.random.default_rng(3)
    x = (np.float32(0.03), np.uint8(120))
    out = (np.float32(0.05), np.uint8(100))
    shape = (2, 6) if op in ("QLinearMatMul", "QGemm") else (1, 3, 4, 4)
    values = {"xs": x[0], "xz": x[1], "ys": out[0], "yz": out[1]}
    weight = {
        "QLinearConv": (3, 3, 3, 3), "QLinearMatMul": (6, 3), "QGemm": (6, 3),
        "QLinearAdd": shape, "QLinearMul": shape, "QLinearWhere": shape,
    }.get(op)  # fmt: skip
    attributes = {}
    operand, result = ["q", "xs", "xz"], ["ys", "yz"]
    if weight is not None:
        values["w"] = rng.integers(-100, 100, weight).astype(np.int8)
        values["ws"] = np.float32(0.004)
        values["wz"] = np.int8(0)
        if op in ("QLinearAdd", "QLinearMul", "QLinearWhere"):
            values["w"], values["wz"] = values["w"].astype(np.uint8), np.uint8(90)
            values["ws"] = np.float32(0.02)
    second = ["w", "ws", "wz"]
    inputs = [*operand, *(second if weight is not None else ()), *result]
    if op in ("QLinearConv", "QLinearMatMul"):
        values["ws"] = np.float32([0.004, 0.002, 0.006])
        values["wz"] = np.int8([0, 0, 0])
    if op == "QLinearConv":
        values["b"] = np.int32([500, -900, 40])
        inputs.append("b")
    if op == "QGemm":
        values["b"] = np.int32([500, -900, 40])
        inputs = [*operand, *second, "b", *result]
        attributes = {"alpha": 0.5}
    if op == "QLinearConcat":
        inputs, attributes = [*result, *operand, *operand], {"axis": 1}
    if op == "QLinearWhere":
        values["pick"] = rng.random(shape) > 0.5
        inputs = ["pick", *operand, *second, *result]
    if op == "QLinearLeakyRelu":
        attributes = {"alpha": 0.2}
    if op == "QLinearSoftmax":
        attributes = {"axis": -1, "opset": 13}
        values["ys"], values["yz"] = np.float32(1 / 256), np.uint8(0)
    if op == "QLinearAveragePool":
        attributes = {"kernel_shape": [3, 3]}
    domain = "" if op in ("QLinearConv", "QLinearMatMul") else "com.microsoft"
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "xs", "xz"], ["q"]),
        helper.make_node(op, inputs, ["h"], name="op", domain=domain, **attributes),
        helper.make_node("DequantizeLinear", ["h", "ys", "yz"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in values.items()],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 13), helper.make_opsetid("com.microsoft", 1)]
    proto = helper.make_model(graph, opset_imports=opsets)
    proto.ir_version = 8
    return proto, rng.normal(0, 1.5, shape).astype(np.float32), float(values["ys"])


@pytest.mark.parametrize("op", sorted(INTEGER_OPS))
def test_integer_operators_become_float_ones_with_grids(
    tmp_path, op, bound, simulated, as_onnxruntime
):
    """The simulated twin gives the levels of onnxruntime's integer kernel, but for rare ties."""
    proto, x, step = integer_model(op)
    path = tmp_path / f"{op}.onnx"
    onnx.save(proto, path)
    result = read_quantized(bound(path, quantized=True), path)
    ours = simulated(result, {"x": x})[0]
    theirs = as_onnxruntime(path, {"x": x})[0]
    off = np.abs(ours - theirs) / step
    assert off.max() <= 1.01  # integer kernels round a tie, or a mean, the other way
    assert np.mean(off > 0.01) <= 0.05
    assert np.ptp(theirs) > 2 * step


@pytest.mark.parametrize(
    ("text", "values", "says"),
    [
        ("y = Sigmoid(x)", {}, "has no quantizer"),
        (
            "q, s, z = DynamicQuantizeLinear(x)  y = DequantizeLinear(q, s, z)",
            {}, r"dynamically \(1 DynamicQuantizeLinear\)",
        ),
        (
            "q = QuantizeLinear(x, s)  y = DequantizeLinear(q, t)",
            {"s": np.float32(1), "t": np.float32(2)}, "with scale 2 .* quantized with 1",
        ),
        (
            "m = ReduceMax<keepdims = 0>(x)  q = QuantizeLinear(x, m)  y = DequantizeLinear(q, m)",
            {}, "is computed while the model runs",
        ),
        (
            "q = QuantizeLinear(x, s)  y = DequantizeLinear(q, s)",
            {"s": np.float32(-1)}, "scale .*expected positive",
        ),
        (
            "q = QuantizeLinear(x, s)  y = DequantizeLinear(q, s)",
            {"s": np.float32(np.nan)}, "scale .*expected positive",
        ),
        (
            "q = QuantizeLinear(x, s)  c = Cast<to = 1>(q)  y = Sigmoid(c)",
            {"s": np.float32(1)}, "computes with integers",
        ),
        (
            "y = onnx.brevitas.Quant(x)", {}, "does not know .1 onnx.brevitas.Quant",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_told_in_a_sentence(save, text, values, says):
    """Value, expectation, remedy; never another exception."""
    path = save("bad", f"g (float[4] x) => (float[4] y) {{ {text} }}", **values)
    with pytest.raises(ModelError, match=says) as error:
        read_float_form(path)
    assert error.value.remedy


def test_scales_of_blocks_are_refused(save):
    """No quantizer of a plan has one scale per block."""
    path = save(
        "blocks",
        """g (float[2,4] x) => (float[2,4] y) {
            w = DequantizeLinear<axis = 0, block_size = 2>(wq, ws)
            y = MatMul(x, w)
        }""",
        opset=21, wq=np.ones((4, 4), np.int8), ws=np.ones((2, 4), np.float32),
    )  # fmt: skip
    with pytest.raises(ModelError, match="one scale per block"):
        read_float_form(path)


def broken(proto, rng):
    """Damage a model somewhere."""
    graph = proto.graph
    node = graph.node[rng.integers(len(graph.node))]
    tensor = graph.initializer[rng.integers(len(graph.initializer))]
    array = numpy_helper.to_array(tensor)
    match rng.integers(6):
        case 0:
            graph.node.remove(node)
        case 1:
            tensor.CopyFrom(numpy_helper.from_array(np.zeros_like(array), tensor.name))
        case 2:
            shape = [(), (1,), (2,), (0,), (3, 4)][rng.integers(5)]
            tensor.CopyFrom(numpy_helper.from_array(np.resize(array, shape), tensor.name))
        case 3:
            kind = ["i1", "u1", "i4", "f4", "i8"][rng.integers(5)]
            tensor.CopyFrom(numpy_helper.from_array(array.astype(kind), tensor.name))
        case 4:
            made = [name for other in graph.node for name in other.output]
            node.input[rng.integers(len(node.input))] = made[rng.integers(len(made))]
        case 5:
            kinds = ["QuantizeLinear", "DequantizeLinear", "Clip", "Transpose", "QLinearConv"]
            node.op_type = kinds[rng.integers(5)]
    return proto


@pytest.mark.parametrize("seed", range(4))
def test_damaged_files_are_read_or_refused(save, tmp_path, bound, seed):
    """Whatever is broken, there is a plan or a ModelError, never another exception."""
    rng = np.random.default_rng(seed)
    proto = onnx.load(save("pair", PAIR, **PAIR_VALUES))
    read = 0
    for number in range(30):
        copy = onnx.ModelProto()
        copy.CopyFrom(proto)
        path = tmp_path / f"{number}.onnx"
        path.write_bytes(broken(copy, rng).SerializeToString())
        try:
            read_quantized(bound(path, quantized=True), path)
            read += 1
        except ModelError as error:
            assert error.message.endswith(".")  # noqa: PT017
    assert 0 < read < 30
