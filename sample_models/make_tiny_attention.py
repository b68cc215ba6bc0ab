# SPDX-License-Identifier: Apache-2.0
"""Train `tiny_attention.onnx`: a transformer encoder that reads a handwritten digit as 256 tokens.

Writes the network (LayerNorm written out, as exporters did before opset 17), 64 calibration
samples (`tiny_attention/`) and the held-out samples with labels (`tiny_attention_eval/`), and
prints the accuracy in FP32.

No fault is planted, but it is made to be hard to quantize: a norm right on the
patch embedding, before positions are added (as in Dual PatchNorm, Kumar et al. 2023), sees patches
that are all but blank beside others full of ink: its variances span two powers of ten;
attention spreads over 256 tokens, a step of an 8-bit grid for each; and small branches are added
to a growing residual stream.

Run with torch, scikit-learn and onnx: `python sample_models/make_tiny_attention.py`.
"""

import warnings
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

HERE = Path(__file__).parent
SEED = 7
EPOCHS = 30
WIDTH, HEADS, BLOCKS = 24, 2, 2


class Norm(nn.Module):
    """LayerNorm over the last axis, written out."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(WIDTH))
        self.bias = nn.Parameter(torch.zeros(WIDTH))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (N, T, WIDTH) to the same shape."""
        centred = x - x.mean(-1, keepdim=True)
        variance = centred.pow(2).mean(-1, keepdim=True)
        return centred / torch.sqrt(variance + 1e-5) * self.weight + self.bias


class Block(nn.Module):
    """Attention and two layers with a GELU, each behind a norm and added to the stream."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = Norm(), Norm()
        self.q, self.k, self.v, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.up, self.down = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (1, T, WIDTH) to the same shape."""
        x = x + self.attend(self.norm1(x))
        return x + self.down(F.gelu(self.up(self.norm2(x))))

    def attend(self, x: torch.Tensor) -> torch.Tensor:
        """Let every token look at all tokens."""
        n, tokens, _ = x.shape
        shape = (n, tokens, HEADS, WIDTH // HEADS)
        q, k, v = (f(x).reshape(shape).transpose(1, 2) for f in (self.q, self.k, self.v))
        scores = q @ k.transpose(2, 3) / (WIDTH // HEADS) ** 0.5
        mixed = torch.softmax(scores, -1) @ v
        return self.out(mixed.transpose(1, 2).reshape(n, tokens, WIDTH))


class TinyAttention(nn.Module):
    """An encoder of images (N, 1, 16, 16) in 0..1."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(1, WIDTH, 3, padding=1)
        nn.init.normal_(self.embed.bias, std=0.02)  # so faint is a blank patch
        self.patch_norm, self.last_norm = Norm(), Norm()
        self.position = nn.Parameter(0.1 * torch.randn(1, 256, WIDTH))
        self.blocks = nn.Sequential(*(Block() for _ in range(BLOCKS)))
        self.classify = nn.Linear(WIDTH, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits (N, 10)."""
        tokens = self.embed(x).flatten(2).transpose(1, 2)
        tokens = self.patch_norm(tokens) + self.position
        return self.classify(self.last_norm(self.blocks(tokens)).mean(1))


def load_data() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return training inputs and classes, held-out inputs and classes."""
    digits = load_digits()
    order = np.random.default_rng(SEED).permutation(len(digits.target))
    images = np.kron(digits.images / 16, np.ones((2, 2)))[:, None].astype(np.float32)
    train, held_out = order[:1200], order[1200:]
    target = digits.target.astype(np.int64)
    return images[train], target[train], images[held_out], target[held_out]


def train(inputs: np.ndarray, classes: np.ndarray) -> TinyAttention:
    """Train with Adam on batches of 64."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(SEED)
    rng = np.random.default_rng(SEED)
    net = TinyAttention()
    adam = torch.optim.AdamW(net.parameters(), lr=1e-2, weight_decay=0.01)
    steps = EPOCHS * (len(inputs) // 64)
    schedule = torch.optim.lr_scheduler.OneCycleLR(adam, 1e-2, steps)
    for epoch in range(EPOCHS):
        shuffled = rng.permutation(len(inputs))
        for start in range(0, steps // EPOCHS * 64, 64):
            batch = shuffled[start : start + 64]
            logits = net(torch.from_numpy(inputs[batch]))
            loss = F.cross_entropy(logits, torch.from_numpy(classes[batch]), label_smoothing=0.05)
            adam.zero_grad()
            loss.backward()
            adam.step()
            schedule.step()
        if epoch % 10 == 9:
            print(f"epoch {epoch + 1}: loss {loss.item():.4f}")
    return net.eval()


def export(net: TinyAttention, path: Path) -> None:
    """Write the network as opset 13 for one image at a time."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            net,
            (torch.zeros(1, 1, 16, 16),),
            str(path),
            opset_version=13,
            dynamo=False,
            input_names=["input"],
            output_names=["logits"],
        )


def main() -> None:
    """Train, export, write the data, measure."""
    inputs, classes, held_out, held_out_classes = load_data()
    net = train(inputs, classes)
    export(net, HERE / "tiny_attention.onnx")

    calib, evaluation = HERE / "tiny_attention", HERE / "tiny_attention_eval"
    calib.mkdir(exist_ok=True)
    evaluation.mkdir(exist_ok=True)
    np.savez_compressed(calib / "inputs.npz", input=inputs[:64])
    np.savez_compressed(evaluation / "inputs.npz", input=held_out)
    rows = [f"{index},{label}" for index, label in enumerate(held_out_classes)]
    (evaluation / "labels.csv").write_text("\n".join(["index,class_index", *rows]) + "\n")
    with torch.no_grad():
        right = net(torch.from_numpy(held_out)).argmax(1).numpy() == held_out_classes
    print(f"FP32: {100 * right.mean():.1f} % of {len(right)} held-out samples")


if __name__ == "__main__":
    main()
