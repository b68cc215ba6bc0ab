# SPDX-License-Identifier: Apache-2.0
"""Train a small CNN quantization-aware with torch FX and export it as PyTorch users do.

    python torch_qat_export.py FOLDER [ANSWER.json]

Writes into FOLDER `float.onnx` (before the training with fake-quantization, BatchNormalization
not folded), exports of the trained model and `samples.npz` (inputs `x`, and the outputs of the
torch models by file name):

    qat.onnx          reference model with decomposed quantization, exported by torch.export:
                      float weights behind QuantizeLinear, Clip and DequantizeLinear
    qat_fake.onnx     FakeQuantize modules as they stand, exported by tracing: activations behind
                      QuantizeLinear, Clip (the range is reduced to 0..127) and DequantizeLinear,
                      BatchNormalization undone and done again around its Conv
    qat_qnnpack.onnx  as qat_fake.onnx, with the qconfig of qnnpack: per-tensor weights, 0..255
    qat_int8.onnx     convert_fx for x86, exported by tracing: integer weights and biases

The torch models `qat` and `qat_fake` clip at 127.  Only the export of the latter does: the other
two files keep the scales of the reduced range and let values reach 255.
"""

from __future__ import annotations

import copy
import json
import sys
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.ao.quantization import disable_observer, get_default_qat_qconfig_mapping
from torch.ao.quantization.quantize_fx import (
    _convert_to_reference_decomposed_fx,
    convert_fx,
    prepare_qat_fx,
)

SHAPE = (1, 3, 16, 16)
CLASSES = 4


class Net(nn.Module):
    """Conv-BN-ReLU, a residual block, a depthwise layer, pooling and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(8)
        self.relu = nn.ReLU()
        self.left = nn.Conv2d(8, 8, 3, padding=1)
        self.left_relu = nn.ReLU()
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.pool = nn.MaxPool2d(2)
        self.down = nn.Conv2d(8, 16, 3, stride=2, padding=1)
        self.down_relu = nn.ReLU()
        self.mean = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(16, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.relu(self.bn(self.stem(x)))
        x = x + self.depthwise(self.left_relu(self.left(x)))
        x = self.down_relu(self.down(self.pool(x)))
        return self.head(torch.flatten(self.mean(x), 1))


def batch(count: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Return pictures whose class is the quarter in which a bright spot lies."""
    labels = torch.randint(0, CLASSES, (count,), generator=generator)
    x = torch.randn(count, *SHAPE[1:], generator=generator) * 0.5
    for index, label in enumerate(labels.tolist()):
        top, left = 8 * (label // 2), 8 * (label % 2)
        x[index, :, top : top + 8, left : left + 8] += 1.0
    return x, labels


def train(model: nn.Module, steps: int, rate: float, generator: torch.Generator) -> None:
    """Fit by plain SGD; the model is changed in place."""
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9)
    for _ in range(steps):
        x, labels = batch(32, generator)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), labels).backward()
        optimizer.step()


def export(model: nn.Module, path: Path, *, dynamo: bool = False) -> None:
    """Write an ONNX file: through torch.export, or by tracing, which knows FakeQuantize."""
    options = {} if dynamo else {"training": torch.onnx.TrainingMode.PRESERVE}
    torch.onnx.export(
        model.eval(), (torch.zeros(SHAPE),), str(path), dynamo=dynamo, verbose=False,
        opset_version=18 if dynamo else 17, input_names=["x"], output_names=["y"],
        do_constant_folding=False, **options,
    )  # fmt: skip


def quantization_aware(
    model: nn.Module, backend: str, generator: torch.Generator
) -> torch.fx.GraphModule:
    """Return a trained copy of `model` with FakeQuantize modules, observers switched off."""
    mapping = get_default_qat_qconfig_mapping(backend, version=0)
    prepared = prepare_qat_fx(copy.deepcopy(model).train(), mapping, (torch.zeros(SHAPE),))
    train(prepared, 40, 0.01, generator)
    prepared.apply(disable_observer)
    return prepared.eval()


def main() -> None:
    """Train, export, and save samples with every model's outputs."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    model = Net()
    train(model, 60, 0.05, generator)
    model.eval()
    aware = quantization_aware(model, "x86", generator)
    models = {
        "float": model,
        "qat": _convert_to_reference_decomposed_fx(copy.deepcopy(aware)),
        "qat_fake": aware,
        "qat_qnnpack": quantization_aware(model, "qnnpack", generator),
        "qat_int8": convert_fx(copy.deepcopy(aware)),
    }
    x, labels = batch(8, generator)
    answer: dict[str, object] = {"torch": torch.__version__}
    outputs = {}
    for name, one in models.items():
        export(one, folder / f"{name}.onnx", dynamo=name == "qat")
        with torch.no_grad():
            outputs[name] = torch.cat([one(row[None]) for row in x]).numpy()
        answer[name] = float((outputs[name].argmax(1) == labels.numpy()).mean())
    np.savez(folder / "samples.npz", x=x.numpy(), **outputs)
    for path in sys.argv[2:3]:
        Path(path).write_text(json.dumps(answer), encoding="utf-8")


if __name__ == "__main__":
    main()
