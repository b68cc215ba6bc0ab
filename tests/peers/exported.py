# SPDX-License-Identifier: Apache-2.0
"""Plans written down for a tool: what the tests of all exported formats share."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

sys.path.append(str(Path(__file__).resolve().parents[1] / "benchmarks"))

from orders import order_of

from analyzer.export import FORMATS
from analyzer.export.source import source_bytes
from analyzer.formats import SOURCE
from analyzer.records import Setting

SHARED = Path(__file__).resolve().parents[3] / "shared"


def without_softmax(source, path):
    """Copy a model without the Softmax at its end, which blows up differences in rounding."""
    proto = onnx.load(source)
    (last,) = [node for node in proto.graph.node if node.op_type == "Softmax"]
    (output,) = proto.graph.output
    assert list(last.output) == [output.name]
    output.name = last.input[0]
    proto.graph.node.remove(last)
    onnx.save(proto, path)
    return path


def real_inputs(name, path, count):
    """Write prepared inputs of a shared model to an .npz; return its path, or skip."""
    if not (SHARED / "models" / name / "model.onnx").is_file() or not (SHARED / "data").is_dir():
        pytest.skip(f"the shared model {name} or its data are not here")
    from real_inputs import samples_of

    samples = samples_of(name, count)
    np.savez(path, **{n: np.stack([sample[n] for sample in samples]) for n in samples[0]})
    return path


def exported(folder, name, path, data, target, setting=None, **config):
    """Measure a setting and write it down; return the order, and the model its files are for."""
    order = order_of(path, data, target, setting or Setting(), **config)
    files = FORMATS[name](order)
    for file, content in files.items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        content = content.encode() if isinstance(content, str) else content
        (folder / file).write_bytes(content)
    if any(SOURCE in c for c in files.values() if isinstance(c, str)):
        (folder / SOURCE).write_bytes(source_bytes(order))
        return order, folder / SOURCE
    return order, path


def deviations(order, nsr):
    """Return output -> how far the tool's noise is from what was simulated, as a share of it."""
    return {t: abs(nsr[t] / ours - 1) for t, ours in order.proposal.outputs_after.items()}
