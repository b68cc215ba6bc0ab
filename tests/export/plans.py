# SPDX-License-Identifier: Apache-2.0
"""Small nets measured for a target, and what the constants of an exported script hold."""

from __future__ import annotations

import ast

import numpy as np
import onnx
from onnx import numpy_helper
from orders import order_of

from analyzer.records import Setting


def ordered(folder, text, target, setting=None, *, drop_names=(), **constants):
    """Save a net written as ONNX text and measure a setting on random data; return the order.

    Args:
        folder: where files go.
        text: of the graph.
        target: its name.
        setting: what is asked of it.
        drop_names: nodes whose names are taken away.
        constants: name -> value, or shape of random ones.
    """
    rng = np.random.default_rng(3)
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 13]> {text}')
    for node in proto.graph.node:
        if node.name in drop_names:
            node.name = ""
    for name, value in constants.items():
        if isinstance(value, tuple):
            value = rng.standard_normal(value)
        proto.graph.initializer.append(
            numpy_helper.from_array(np.asarray(value, np.float32), name)
        )
    path = folder / "net.onnx"
    onnx.save(proto, path)
    (given,) = proto.graph.input
    shape = [d.dim_value for d in given.type.tensor_type.shape.dim]
    np.save(folder / "calib.npy", rng.standard_normal((4, *shape[1:])).astype(np.float32))
    return order_of(path, folder / "calib.npy", target, setting or Setting())


def constants_of(script):
    """Return the values of a script's constants; it is not run."""
    found = {}
    for node in ast.parse(script).body:
        if isinstance(node, ast.Assign):
            try:
                found[node.targets[0].id] = ast.literal_eval(node.value)
            except ValueError:  # computed
                continue
    return found


def said(script):
    """Return the comments above a script's docstring as one line of text."""
    lines = []
    for line in script.splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.lstrip("# "))
    return " ".join(lines)
