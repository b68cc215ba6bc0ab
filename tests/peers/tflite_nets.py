# SPDX-License-Identifier: Apache-2.0
"""Small graphs, one idea each, that both TFLite quantizers can be shown."""

from __future__ import annotations

import numpy as np

IMAGE = "float[1,4,8,8]"


def weights(*shape):
    rng = np.random.default_rng(sum(shape))
    return (rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)


W1 = {"w1": weights(6, 4, 3, 3), "b1": weights(6)}
C1 = "c1 = Conv<pads = [1,1,1,1]>(x, w1, b1)"  # (1, 6, 8, 8)
W2 = {"w2": weights(6, 4, 1, 1), "b2": weights(6)}
C2 = "c2 = Conv(x, w2, b2)"  # (1, 6, 8, 8)
BOTH = {**W1, **W2}
TAIL = {"w9": weights(3, 6, 1, 1)}
ZERO, SIX, ONE, HALF = (np.float32(v) for v in (0, 6, 1, 0.5))


def image(body, out="float[1,6,8,8]", **more):
    return f"g ({IMAGE} x) => ({out} y) {{ {body} }}", more


def rows(body, out, **more):
    return f"g (float[3,8] x) => ({out} y) {{ {body} }}", more


NETS = {
    "conv": image("y = Conv<pads = [1,1,1,1]>(x, w1, b1)", **W1),
    "conv_without_bias": image("y = Conv(x, w2)", w2=W2["w2"]),
    "conv_stride_same": image(
        "y = Conv<pads = [0,0,1,1], strides = [2,2]>(x, w1, b1)", "float[1,6,4,4]", **W1
    ),
    "conv_explicit_padding": image(
        "y = Conv<pads = [1,1,1,1], strides = [2,2]>(x, w1, b1)", "float[1,6,4,4]", **W1
    ),
    "conv_dilated": image("y = Conv<pads = [2,2,2,2], dilations = [2,2]>(x, w1)", w1=W1["w1"]),
    "conv_relu": image(f"{C1} y = Relu(c1)", **W1),
    "conv_relu6": image(f"{C1} y = Clip(c1, lo, hi)", lo=ZERO, hi=SIX, **W1),
    "conv_add_bias": image("c = Conv(x, w2) y = Add(c, b)", w2=W2["w2"], b=weights(6, 1, 1)),
    "conv_relu_read_twice": image(f"{C1} a = Relu(c1) y = Add(a, c1)", **W1),
    "depthwise": image(
        "d = Conv<group = 4, pads = [1,1,1,1]>(x, wd, bd) r = Clip(d, lo, hi) y = Conv(r, w2)",
        wd=weights(4, 1, 3, 3), bd=weights(4), w2=W2["w2"], lo=ZERO, hi=SIX,
    ),
    "depthwise_multiplier": image(
        "y = Conv<group = 4, pads = [1,1,1,1]>(x, wd)", "float[1,8,8,8]", wd=weights(8, 1, 3, 3)
    ),
    "transposed_conv": image(
        "y = ConvTranspose<strides = [2,2]>(x, wt, bt)", "float[1,5,16,16]",
        wt=weights(4, 5, 2, 2), bt=weights(5),
    ),
    "add_relu": image(f"{C1} {C2} s = Add(c1, c2) y = Relu(s)", **BOTH),
    "sub_mul": image(f"{C1} {C2} s = Sub(c1, c2) y = Mul(s, c1)", **BOTH),
    "add_constant": image(f"{C1} y = Add(c1, k)", k=weights(1, 6, 8, 8), **W1),
    "mul_scalar": image(f"{C1} r = Relu(c1) y = Mul(r, k)", k=HALF, **W1),
    "sub_positive_constant": image("y = Sub(x, k)", IMAGE, k=ONE),
    "div": image(f"{C1} {C2} s = Sigmoid(c2) y = Div(c1, s)", **BOTH),
    "relu_alone": image("y = Relu(x)", IMAGE),
    "relu6_alone": image("r = Clip(x, lo, hi) y = Conv(r, w2)", lo=ZERO, hi=SIX, w2=W2["w2"]),
    "leaky_relu": image(f"{C1} r = LeakyRelu<alpha = 0.1>(c1) y = Conv(r, w9)",
                        "float[1,3,8,8]", **W1, **TAIL),
    "hard_swish": image(f"{C1} y = HardSwish(c1)", **W1),
    "silu": image(f"{C1} s = Sigmoid(c1) y = Mul(c1, s)", **W1),
    "tanh": image(f"{C1} t = Tanh(c1) y = Conv(t, w9)", "float[1,3,8,8]", **W1, **TAIL),
    "max_pool": image(f"{C1} y = MaxPool<kernel_shape = [2,2], strides = [2,2]>(c1)",
                      "float[1,6,4,4]", **W1),
    "average_pool": image(f"{C1} y = AveragePool<kernel_shape = [2,2], strides = [2,2]>(c1)",
                          "float[1,6,4,4]", **W1),
    "pool_of_the_input": image(
        "p = MaxPool<kernel_shape = [3,3], pads = [1,1,1,1]>(x) y = Conv(p, w2)", w2=W2["w2"]
    ),
    "global_pool_softmax": image(
        f"{C1} p = GlobalAveragePool(c1) f = Flatten(p) m = MatMul(f, wm) a = Add(m, bm) "
        "y = Softmax<axis = 1>(a)", "float[1,5]", wm=weights(6, 5), bm=weights(5), **W1,
    ),
    "mean": image(f"{C1} y = ReduceMean<axes = [2,3], keepdims = 0>(c1)", "float[1,6]", **W1),
    "concat": image(f"{C1} {C2} y = Concat<axis = 1>(c1, c2)", "float[1,12,8,8]", **BOTH),
    "concat_read_elsewhere": image(
        f"{C1} {C2} j = Concat<axis = 1>(c1, c2) a = Add(c1, c2) y = Concat<axis = 1>(j, a)",
        "float[1,18,8,8]", **BOTH,
    ),
    "concat_with_the_input": image(f"{C1} y = Concat<axis = 1>(c1, x)", "float[1,10,8,8]", **W1),
    "concat_of_pools": image(
        f"{C1} p = MaxPool<kernel_shape = [3,3], pads = [1,1,1,1]>(c1) "
        "q = MaxPool<kernel_shape = [3,3], pads = [1,1,1,1]>(p) j = Concat<axis = 1>(c1, p, q) "
        "y = Conv(j, w9)", "float[1,3,8,8]", w9=weights(3, 18, 1, 1), **W1,
    ),
    "concat_of_sigmoid": image(
        f"{C1} {C2} s = Sigmoid(c1) y = Concat<axis = 1>(s, c2)", "float[1,12,8,8]", **BOTH
    ),
    "concat_with_a_constant": image(
        f"{C1} y = Concat<axis = 1>(c1, k)", "float[1,7,8,8]", k=weights(1, 1, 8, 8), **W1
    ),
    "maximum": image(f"{C1} {C2} y = Max(c1, c2)", **BOTH),
    "minimum": image(f"{C1} {C2} m = Min(c1, c2) y = Conv(m, w9)", "float[1,3,8,8]",
                     **BOTH, **TAIL),
    "reshape_transpose": image(
        f"{C1} r = Reshape(c1, shape) t = Transpose<perm = [0,2,1]>(r) y = MatMul(t, wm)",
        "float[1,64,5]", shape=np.array([1, 6, 64]), wm=weights(6, 5), **W1,
    ),
    "slices": image(
        f"{C1} s = Slice(c1, from, to, along) y = Conv(s, w9)", "float[1,3,8,8]",
        **{"from": np.array([1]), "to": np.array([5]), "along": np.array([1])},
        w9=weights(3, 4, 1, 1), **W1,
    ),
    "split": image(
        f"{C1} p, q = Split<axis = 1>(c1) y = Mul(p, q)", "float[1,3,8,8]", **W1
    ),
    "uneven_split": image(
        f"{C1} p, q = Split<axis = 1>(c1, sizes) y = Concat<axis = 1>(q, p)",
        sizes=np.array([2, 4]), **W1,
    ),
    "pad_zero": image(f"{C1} y = Pad(c1, pads)", "float[1,6,10,10]",
                      pads=np.array([0, 0, 1, 1, 0, 0, 1, 1]), **W1),
    "pad_value": image(f"{C1} y = Pad(c1, pads, value)", "float[1,6,10,10]", value=HALF,
                       pads=np.array([0, 0, 1, 1, 0, 0, 1, 1]), **W1),
    "pad_reflect": image(f'{C1} y = Pad<mode = "reflect">(c1, pads)', "float[1,6,10,10]",
                         pads=np.array([0, 0, 1, 1, 0, 0, 1, 1]), **W1),
    "resize_nearest": image(
        f'{C1} y = Resize<mode = "nearest", nearest_mode = "floor", '
        'coordinate_transformation_mode = "asymmetric">(c1, , scales)', "float[1,6,16,16]",
        scales=np.float32([1, 1, 2, 2]), **W1,
    ),
    "resize_linear": image(
        f'{C1} y = Resize<mode = "linear", coordinate_transformation_mode = "half_pixel">'
        "(c1, , scales)", "float[1,6,16,16]", scales=np.float32([1, 1, 2, 2]), **W1,
    ),
    "gemm": rows("h = Gemm(x, wm, bm) y = Relu(h)", "float[3,5]", wm=weights(8, 5), bm=weights(5)),
    "gemm_transposed": rows("y = Gemm<transB = 1>(x, wm, bm)", "float[3,5]",
                            wm=weights(5, 8), bm=weights(5)),
    "matmul_add_relu": rows("m = MatMul(x, wm) a = Add(bm, m) y = Relu(a)", "float[3,5]",
                            wm=weights(8, 5), bm=weights(5)),
    "matmul_of_activations": (
        """g (float[1,5,8] x) => (float[1,5,5] y) { a = MatMul(x, wm)
        t = Transpose<perm = [0,2,1]>(a) m = MatMul(a, t) y = Softmax<axis = -1>(m) }""",
        {"wm": weights(8, 8)},
    ),
    "batch_matmul_by_a_constant": (
        "g (float[2,5,8] x) => (float[2,5,4] y) { y = MatMul(x, wm) }", {"wm": weights(2, 8, 4)},
    ),
    "output_read_inside": (
        f"""g ({IMAGE} x) => (float[1,6,8,8] y, float[1,12,8,8] z)
        {{ y = Conv(x, w2, b2) {C1} z = Concat<axis = 1>(y, c1) }}""", BOTH,
    ),
    "two_readers_of_the_input": image(f"{C1} {C2} y = Sub(c1, c2)", **BOTH),
    "a_dead_channel_with_a_bias": image(
        "y = Conv(x, w2, b2)", w2=W2["w2"] * np.float32([1, 1, 0, 1, 1, 1])[:, None, None, None],
        b2=np.float32([0.1, 0.2, 0.3, 0.4, 0.5, 0.6]),
    ),
}  # fmt: skip
