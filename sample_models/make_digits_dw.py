# SPDX-License-Identifier: Apache-2.0
"""Train `digits_dw.onnx`: a depthwise-separable classifier of scikit-learn's handwritten digits.

Writes the network with BatchNorm folded (`digits_dw.onnx`), the same network with BatchNorm
kept (`digits_dw_bn.onnx`), 64 calibration samples (`digits_dw/`) and the labelled held-out
samples (`digits_dw_eval/`), and prints the accuracy in FP32 and INT8.

Why INT8 per tensor fails here: a third into the training, the 15 % of channels with the
smallest BatchNorm scales ahead of three depthwise convolutions are pruned (set to zero), as in
network slimming (Liu et al. 2017). The depthwise channel that reads a pruned one sees no
variance, so folding its BatchNorm multiplies its weights by 1/sqrt(eps), about 300, and one
scale for the whole tensor leaves the living channels a few steps. MobileNetV1 fails for the
same reason (Sheng et al. 2018, arXiv:1803.08607). Nothing is rescaled by hand.

Run with torch, scikit-learn, onnx and onnxruntime: `python sample_models/make_digits_dw.py`.
"""

import warnings
from pathlib import Path

import numpy as np
import torch
from measure_int8 import measure
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

HERE = Path(__file__).parent
SEED = 7
EPOCHS = 60
PRUNED = 0.15  # share of the channels ahead of dw1, dw2 and dw4


def conv_bn(
    c_in: int, c_out: int, size: int, *, act: type[nn.Module], dw: bool = False, stride: int = 1
) -> nn.Sequential:
    """Build a convolution without bias, its BatchNorm and its activation."""
    groups = c_in if dw else 1
    block = nn.Sequential()
    block.add_module(
        "conv", nn.Conv2d(c_in, c_out, size, stride, size // 2, groups=groups, bias=False)
    )
    block.add_module("bn", nn.BatchNorm2d(c_out))
    if act is not nn.Identity:
        block.add_module("act", act())
    return block


class MixConv(nn.Module):
    """Depthwise 3x3 and 5x5 side by side, as in MixNet (Tan 2019), then a separable conv."""

    def __init__(self) -> None:
        super().__init__()
        self.dw3 = conv_bn(24, 24, 3, act=nn.ReLU, dw=True)
        self.dw5 = conv_bn(8, 8, 5, act=nn.ReLU, dw=True)
        self.dw = conv_bn(32, 32, 3, act=nn.Identity, dw=True)
        self.project = conv_bn(32, 24, 1, act=nn.Identity)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (N, 32, H, W) to (N, 24, H, W)."""
        left, right = torch.split(x, [24, 8], dim=1)
        return self.project(self.dw(torch.cat([self.dw3(left), self.dw5(right)], dim=1)))


class DigitsDw(nn.Module):
    """A classifier in the manner of MobileNet for inputs (N, 1, 16, 16) in 0..1."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(1, 16, 3, act=nn.ReLU)
        self.dw1 = conv_bn(16, 16, 3, act=nn.ReLU, dw=True, stride=2)
        self.pw1 = conv_bn(16, 24, 1, act=nn.ReLU)
        self.dw2 = conv_bn(24, 24, 3, act=nn.ReLU, dw=True)
        self.pw2 = conv_bn(24, 32, 1, act=nn.ReLU)
        self.mix = MixConv()
        self.expand = conv_bn(24, 72, 1, act=nn.ReLU6)
        self.dw4 = conv_bn(72, 72, 3, act=nn.ReLU, dw=True, stride=2)
        self.project = conv_bn(72, 32, 1, act=nn.Identity)
        self.head1 = conv_bn(32, 64, 1, act=nn.ReLU)
        self.head2 = conv_bn(64, 32, 1, act=nn.ReLU)
        self.classify = nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits (N, 10)."""
        x = self.dw2(self.pw1(self.dw1(self.stem(x))))
        x = self.mix(self.pw2(x))
        x = self.project(self.dw4(self.expand(x)))
        x = self.head2(self.head1(x))
        return self.classify(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))

    def pruned(self) -> list[nn.BatchNorm2d]:
        """Return the BatchNorms whose smallest channels are pruned.

        Not those ahead of the mix block: its two depthwise convolutions in a row would turn a
        pruned channel into a constant, and divide that by its variance.
        """
        return [self.stem.bn, self.pw1.bn, self.expand.bn]


def load_data() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return training inputs and classes, held-out inputs and classes."""
    digits = load_digits()
    order = np.random.default_rng(SEED).permutation(len(digits.target))
    images = np.kron(digits.images / 16, np.ones((2, 2)))[:, None].astype(np.float32)
    train, held_out = order[:1200], order[1200:]
    target = digits.target.astype(np.int64)
    return images[train], target[train], images[held_out], target[held_out]


def smallest(bn: nn.BatchNorm2d) -> torch.Tensor:
    """Return the indices of the channels with the smallest scales."""
    return bn.weight.abs().argsort()[: round(PRUNED * len(bn.weight))]


def silence(bn: nn.BatchNorm2d, channels: torch.Tensor) -> None:
    """Set the channels to zero, in place."""
    bn.weight.data[channels] = 0
    bn.bias.data[channels] = 0


def train(inputs: np.ndarray, classes: np.ndarray) -> DigitsDw:
    """Train with Adam, random shifts of up to two pixels, and pruning a third in."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(SEED)
    rng = np.random.default_rng(SEED)
    net = DigitsDw()
    adam = torch.optim.Adam(net.parameters(), lr=4e-3)
    steps = EPOCHS * (len(inputs) // 64)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, steps)
    silent: dict[nn.BatchNorm2d, torch.Tensor] = {}
    for epoch in range(EPOCHS):
        if epoch == EPOCHS // 3:
            silent = {bn: smallest(bn) for bn in net.pruned()}
        shuffled = rng.permutation(len(inputs))
        for start in range(0, steps // EPOCHS * 64, 64):
            batch = shuffled[start : start + 64]
            shift = tuple(rng.integers(-2, 3, 2))
            x = torch.from_numpy(np.roll(inputs[batch], shift, axis=(2, 3)))
            loss = F.cross_entropy(net(x), torch.from_numpy(classes[batch]), label_smoothing=0.05)
            adam.zero_grad()
            loss.backward()
            adam.step()
            schedule.step()
            for bn, channels in silent.items():
                silence(bn, channels)
        if epoch % 10 == 9:
            print(f"epoch {epoch + 1}: loss {loss.item():.4f}")
    return net.eval()


def export(net: DigitsDw, path: Path, *, keep_bn: bool) -> None:
    """Write the network as opset 13 with a free batch dimension."""
    mode = torch.onnx.TrainingMode.PRESERVE if keep_bn else torch.onnx.TrainingMode.EVAL
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            net,
            (torch.zeros(1, 1, 16, 16),),
            str(path),
            opset_version=13,
            dynamo=False,
            training=mode,
            input_names=["input"],
            output_names=["logits"],
            dynamic_axes={"input": {0: "N"}, "logits": {0: "N"}},
        )


def main() -> None:
    """Train, export, write the data, measure."""
    inputs, classes, held_out, held_out_classes = load_data()
    net = train(inputs, classes)
    export(net, HERE / "digits_dw.onnx", keep_bn=False)
    export(net, HERE / "digits_dw_bn.onnx", keep_bn=True)

    calib, evaluation = HERE / "digits_dw", HERE / "digits_dw_eval"
    calib.mkdir(exist_ok=True)
    evaluation.mkdir(exist_ok=True)
    np.savez_compressed(calib / "inputs.npz", input=inputs[:64])
    np.savez_compressed(evaluation / "inputs.npz", input=held_out)
    rows = [f"{index},{label}" for index, label in enumerate(held_out_classes)]
    (evaluation / "labels.csv").write_text("\n".join(["index,class_index", *rows]) + "\n")
    print(measure(HERE / "digits_dw.onnx"))


if __name__ == "__main__":
    main()
