# SPDX-License-Identifier: Apache-2.0
"""Small torch networks, exported to ONNX and quantized with FX as they were written.

    python torch_zoo.py BACKEND OBSERVER FOLDER ANSWER.json

Writes FOLDER/NAME.onnx and FOLDER/NAME.npz (samples `x`, and the outputs `float` and `quantized`)
of every network.  The answer: name -> edges as `torch_fx.py` tells them.  Which ONNX node an fx
node became is found by running both and comparing values, so nothing here knows how exporters
take modules apart.
"""

from __future__ import annotations

import copy
import json
import sys
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import torch
from onnx import numpy_helper
from torch import nn
from torch.ao.quantization.quantize_fx import convert_to_reference_fx, prepare_fx
from torch.nn import functional as F
from torch_fx import grid_of, mapping_of, tensors, weight_grid

IMAGE = (1, 3, 16, 16)


class Residual(nn.Module):
    """Conv-BN-ReLU, an addition with ReLU behind, one read twice, pooling, a classifier."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.a = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8))
        self.b = nn.Conv2d(8, 8, 1)
        self.relu, self.pool, self.mean = nn.ReLU(), nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        x = self.stem(x)
        x = self.relu(self.a(x) + x)
        y = x + self.b(x)
        y = self.pool(self.relu(y) + y)
        return self.head(torch.flatten(self.mean(y), 1))


class Mobile(nn.Module):
    """Depthwise layers, ReLU6, Hardswish, squeeze and excitation, two-fold Hardsigmoid."""

    def __init__(self):
        super().__init__()
        self.expand = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.ReLU6())
        self.depthwise = nn.Sequential(
            nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.BatchNorm2d(8), nn.Hardswish()
        )
        self.squeeze = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 4, 1), nn.ReLU(), nn.Conv2d(4, 8, 1),
            nn.Hardsigmoid(),
        )  # fmt: skip
        self.project = nn.Conv2d(8, 6, 1)
        self.gate, self.softmax = nn.Sigmoid(), nn.Softmax(1)

    def forward(self, x):
        x = self.depthwise(self.expand(x))
        x = self.project(x * self.squeeze(x))
        return self.softmax(x * self.gate(x.mean((2, 3), keepdim=True)))


class Detector(nn.Module):
    """SiLU, chunk, concatenation, pooled pyramid, upsampling, slices, two outputs."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.SiLU())
        self.inner = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.SiLU())
        self.pool = nn.MaxPool2d(3, 1, 1)
        self.down = nn.Sequential(nn.Conv2d(16, 8, 3, 2, 1), nn.ReLU())
        self.box, self.score = nn.Conv2d(24, 4, 1), nn.Conv2d(24, 2, 1)

    def forward(self, x):
        x = self.stem(x)
        a, b = x.chunk(2, 1)
        y = torch.cat([a, self.inner(b), self.pool(x)], 1)
        z = F.interpolate(self.down(y), scale_factor=2.0, mode="nearest")
        z = torch.cat([z, y], 1)
        box, score = self.box(z), self.score(z)
        moved = (box[:, :2] + 0.5) * 2.0
        return torch.flatten(torch.cat([moved, box[:, 2:].exp(), score.sigmoid()], 1), 2)


class Transformer(nn.Module):
    """Attention written out, LayerNorm, GELU, Linear on three axes."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(16, 12)
        self.norm, self.norm2 = nn.LayerNorm(12), nn.LayerNorm(12)
        self.q, self.k, self.v = (nn.Linear(12, 12) for _ in range(3))
        self.out, self.up, self.down = nn.Linear(12, 12), nn.Linear(12, 24), nn.Linear(24, 12)
        self.softmax, self.gelu = nn.Softmax(-1), nn.GELU()
        self.place = nn.Parameter(torch.randn(1, 48, 12))

    def heads(self, x, *axes):
        return x.view(1, 48, 3, 4).permute(0, *axes)

    def forward(self, x):
        x = self.embed(x.view(1, 48, 16)) + self.place
        y = self.norm(x)
        q, k = self.heads(self.q(y), 2, 1, 3), self.heads(self.k(y), 2, 3, 1)
        weights = self.softmax(torch.matmul(q, k) * 0.5)
        y = torch.matmul(weights, self.heads(self.v(y), 2, 1, 3))
        y = torch.flatten(y.transpose(1, 2), 2)
        x = x + self.out(y)
        return x + self.down(self.gelu(self.up(self.norm2(x))))


class Decoder(nn.Module):
    """ConvTranspose and the activations that have an own observer."""

    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.LeakyReLU(0.1))
        self.up = nn.Sequential(nn.ConvTranspose2d(8, 8, 2, 2), nn.BatchNorm2d(8), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(8, 12, 3, padding=1), nn.ELU())
        self.third = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.PReLU(4))
        self.norm = nn.InstanceNorm2d(4, affine=True)
        self.last, self.shuffle, self.tanh = nn.Conv2d(4, 3, 1), nn.PixelShuffle(2), nn.Tanh()

    def forward(self, x):
        x = self.shuffle(self.second(self.up(self.first(x))))
        return self.tanh(self.last(self.norm(self.third(F.pad(x, (1, 1, 1, 1))))))


class Arithmetic(nn.Module):
    """Numbers, constants, float-only operators, a sigmoid and a tanh behind those."""

    def __init__(self):
        super().__init__()
        self.norm, self.relu = nn.BatchNorm2d(3), nn.ReLU()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.register_buffer("grid", torch.rand(1, 6, 16, 16))
        self.line = nn.Linear(96, 7)

    def forward(self, x):
        x = self.conv(self.relu(self.norm(x))) * 2.0
        y = x - self.grid
        z = torch.cat([torch.sigmoid(y), torch.tanh(y), y / 3.0], 1) + self.grid.repeat(1, 3, 1, 1)
        z = torch.clamp(torch.mean(z, 3), -0.2, 0.6).view(1, 18, 4, 4)
        z = torch.cat([z.squeeze(0).unsqueeze(0)[:, :6], z[:, 6:12] * 0.25], 1)[:, :6]
        return self.relu(self.line(z.reshape(1, 96)) + 1.0)


NETWORKS = {
    "residual": Residual, "mobile": Mobile, "detector": Detector, "transformer": Transformer,
    "decoder": Decoder, "arithmetic": Arithmetic,
}  # fmt: skip


class Recorder(torch.fx.Interpreter):
    """Runs a graph module and keeps what every node made."""

    def __init__(self, module):
        super().__init__(module)
        self.values = {}

    def run_node(self, n):
        value = super().run_node(n)
        if isinstance(value, torch.Tensor):
            self.values[n.name] = value.detach().numpy()
        return value


def onnx_values(proto, x):
    """Return every tensor of an ONNX model for one input, constants included."""
    known = {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}
    for node in proto.graph.node:
        if node.op_type == "Constant":
            known[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
    made = [t for node in proto.graph.node for t in node.output if t not in known]
    everything = onnx.ModelProto()
    everything.CopyFrom(proto)
    have = {o.name for o in proto.graph.output}
    everything.graph.output.extend(onnx.ValueInfoProto(name=t) for t in made if t not in have)
    session = ort.InferenceSession(everything.SerializeToString())
    return {"x": x, **dict(zip(made, session.run(made, {"x": x}), strict=True))}, known


def group(proto, output, inputs, known):
    """Return the nodes between tensors, walking back from `output`."""
    producer = {t: node for node in proto.graph.node for t in node.output}
    found, stack = {}, [output]
    while stack:
        tensor = stack.pop()
        if tensor in inputs or tensor in known or (node := producer.get(tensor)) is None:
            continue
        if node.name not in found:
            found[node.name] = node
            stack.extend(node.input)
    return list(found.values())


def edges(proto, prepared, reference, x):
    """Return the quantized edges by the names of the ONNX model."""
    recorder = Recorder(prepared)
    recorder.run(torch.from_numpy(x))
    values, known = onnx_values(proto, x)
    names = {}

    def named(fx_name):
        """Return the ONNX tensors with the value of an fx node."""
        value = recorder.values.get(fx_name)
        if value is None:
            return set()
        if fx_name not in names:
            names[fx_name] = {
                name for name, v in values.items()
                if v.shape == value.shape and np.allclose(v, value, rtol=1e-4, atol=1e-5)
            }  # fmt: skip
        return names[fx_name]

    def source(argument):
        """Return the fx node behind observers, or behind quantize and dequantize."""
        while argument.op == "call_method" and argument.target == "dequantize":
            argument = argument.args[0].args[0]
        return argument

    modules, found = dict(reference.named_modules()), {}
    for node in reference.graph.nodes:
        if node.op == "output":
            grid = grid_of(reference, node.args[0])
            found["", proto.graph.output[0].name] = grid
        if node.op in ("placeholder", "get_attr", "output") or node.name not in recorder.values:
            continue
        if node.target in (torch.quantize_per_tensor, "dequantize"):
            continue
        given = [(named(source(a).name), a) for a in tensors(node)]
        inputs = set().union(*(tensor_names for tensor_names, _ in given))
        for output in named(node.name) - inputs:
            for one in group(proto, output, inputs, known):
                for index, tensor in enumerate(one.input):
                    grid = next((grid_of(reference, a) for n, a in given if tensor in n), None)
                    constant = known.get(tensor)
                    if constant is not None and index < 2 and constant.ndim > 0:
                        grid = constant_grid(reference, node, modules, constant)
                    if grid:
                        found[one.name, index] = grid
    return [[*key, *grid] for key, grid in found.items() if grid]


def constant_grid(reference, node, modules, value):
    """Return the grid of a layer's weight, or of a buffer with this value that `node` reads."""
    if node.op == "call_module" and node.target in modules:
        layer = modules[node.target]
        layer = layer[0] if isinstance(layer, nn.Sequential) else layer
        weight = getattr(layer, "weight", None)
        if weight is not None and weight.numel() == value.size:
            return weight_grid(modules[node.target])
    for argument in tensors(node):
        if argument.op == "call_method" and argument.target == "dequantize":
            behind = argument.args[0].args[0]
            if behind.op == "get_attr" and getattr(reference, behind.target).numel() == value.size:
                return grid_of(reference, argument)
    return None


def main():
    """Answer the command line."""
    warnings.simplefilter("ignore")
    backend, observer, folder, answer = sys.argv[1:]
    found = {}
    for name, network in NETWORKS.items():
        torch.manual_seed(0)
        model = network()
        for part in model.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.running_mean.normal_(0, 0.2)
                part.running_var.uniform_(0.5, 2)
        model.eval()
        path = Path(folder) / f"{name}.onnx"
        samples = [torch.randn(IMAGE) * 2 for _ in range(4)]
        torch.onnx.export(
            model, (samples[0],), str(path), dynamo=False, opset_version=17, input_names=["x"]
        )
        prepared = prepare_fx(copy.deepcopy(model), mapping_of(backend, observer), (samples[0],))
        with torch.no_grad():
            for sample in samples:
                prepared(sample)
            reference = convert_to_reference_fx(copy.deepcopy(prepared))
            outputs = [np.stack([m(s).numpy() for s in samples]) for m in (model, reference)]
            x = np.stack([s.numpy() for s in samples])
            found[name] = edges(onnx.load(path), prepared, reference, x[0])
        np.savez(path.with_suffix(".npz"), x=x, float=outputs[0], quantized=outputs[1])
    Path(answer).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()
