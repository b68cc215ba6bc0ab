# SPDX-License-Identifier: Apache-2.0
"""Train `blobs_det.onnx`: a small detector in the manner of YOLO on synthetic 64x64 RGB scenes.

Scenes are scikit-learn's handwritten digits, coloured and resized, on noisy backgrounds; the
digit is the class. The net has a ReLU stem, CSP blocks with SiLU (C2f, and one CSP block whose
branches end linearly, as in the original CSPNet), one self-attention block, a Concat and Resize
neck, two detection scales, and ONE output `output0` (1, 4 + 10, 80): centre x, centre y, width,
height in pixels, then ten scores after the sigmoid. Boxes reach 64 and scores end at 1, so a
shared INT8 scale on the output destroys the scores; that is meant.

Writes the network, 32 calibration images (`blobs_det/`) and 40 labelled held-out images
(`blobs_det_eval/`), and prints how well the boxes and classes fit, in FP32 and INT8.

Run with torch, scikit-learn, onnx and onnxruntime: `python sample_models/make_blobs_det.py`.
"""

import warnings
from pathlib import Path

import numpy as np
import torch
from measure_int8 import SIZE, anchors, measure
from PIL import Image
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

HERE = Path(__file__).parent
SEED = 11
CLASSES = 10
SCENES = 8000
EPOCHS = 14
BATCH = 32
LARGEST_SIDE = 64  # pixels; a box side is sigmoid^2 of it
REACH = 3.0  # strides; a box centre lies at most half of it from the centre of its cell


class Conv(nn.Module):
    """A convolution with BatchNorm and an activation."""

    def __init__(
        self,
        c_in: int,
        c_out: int,
        size: int = 1,
        stride: int = 1,
        *,
        groups: int = 1,
        act: type[nn.Module] = nn.SiLU,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_out, size, stride, size // 2, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(c_out)
        self.act = act()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (N, c_in, H, W) to (N, c_out, H / stride, W / stride)."""
        return self.act(self.bn(self.conv(x)))


class Bottleneck(nn.Module):
    """Two 3x3 convolutions, with a shortcut if asked for."""

    def __init__(self, channels: int, hidden: int, *, shortcut: bool) -> None:
        super().__init__()
        self.cv1 = Conv(channels, hidden, 3)
        self.cv2 = Conv(hidden, channels, 3)
        self.shortcut = shortcut

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Keep the shape."""
        y = self.cv2(self.cv1(x))
        return x + y if self.shortcut else y


class C2f(nn.Module):
    """Conv, split in two halves, a bottleneck on one of them, concatenate all, conv."""

    def __init__(self, c_in: int, c_out: int, *, shortcut: bool) -> None:
        super().__init__()
        self.half = c_out // 2
        self.cv1 = Conv(c_in, c_out)
        self.m = Bottleneck(self.half, self.half // 2, shortcut=shortcut)
        self.cv2 = Conv(3 * self.half, c_out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (N, c_in, H, W) to (N, c_out, H, W)."""
        left, right = torch.split(self.cv1(x), [self.half, self.half], dim=1)
        return self.cv2(torch.cat([left, right, self.m(right)], dim=1))


class CSP(nn.Module):
    """Two branches ending in linear 1x1 convolutions, concatenated (CSPNet, Wang et al. 2019)."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        wide, narrow = c_out * 3 // 4, c_out // 4
        self.cv1 = Conv(c_in, wide)
        self.m = Bottleneck(wide, wide // 2, shortcut=True)
        self.deep = Conv(wide, wide, act=nn.Identity)
        self.skip = Conv(c_in, narrow, act=nn.Identity)
        self.cv4 = Conv(c_out, c_out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (N, c_in, H, W) to (N, c_out, H, W)."""
        return self.cv4(torch.cat([self.deep(self.m(self.cv1(x))), self.skip(x)], dim=1))


class Attention(nn.Module):
    """Self-attention over a 4x4 map of 32 channels, two heads, as in YOLO11's C2PSA."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = Conv(32, 64, act=nn.Identity)
        self.pe = Conv(32, 32, 3, groups=32, act=nn.Identity)
        self.proj = Conv(32, 32, act=nn.Identity)
        self.ffn1 = Conv(32, 48)
        self.ffn2 = Conv(48, 32, act=nn.Identity)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Keep the shape (N, 32, 4, 4)."""
        q, k, v = torch.split(self.qkv(x).reshape(-1, 2, 32, 16), [8, 8, 16], dim=2)
        weights = torch.softmax(q.transpose(2, 3) @ k * 8**-0.5, dim=-1)
        y = (v @ weights.transpose(2, 3)).reshape(-1, 32, 4, 4)
        x = x + self.proj(y + self.pe(v.reshape(-1, 32, 4, 4)))
        return x + self.ffn2(self.ffn1(x))


class Head(nn.Module):
    """Box and class branches of one scale; the last conv of the box branch follows a ReLU."""

    def __init__(self, c_in: int) -> None:
        super().__init__()
        self.box1 = Conv(c_in, 16)
        self.box2 = Conv(16, 16, 3, act=nn.ReLU)
        self.box3 = nn.Conv2d(16, 4, 1)
        self.cls1 = Conv(c_in, c_in, 3, groups=c_in)
        self.cls2 = Conv(c_in, 32)
        self.cls3 = nn.Conv2d(32, CLASSES, 1)
        nn.init.constant_(self.cls3.bias, -4.0)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return raw boxes (N, 4, cells) and class logits (N, 10, cells)."""
        cells = x.shape[2] * x.shape[3]
        box = self.box3(self.box2(self.box1(x)))
        logits = self.cls3(self.cls2(self.cls1(x)))
        return box.reshape(-1, 4, cells), logits.reshape(-1, CLASSES, cells)


class BlobsDet(nn.Module):
    """The detector: inputs (N, 3, 64, 64) in 0..1."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = Conv(3, 12, 3, 2, act=nn.ReLU)
        self.down1 = Conv(12, 24, 3, 2)
        self.c2f1 = C2f(24, 24, shortcut=True)
        self.down2 = Conv(24, 32, 3, 2)
        self.csp2 = CSP(32, 32)
        self.down3 = Conv(32, 32, 3, 2)
        self.attn = Attention()
        self.up = nn.Upsample(scale_factor=2.0, mode="nearest")
        self.c2f4 = C2f(64, 32, shortcut=False)
        self.down5 = Conv(32, 32, 3, 2, groups=32)
        self.c2f6 = C2f(64, 32, shortcut=False)
        self.head8 = Head(32)
        self.head16 = Head(32)
        centres, strides = anchors()
        reach = torch.from_numpy(strides[None, None]) * REACH
        self.register_buffer("reach", reach)
        self.register_buffer("low", torch.from_numpy(centres.T[None].copy()) - reach / 2)

    def raw(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return raw boxes (N, 4, 80) and class logits (N, 10, 80) of all anchors."""
        p8 = self.csp2(self.down2(self.c2f1(self.down1(self.stem(x)))))
        p16 = self.attn(self.down3(p8))
        p8 = self.c2f4(torch.cat([self.up(p16), p8], dim=1))
        p16 = self.c2f6(torch.cat([self.down5(p8), p16], dim=1))
        (box8, logits8), (box16, logits16) = self.head8(p8), self.head16(p16)
        return torch.cat([box8, box16], dim=2), torch.cat([logits8, logits16], dim=2)

    def boxes(self, raw: torch.Tensor) -> torch.Tensor:
        """Decode centre x, centre y, width, height in pixels, (N, 4, 80).

        Every sum has at least the range of what it adds, so a quantizer that gives the inputs of
        an Add the scale of its output clips nothing.
        """
        part = torch.sigmoid(raw)
        xy = part[:, :2] * self.reach + self.low
        return torch.cat([xy, part[:, 2:] ** 2 * LARGEST_SIDE], dim=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return boxes and scores on one output, (N, 14, 80)."""
        box, logits = self.raw(x)
        return torch.cat([self.boxes(box), torch.sigmoid(logits)], dim=1)


def scene(
    rng: np.random.Generator, digits: np.ndarray, classes: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Draw one scene.

    Returns:
        uint8 (64, 64, 3) and the objects (n, 5): class, x1, y1, x2, y2 in pixels.
    """
    blobs = Image.fromarray(rng.integers(40, 216, (5, 5, 3), dtype=np.uint8))
    canvas = np.asarray(blobs.resize((SIZE, SIZE), Image.Resampling.BILINEAR), np.float32)
    canvas = canvas + 8 * rng.integers(-1, 2, (SIZE, SIZE, 1))
    objects: list[list[float]] = []
    for _ in range(rng.integers(1, 4)):
        index = rng.integers(len(digits))
        side = int(rng.integers(16, 33))
        x, y = rng.integers(0, SIZE - side + 1, 2)
        ink = Image.fromarray((digits[index] * 255 / 16).astype(np.uint8))
        alpha = np.asarray(ink.resize((side, side), Image.Resampling.BILINEAR), np.float32) / 255
        rows, columns = np.nonzero(alpha.max(1) > 0.3)[0], np.nonzero(alpha.max(0) > 0.3)[0]
        box = [x + columns[0], y + rows[0], x + columns[-1] + 1, y + rows[-1] + 1]
        if any(overlaps(box, other[1:]) for other in objects):
            continue
        patch = canvas[y : y + side, x : x + side]
        colour = rng.choice([rng.integers(0, 40, 3), rng.integers(216, 256, 3)])
        patch += (colour - patch) * np.minimum(1.5 * alpha, 1)[..., None]
        objects.append([classes[index], *map(float, box)])
    coarse = np.clip(np.round(canvas / 8) * 8, 0, 255)  # 32 levels keep the files small
    return coarse.astype(np.uint8), np.array(objects, np.float32)


def overlaps(a: list[float], b: list[float]) -> bool:
    """Say whether two boxes (x1, y1, x2, y2) touch."""
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def scenes(
    rng: np.random.Generator, count: int, digits: np.ndarray, classes: np.ndarray
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Draw many scenes: uint8 (count, 64, 64, 3) and their objects."""
    drawn = [scene(rng, digits, classes) for _ in range(count)]
    return np.stack([image for image, _ in drawn]), [objects for _, objects in drawn]


def targets(objects: list[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
    """Assign each object to the cells whose centre lies within 0.75 strides of its own.

    Returns:
        boxes (N, 80, 4) as x1, y1, x2, y2 and classes (N, 80), -1 for background.
    """
    centres, strides = anchors()
    boxes = np.zeros((len(objects), len(centres), 4), np.float32)
    classes = np.full((len(objects), len(centres)), -1, np.int64)
    for image, found in enumerate(objects):
        for label, *box in found:
            middle = np.array([box[0] + box[2], box[1] + box[3]]) / 2
            near = (np.abs(centres - middle) <= 0.75 * strides[:, None]).all(1)
            boxes[image, near] = box
            classes[image, near] = label
    return torch.from_numpy(boxes), torch.from_numpy(classes)


def iou_loss_parts(xywh: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return IoU and generalized IoU of boxes (n, 4) with targets x1, y1, x2, y2 (n, 4)."""
    low, high = xywh[:, :2] - xywh[:, 2:] / 2, xywh[:, :2] + xywh[:, 2:] / 2
    common = (torch.minimum(high, target[:, 2:]) - torch.maximum(low, target[:, :2])).clamp(min=0)
    hull = torch.maximum(high, target[:, 2:]) - torch.minimum(low, target[:, :2])
    overlap = common.prod(1)
    union = xywh[:, 2:].prod(1) + (target[:, 2:] - target[:, :2]).prod(1) - overlap + 1e-6
    return overlap / union, overlap / union - 1 + union / (hull.prod(1) + 1e-6)


def train(images: np.ndarray, objects: list[np.ndarray]) -> BlobsDet:
    """Train with AdamW and a one-cycle schedule."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(SEED)
    net = BlobsDet()
    boxes, classes = targets(objects)
    inputs = torch.from_numpy(images).permute(0, 3, 1, 2)
    adam = torch.optim.AdamW(net.parameters(), lr=3e-3, weight_decay=1e-3)
    steps = len(images) // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(adam, 6e-3, EPOCHS * steps)
    for epoch in range(EPOCHS):
        total = 0.0
        for batch in torch.randperm(len(images))[: steps * BATCH].split(BATCH):
            raw, logits = net.raw(inputs[batch].float() / 255)
            logits = logits.permute(0, 2, 1)
            found = classes[batch] >= 0
            decoded = net.boxes(raw).permute(0, 2, 1)[found]
            iou, giou = iou_loss_parts(decoded, boxes[batch][found])
            goal = torch.zeros_like(logits)
            goal[found] = F.one_hot(classes[batch][found], CLASSES) * iou.detach()[:, None]
            scores = F.binary_cross_entropy_with_logits(logits, goal, reduction="sum")
            loss = (scores + 2 * (1 - giou).sum()) / found.sum()
            adam.zero_grad()
            loss.backward()
            adam.step()
            schedule.step()
            total += loss.item()
        print(f"epoch {epoch + 1}: loss {total / steps:.3f}", flush=True)
    return net.eval()


def export(net: BlobsDet, path: Path) -> None:
    """Write the network as opset 13 with a fixed batch of one, BatchNorm folded."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            net,
            (torch.zeros(1, 3, SIZE, SIZE),),
            str(path),
            opset_version=13,
            dynamo=False,
            input_names=["images"],
            output_names=["output0"],
        )


def write_images(folder: Path, images: np.ndarray) -> None:
    """Write numbered PNG files."""
    folder.mkdir(exist_ok=True)
    for index, image in enumerate(images):
        Image.fromarray(image).save(folder / f"scene{index:02}.png", optimize=True)


def write_labels(folder: Path, objects: list[np.ndarray]) -> None:
    """Write one YOLO file per image: class, centre x, centre y, width, height, each in 0..1."""
    folder.mkdir(exist_ok=True)
    for index, found in enumerate(objects):
        lines = []
        for label, x1, y1, x2, y2 in found.tolist():
            box = np.array([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1]) / SIZE
            lines.append(f"{int(label)} " + " ".join(f"{value:.6f}" for value in box))
        (folder / f"scene{index:02}.txt").write_text("\n".join(lines) + "\n")


def main() -> None:
    """Draw the scenes, train, export, write the data, measure."""
    rng = np.random.default_rng(SEED)
    digits = load_digits()
    order = rng.permutation(len(digits.target))
    known, unseen = order[:1300], order[1300:]
    images, objects = scenes(rng, SCENES, digits.images[known], digits.target[known])
    held_out, held_out_objects = scenes(rng, 40, digits.images[unseen], digits.target[unseen])
    net = train(images, objects)
    export(net, HERE / "blobs_det.onnx")

    calib, evaluation = HERE / "blobs_det", HERE / "blobs_det_eval"
    write_images(calib, images[:32])
    (calib / "qanalyze.toml").write_text('[preprocess]\npreset = "zero-one"\n')
    write_images(evaluation, held_out)
    write_labels(evaluation / "labels", held_out_objects)
    (evaluation / "qanalyze.toml").write_text('[preprocess]\npreset = "zero-one"\n')
    print(measure(HERE / "blobs_det.onnx"))


if __name__ == "__main__":
    main()
