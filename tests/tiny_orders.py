# SPDX-License-Identifier: Apache-2.0
"""Orders of one small net, for tests of exporters that are not about the net."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper
from orders import order_of

# 2 computing layers, an activation that tools fuse, and a tail
NET = """<ir_version: 8, opset_import: ["": 13]>
net (float[1,3,8,8] x) => (float[1,5] y) {
    [stem] h = Conv<pads = [1,1,1,1]>(x, w0, b0)
    [act] a = Relu(h)
    [pool] p = GlobalAveragePool(a)
    [flat] f = Flatten(p)
    [head] y = Gemm<transB = 1>(f, w1, b1)
}"""


def weights():
    """Return the values of what NET only names."""
    rng = np.random.default_rng(3)
    return {
        "w0": rng.standard_normal((4, 3, 3, 3)), "b0": rng.standard_normal(4),
        "w1": rng.standard_normal((5, 4)), "b1": rng.standard_normal(5),
    }  # fmt: skip


def write_net(folder, text=NET):
    """Write a model and 4 samples into a folder, and return both paths."""
    model = onnx.parser.parse_model(text)
    used = {name for node in model.graph.node for name in node.input}
    model.graph.initializer.extend(
        numpy_helper.from_array(value.astype(np.float32), name)
        for name, value in weights().items()
        if name in used
    )
    path, data = folder / "net.onnx", folder / "samples.npz"
    onnx.save(model, path)
    rng = np.random.default_rng(4)
    np.savez(data, x=rng.standard_normal((4, 3, 8, 8)).astype(np.float32))
    return path, data


def tiny_order(folder, target="onnxruntime", setting=None, text=NET):
    """Return the order of a setting for the net."""
    return order_of(*write_net(folder, text), target, setting)
