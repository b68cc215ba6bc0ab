# SPDX-License-Identifier: Apache-2.0
"""Plant quantization faults in `digits_dw.onnx` and `blobs_det.onnx` without changing their FP32.

Each fault becomes `<name>_<fault>.onnx` with its ground truth `<name>_<fault>.json`:

* outlier_channel: one output channel times K, the reader's matching weights divided by K.
* concat_ranges: one branch of a Concat times K, the reader's matching weights divided by K.
* dead_channel: one more output channel with zero weights and a bias of K times the range of the
  others; its reader gives it zero weights.

A depthwise reader with one weight scale per channel loses nothing by the division. Scaling is
exact in FP32, because K is a power of two and only a ReLU, if anything, lies between.
Run with onnx, onnxruntime, numpy and pillow: `python sample_models/plant_faults.py`.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from isolated_noise import (
    SAMPLES,
    activation_noise,
    calibration,
    run,
    weight_noise,
    with_outputs,
)
from onnx import numpy_helper

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Spot:
    """Where a fault goes: the convolution changed, the convolution that reads it."""

    model: str
    fault: str
    producer: str
    reader: str
    factor: int
    concat: str | None = None


SPOTS = [
    Spot("digits_dw", "outlier_channel", "/pw1/conv/Conv", "/dw2/conv/Conv", 128),
    Spot(
        "digits_dw",
        "concat_ranges",
        "/mix/dw5/conv/Conv",
        "/mix/dw/conv/Conv",
        64,
        concat="/mix/Concat",
    ),
    Spot("digits_dw", "dead_channel", "/head1/conv/Conv", "/head2/conv/Conv", 128),
    Spot("blobs_det", "outlier_channel", "/stem/conv/Conv", "/down1/conv/Conv", 128),
    Spot(
        "blobs_det",
        "concat_ranges",
        "/csp2/skip/conv/Conv",
        "/csp2/cv4/conv/Conv",
        64,
        concat="/csp2/Concat",
    ),
    Spot("blobs_det", "dead_channel", "/head8/box2/conv/Conv", "/head8/box3/Conv", 128),
]


class Editor:
    """A model whose nodes and initializers are found by name."""

    def __init__(self, path: Path) -> None:
        self.model = onnx.load(path)
        self.nodes = {node.name: node for node in self.model.graph.node}
        self.makers = {out: node for node in self.model.graph.node for out in node.output}
        self._weights = {item.name: item for item in self.model.graph.initializer}

    def read(self, node: str, slot: int) -> np.ndarray:
        """Return a copy of the constant at an input slot, float64."""
        return numpy_helper.to_array(self._weights[self.nodes[node].input[slot]]).astype(float)

    def write(self, node: str, slot: int, value: np.ndarray) -> None:
        """Replace the constant at an input slot."""
        weight = self._weights[self.nodes[node].input[slot]]
        weight.CopyFrom(numpy_helper.from_array(value.astype(np.float32), weight.name))

    def depthwise(self, node: str) -> bool:
        """Say whether a convolution reads each channel by itself."""
        groups = [item.i for item in self.nodes[node].attribute if item.name == "group"]
        return groups > [1]

    def source(self, tensor: str) -> list[str]:
        """Return the convolution that computes a tensor, after the Relu behind it if any."""
        maker = self.makers[tensor]
        return [maker.name] + ([] if maker.op_type == "Conv" else self.source(maker.input[0]))

    def feeding(self, concat: str) -> list[list[str]]:
        """Return the sources of the branches that enter a Concat."""
        return [self.source(name) for name in self.nodes[concat].input]


def planted_tensor(edit: Editor, spot: Spot) -> str:
    """Return the tensor whose quantizer the fault spoils: behind the Concat or the Relu."""
    if spot.concat:
        return edit.nodes[spot.concat].output[0]
    output = edit.nodes[spot.producer].output[0]
    relu = [node for node in edit.nodes.values() if node.input[:1] == [output]]
    return relu[0].output[0] if relu[0].op_type == "Relu" else output


def scale_channels(edit: Editor, spot: Spot, channels: np.ndarray, offset: int) -> None:
    """Multiply output channels of the producer and divide them out in the reader.

    Args:
        edit: the model, modified.
        spot: producer, reader and factor.
        channels: output channels of the producer.
        offset: where the producer's first channel enters the reader.
    """
    for slot in (1, 2):
        value = edit.read(spot.producer, slot)
        value[channels] *= spot.factor
        edit.write(spot.producer, slot, value)
    weight = edit.read(spot.reader, 1)
    if edit.depthwise(spot.reader):
        weight[offset + channels] /= spot.factor
    else:
        weight[:, offset + channels] /= spot.factor
    edit.write(spot.reader, 1, weight)


def plant_outlier(edit: Editor, spot: Spot) -> np.ndarray:
    """Scale the channel with the largest weights relative to those that read it; return it."""
    written = (edit.read(spot.producer, 1) ** 2).sum((1, 2, 3))
    kernel = edit.read(spot.reader, 1)
    read = (kernel**2).sum((1 if edit.depthwise(spot.reader) else 0, 2, 3))
    channels = np.array([np.argmax(written / read)])
    scale_channels(edit, spot, channels, 0)
    return channels


def plant_concat(edit: Editor, spot: Spot) -> np.ndarray:
    """Scale the producer's whole branch; return its channels, counted behind the Concat."""
    convs = [branch[-1] for branch in edit.feeding(spot.concat)]
    widths = [len(edit.read(conv, 2)) for conv in convs]
    place = convs.index(spot.producer)
    channels = np.arange(widths[place])
    scale_channels(edit, spot, channels, sum(widths[:place]))
    return sum(widths[:place]) + channels


def plant_dead(edit: Editor, spot: Spot) -> np.ndarray:
    """Append a constant channel that nothing reads; return it."""
    tensor = planted_tensor(edit, spot)
    samples = calibration(spot.model)
    largest = np.abs(run(with_outputs(edit.model, [tensor]), samples, [tensor])[0]).max()
    weight, bias = edit.read(spot.producer, 1), edit.read(spot.producer, 2)
    edit.write(spot.producer, 1, np.concatenate([weight, np.zeros_like(weight[:1])]))
    edit.write(spot.producer, 2, np.append(bias, spot.factor * largest))

    weight = edit.read(spot.reader, 1)
    edit.write(spot.reader, 1, np.concatenate([weight, np.zeros_like(weight[:, :1])], axis=1))
    return np.array([weight.shape[1]])


PLANT = {
    "outlier_channel": plant_outlier,
    "concat_ranges": plant_concat,
    "dead_channel": plant_dead,
}


def evidence(model: onnx.ModelProto, layers: list[str], samples: np.ndarray) -> dict[str, object]:
    """Return the isolated activation noise of the first layer and the largest outside `layers`."""
    noise = activation_noise(model, samples)
    others = {node: value for node, value in noise.items() if node not in layers}
    runner_up = max(others, key=others.__getitem__)
    weights = weight_noise(model, samples)
    worst_weight = max(weights, key=weights.__getitem__)
    return {
        "nsr": float(f"{noise[layers[0]]:.3g}"),
        "next_layer": runner_up,
        "next_nsr": float(f"{others[runner_up]:.3g}"),
        "ratio": float(f"{noise[layers[0]] / others[runner_up]:.3g}"),
        "worst_weight_layer": worst_weight,
        "worst_weight_nsr": float(f"{weights[worst_weight]:.3g}"),
    }


def main() -> None:
    """Write every faulty twin with its ground truth and print what was measured."""
    for spot in SPOTS:
        edit = Editor(HERE / f"{spot.model}.onnx")
        channels = PLANT[spot.fault](edit, spot)
        del edit.model.graph.value_info[:]
        onnx.checker.check_model(edit.model, full_check=True)
        path = HERE / f"{spot.model}_{spot.fault}.onnx"
        onnx.save(edit.model, path)

        samples = calibration(spot.model)
        clean = run(onnx.load(HERE / f"{spot.model}.onnx"), samples)[0]
        difference = np.abs(run(edit.model, samples)[0] - clean).max() / np.abs(clean).max()
        tensor = planted_tensor(edit, spot)
        branches = edit.feeding(spot.concat) if spot.concat else [edit.source(tensor)]
        layers = [spot.concat] if spot.concat else []
        layers += [node for branch in branches for node in branch]
        truth = {
            "fault": spot.fault,
            "layers": layers,
            "tensor": tensor,
            "channels": channels.tolist(),
            "clean": f"{spot.model}.onnx",
            "factor": spot.factor,
            "reader": spot.reader,
            "isolated": evidence(edit.model, layers, samples[:SAMPLES]),
        }
        path.with_suffix(".json").write_text(json.dumps(truth, indent=1) + "\n")
        print(f"{path.stem}: FP32 differs by {difference:.1e} of the largest value,", truth)


if __name__ == "__main__":
    main()
