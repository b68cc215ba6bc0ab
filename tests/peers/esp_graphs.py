# SPDX-License-Identifier: Apache-2.0
"""Small graphs, each of which esp-ppq rewrites in one way before it quantizes."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

_RNG = np.random.default_rng(1)


def _w(*shape):
    return _RNG.standard_normal(shape).astype(np.float32)


def _v(*shape):
    return (_RNG.random(shape) + 0.5).astype(np.float32)


def _f(value):
    return np.float32(value)


def _i(*values):
    return np.array(values, np.int64)


def _norm(channels):
    return {"s": _v(channels), "o": _w(channels), "m": _w(channels), "v": _v(channels)}


_PICTURE = "float[1,4,8,8] x"
_QKV = "[q0] q = Neg(x) [k0] k = Relu(x) [v0] v = Abs(x) "
_SWAP = "[tk] kt = Transpose<perm=[0,1,3,2]>(k) "
_TAIL = "[sm] p = Softmax(s) [pv] y = MatMul(p, v)"
_CONV = "[c] h = Conv<pads=[1,1,1,1]>(x, w) "
_RMS = "[i] a = Neg(x) [p] s = Pow(a, two) "

# name -> (opset, graph inputs, nodes, shape of the output y, constants)
CASES = {
    # biases and norms
    "bias behind Conv": (
        13,
        _PICTURE,
        _CONV + "[a] y = Add(b, h)",
        (1, 3, 8, 8),
        {"w": _w(3, 4, 3, 3), "b": _w(1, 3, 1, 1)},
    ),
    "one value behind Conv": (
        13,
        _PICTURE,
        _CONV + "[a] y = Add(b, h)",
        (1, 3, 8, 8),
        {"w": _w(3, 4, 3, 3), "b": _w(1, 1, 1, 1)},
    ),
    "matrix behind Gemm": (
        13,
        "float[2,3] x",
        "[c] h = Gemm(x, w) [a] y = Add(h, b)",
        (2, 4),
        {"w": _w(3, 4), "b": _w(2, 4)},
    ),
    "bias then norm": (
        13,
        _PICTURE,
        _CONV + "[a] h2 = Add(h, b) [n] y = BatchNormalization(h2, s, o, m, v)",
        (1, 3, 8, 8),
        dict(w=_w(3, 4, 3, 3), b=_w(1, 3, 1, 1), **_norm(3)),
    ),
    "norm first": (
        13,
        _PICTURE,
        "[n] h = BatchNormalization(x, s, o, m, v) [r] y = Relu(h)",
        (1, 4, 8, 8),
        _norm(4),
    ),
    "norm beside a reader": (
        13,
        _PICTURE,
        _CONV + "[n] k = BatchNormalization(h, s, o, m, v) [r] y = Add(k, h)",
        (1, 3, 8, 8),
        dict(w=_w(3, 4, 3, 3), **_norm(3)),
    ),
    # what onnxsim does
    "pad folded": (
        13,
        _PICTURE,
        ("[p] h = Pad(x, pads) [c] k = Conv(h, w) [i] j = Identity(k) [r] y = Relu(j)"),
        (1, 3, 8, 8),
        {"w": _w(3, 4, 3, 3), "pads": _i(0, 0, 1, 1, 0, 0, 1, 1)},
    ),
    "3-D MatMul and Add": (
        13,
        "float[1,5,8] x",
        ("[a] h = MatMul(x, w) [b] k = Add(h, c) [r] y = Relu(k)"),
        (1, 5, 6),
        {"w": _w(8, 6), "c": _w(6)},
    ),
    "2-D MatMul and Add": (
        13,
        "float[5,8] x",
        ("[a] h = MatMul(x, w) [b] k = Add(h, c) [r] y = Relu(k)"),
        (5, 6),
        {"w": _w(8, 6), "c": _w(6)},
    ),
    "no names": (
        13,
        _PICTURE,
        "h = Relu(x) [k] a = Abs(h) b = Neg(a) y = Relu(b)",
        (1, 4, 8, 8),
        {},
    ),
    "equal nodes": (
        13,
        "float[1,3] x",
        ("[a] h = Relu(x) [a2] h2 = Relu(x) [m] k = Neg(h) [m2] k2 = Neg(h2) [b] y = Add(k, k2)"),
        (1, 3),
        {},
    ),
    "one constant for two": (
        13,
        "float[1,3] x",
        ("[a] h = Add(x, w) [m] k = Mul(h, w) [b] y = Add(k, w)"),
        (1, 3),
        {"w": _w(3)},
    ),
    # fused functions
    "swish": (
        13,
        _PICTURE,
        (
            "[s0] q = Sigmoid(x) [m0] x2 = Mul(x, q) [c] h = Conv(x2, w) "
            "[s1] a = Sigmoid(h) [m1] b = Mul(a, h) [n] k = Neg(h) [s2] a2 = Sigmoid(b) "
            "[m2] b2 = Mul(b, a2) [d] y = Add(b2, k)"
        ),
        (1, 3, 8, 8),
        {"w": _w(3, 4, 1, 1)},
    ),
    "rms norm by Div": (
        17,
        "float[1,6,16] x",
        _RMS + "[r] m = ReduceMean<axes=[-1]>(s) "
        "[ad] e = Add(m, eps) [sq] q = Sqrt(e) [d] n = Div(a, q) "
        "[m1] y = Mul(n, g0)",
        (1, 6, 16),
        {"two": _f(2), "eps": _f(1e-6), "g0": _v(16)},
    ),
    "rms norm by Reciprocal": (
        18,
        "float[1,6,16] x",
        _RMS + "[r] m = ReduceMean(s, ax) "
        "[sq] q = Sqrt(m) [rc] d = Reciprocal(q) [m0] n = Mul(a, d) "
        "[m1] y = Mul(g0, n)",
        (1, 6, 16),
        {"two": _f(2), "ax": _i(-1), "g0": _v(16)},
    ),
    "lp norm": (
        13,
        "float[1,6,16] x",
        (
            "[i] a = Neg(x) [r] n = ReduceL2<axes=[2]>(a) "
            "[c] m = Clip(n, lo) [e] k = Expand(m, sh) [d] y = Div(a, k)"
        ),
        (1, 6, 16),
        {"lo": _f(1e-12), "sh": _i(1, 6, 16)},
    ),
    # ConvTranspose
    "transposed, all attributes": (
        13,
        "float[1,4,5,6] x",
        (
            "[i] a = Relu(x) [t] y = ConvTranspose<"
            "strides=[2,3],pads=[1,0,1,1],output_padding=[1,0],group=2,"
            "kernel_shape=[3,4]>(a, w, b)"
        ),
        (1, 6, 10, 18),
        {"w": _w(4, 3, 3, 4), "b": _w(6)},
    ),
    "transposed 1-D, three in a row": (
        13,
        "float[1,4,5] x",
        (
            "[t] h = ConvTranspose<kernel_shape=[3]>(x, w) "
            "[u] k = ConvTranspose<strides=[2],kernel_shape=[2]>(h, w2) "
            "[v] y = ConvTranspose<strides=[2],kernel_shape=[2]>(k, w3)"
        ),
        (1, 2, 28),
        {"w": _w(4, 3, 3), "w2": _w(3, 2, 2), "w3": _w(2, 2, 2)},
    ),
    "transposed with a norm": (
        13,
        "float[1,4,5,5] x",
        (
            "[t] a = ConvTranspose<strides=[2,2],kernel_shape=[2,2]>(x, w) "
            "[n] b = BatchNormalization(a, s, o, m, v) [r] c = Relu(b) "
            "[u] y = ConvTranspose<strides=[2,2],kernel_shape=[2,2]>(c, w2)"
        ),
        (1, 2, 20, 20),
        dict(w=_w(4, 3, 2, 2), w2=_w(3, 2, 2, 2), **_norm(3)),
    ),
    # attention
    "attention": (
        13,
        "float[1,2,5,8] x",
        _QKV + _SWAP + "[qk] s = MatMul(q, kt) " + _TAIL,
        (1, 2, 5, 8),
        {},
    ),
    "attention, scaled and masked": (
        13,
        "float[1,2,5,8] x",
        _QKV + _SWAP + "[qk] r = MatMul(q, kt) [sc] r2 = Mul(r, c) [ma] s = Add(m, r2) " + _TAIL,
        (1, 2, 5, 8),
        {"c": _f(0.3), "m": _w(1, 1, 5, 5)},
    ),
    "attention, divided": (
        13,
        "float[1,2,5,8] x",
        _QKV + _SWAP + "[qk] r = MatMul(q, kt) [sc] s = Div(r, c) " + _TAIL,
        (1, 2, 5, 8),
        {"c": _f(3)},
    ),
    "attention, scaled before": (
        13,
        "float[1,2,5,8] x",
        _QKV + _SWAP + "[pq] q2 = Mul(q, c) [pk] k2 = Mul(kt, c) [qk] s = MatMul(q2, k2) " + _TAIL,
        (1, 2, 5, 8),
        {"c": _f(0.6)},
    ),
    "attention, values first": (
        13,
        "float[1,2,5,8] x",
        _QKV + _SWAP + "[qk] s = MatMul(q, kt) [sm] p = Softmax(s) "
        "[tp] pt = Transpose<perm=[0,1,3,2]>(p) [tv] vt = Transpose<perm=[0,1,3,2]>(v) "
        "[pv] y = MatMul(vt, pt)",
        (1, 2, 8, 5),
        {},
    ),
    "attention, 3-D": (
        13,
        "float[2,5,8] x",
        _QKV + "[tk] kt = Transpose<perm=[0,2,1]>(k) [qk] s = MatMul(q, kt) " + _TAIL,
        (2, 5, 8),
        {},
    ),
    "attention, keys turned": (
        13,
        "float[1,5,2,8] x",
        "[q0] q = Transpose<perm=[0,2,1,3]>(x) [k0] k = Relu(x) "
        "[v0] v1 = Abs(x) [v1] v = Transpose<perm=[0,2,1,3]>(v1) "
        "[tk] kt = Transpose<perm=[0,2,3,1]>(k) [qk] s = MatMul(q, kt) " + _TAIL,
        (1, 2, 5, 8),
        {},
    ),
    "attention, 3-D keys turned": (
        13,
        "float[5,2,8] x",
        "[q0] q = Transpose<perm=[1,0,2]>(x) [k0] k = Relu(x) "
        "[v0] v1 = Abs(x) [v1] v = Transpose<perm=[1,0,2]>(v1) "
        "[tk] kt = Transpose<perm=[1,2,0]>(k) [qk] s = MatMul(q, kt) " + _TAIL,
        (2, 5, 8),
        {},
    ),
    "attention, keys come turned": (
        13,
        "float[1,2,5,8] x, float[1,2,8,5] z",
        "[q0] q = Neg(x) [k0] kt = Relu(z) [v0] v = Abs(x) [qk] s = MatMul(q, kt) " + _TAIL,
        (1, 2, 5, 8),
        {},
    ),
    "attention, heads merged": (
        13,
        "float[1,2,5,8] x",
        _QKV + "[r1] k1 = Reshape(k, sa) "
        "[tk] k2 = Transpose<perm=[0,2,1]>(k1) [r2] kt = Reshape(k2, sb) [pq] q2 = Mul(q, c) "
        "[pk] kt2 = Mul(kt, c) [qk] s = MatMul(q2, kt2) " + _TAIL,
        (1, 2, 5, 8),
        {"c": _f(0.6), "sa": _i(2, 5, 8), "sb": _i(1, 2, 8, 5)},
    ),
    "attention, heads too large": (
        13,
        "float[1,2,5,72] x",
        _QKV + _SWAP + "[qk] s = MatMul(q, kt) " + _TAIL,
        (1, 2, 5, 72),
        {},
    ),
    "attention, heads not forward": (
        13,
        "float[1,5,16] x",
        "[q0] q1 = Neg(x) [qr] q = Reshape(q1, sa) [k0] k = Relu(q) "
        "[v0] v = Abs(q) " + _SWAP + "[qk] s = MatMul(q, kt) " + _TAIL,
        (1, 5, 2, 8),
        {"sa": _i(1, 5, 2, 8)},
    ),
    "attention twice, then transposed": (
        13,
        "float[1,2,5,8] x",
        _QKV + _SWAP + "[qk] s = MatMul(q, kt) [sm] p = Softmax(s) "
        "[pv] v2 = MatMul(p, v) [tk2] kt2 = Transpose<perm=[0,1,3,2]>(v2) "
        "[qk2] s2 = MatMul(q, kt2) [ma] s3 = Add(s2, m) [sm2] p2 = Softmax(s3) "
        "[pv2] o = MatMul(p2, v2) [t] y = ConvTranspose<strides=[2,2],pads=[0,0,0,0],"
        "kernel_shape=[2,2]>(o, w)",
        (1, 2, 10, 16),
        {"m": _w(5, 5), "w": _w(2, 2, 2, 2)},
    ),
    # kernels
    "average, padded": (
        13,
        _PICTURE,
        ("[p] y = AveragePool<kernel_shape=[3,3],strides=[1,1],pads=[1,1,1,1]>(x)"),
        (1, 4, 8, 8),
        {},
    ),
    "average, auto_pad": (
        13,
        _PICTURE,
        ('[p] y = AveragePool<kernel_shape=[3,3],strides=[2,2],auto_pad="SAME_UPPER">(x)'),
        (1, 4, 4, 4),
        {},
    ),
    "average, ceiled": (
        13,
        "float[1,3,9,9] x",
        ("[p] y = AveragePool<kernel_shape=[3,3],strides=[2,2],pads=[0,0,1,1],ceil_mode=1>(x)"),
        (1, 3, 5, 5),
        {},
    ),
    "resize, linear asymmetric": (
        13,
        _PICTURE,
        ('[r] y = Resize<mode="linear",coordinate_transformation_mode="asymmetric">(x, , , s)'),
        (1, 4, 16, 16),
        {"s": _i(1, 4, 16, 16)},
    ),
    "resize, linear aligned": (
        13,
        _PICTURE,
        ('[r] y = Resize<mode="linear",coordinate_transformation_mode="align_corners">(x, , , s)'),
        (1, 4, 13, 17),
        {"s": _i(1, 4, 13, 17)},
    ),
    "resize, linear by 1.3": (
        13,
        _PICTURE,
        '[r] y = Resize<mode="linear">(x, , s)',
        (1, 4, 10, 13),
        {"s": np.array([1, 1, 1.3, 1.7], np.float32)},
    ),
    "resize, nearest above": (
        13,
        _PICTURE,
        (
            '[r] y = Resize<mode="nearest",coordinate_transformation_mode="asymmetric",'
            'nearest_mode="ceil">(x, , , s)'
        ),
        (1, 4, 16, 16),
        {"s": _i(1, 4, 16, 16)},
    ),
    "resize, nearest by 1.5": (
        13,
        _PICTURE,
        '[r] y = Resize<mode="nearest">(x, , , s)',
        (1, 4, 12, 12),
        {"s": _i(1, 4, 12, 12)},
    ),
    "gelu by tanh": (20, _PICTURE, '[a] y = Gelu<approximate="tanh">(x)', (1, 4, 8, 8), {}),
    "space to depth": (13, _PICTURE, "[a] y = SpaceToDepth<blocksize=2>(x)", (1, 16, 4, 4), {}),
    "pad with 0.5, opset 10": (
        10,
        _PICTURE,
        ("[n] h = Neg(x) [a] y = Pad<pads=[0,0,1,0,0,0,0,1],value=0.5>(h)"),
        (1, 4, 9, 9),
        {},
    ),
}


def model(case):
    """Return the ONNX model of a case."""
    opset, inputs, nodes, shape, constants = CASES[case]
    made = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["": {opset}]> '
        f"g ({inputs}) => (float{list(shape)} y) {{ {nodes} }}"
    )
    made.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()
    )
    return made
