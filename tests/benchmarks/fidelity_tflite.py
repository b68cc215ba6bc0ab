# SPDX-License-Identifier: Apache-2.0
"""How near the tflite target comes to models that the TFLite converter made.

    python tests/benchmarks/fidelity_tflite.py [--samples 32]

Compares placement and scales with the Q/DQ siblings of three shared models.  What they were
calibrated on is not known; here it is the shared data of the same kind.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE.parent / "targets"), str(HERE.parent / "peers")]

from edges import compare, edges_of_plan  # noqa: E402
from tflite_siblings import SHARED, quantized, samples_of, sibling_edges  # noqa: E402

from analyzer.calibrate import calibrate  # noqa: E402
from analyzer.load import bind_shapes, load_model  # noqa: E402
from analyzer.place import place  # noqa: E402
from analyzer.targets.tflite import TFLITE  # noqa: E402

MODELS = ("ad_autoencoder", "resnet8_cifar10", "vww_mobilenet")
# the siblings are older than TensorFlow 2.17, which gave FULLY_CONNECTED scales per channel
OLDER = replace(TFLITE, dense_per_channel=False)


def main():
    """Print one row per model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=32)
    count = parser.parse_args().samples
    print("model                placed      weights  activations: median, largest   zero points")
    for name in MODELS:
        model = load_model(SHARED / "models" / name / "model.onnx")
        model = bind_shapes(model, {s.name: tuple(d or 1 for d in s.shape) for s in model.inputs})
        graph, plan = place(model, OLDER)
        plan = calibrate(graph, plan, OLDER, samples_of(name, count), workers=2)
        found = compare(
            edges_of_plan(graph, plan), sibling_edges(quantized(name), graph.proto.graph)
        )
        parameters = {(q.node, int(q.slot[2:])) for q in plan.quantizers if q.role == "weight"}
        biases = {(q.node, int(q.slot[2:])) for q in plan.quantizers if q.role == "bias"}
        weights = max(found.scales[e] for e in parameters)
        rest = [v for e, v in found.scales.items() if e not in parameters | biases]
        zeros = max(v for e, v in found.zero_points.items() if e not in parameters | biases)
        print(
            f"{name:18s} {found.alike:4d} / {found.quantized:<4d} {weights:9.1e}"
            f" {np.median(rest):16.3f} {max(rest):10.3f} {zeros:16d}"
        )
        for edge, (ours, theirs) in found.differing.items():
            print("   ", edge, ours, theirs)


if __name__ == "__main__":
    main()
