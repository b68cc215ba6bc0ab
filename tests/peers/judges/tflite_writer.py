# SPDX-License-Identifier: Apache-2.0
"""A float .tflite out of an ONNX graph, without TensorFlow: for CNNs and small hand-made graphs.

Tensors of four axes are kept in NHWC.  Biases and activations are fused as the TFLite converter
does; padding that no TFLite operator knows becomes a PAD, a change of layout a TRANSPOSE.
"""

from __future__ import annotations

import math

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as fb

OPS = fb.BuiltinOperator
NONE, RELU, RELU_N1, RELU6 = 0, 1, 2, 3
NHWC, NCHW = (0, 2, 3, 1), (0, 3, 1, 2)
SAME, VALID = 0, 1
TYPES = {"float32": 0, "int32": 2, "int64": 4, "bool": 6}
BINARY = {"Add": "ADD", "Sub": "SUB", "Mul": "MUL", "Div": "DIV"}
UNARY = {
    "Relu": "RELU", "HardSwish": "HARD_SWISH", "LeakyRelu": "LEAKY_RELU", "Sigmoid": "LOGISTIC",
    "Tanh": "TANH", "Gelu": "GELU", "Sqrt": "SQRT", "Abs": "ABS", "Softmax": "SOFTMAX",
}  # fmt: skip
REDUCE = {
    "GlobalAveragePool": "MEAN", "ReduceMean": "MEAN", "ReduceSum": "SUM",
    "ReduceMax": "REDUCE_MAX", "ReduceMin": "REDUCE_MIN", "GlobalMaxPool": "REDUCE_MAX",
}  # fmt: skip


class Writer:
    """Writes one graph: `graph` holds nodes, shapes, inputs, outputs; `arrays` the constants.

    Attributes:
        slots: one list per written operator: the (node, input index) of each operand, or None.
    """

    def __init__(self, graph, arrays):
        self.graph, self.arrays = graph, arrays
        self.nodes = graph["nodes"]
        self.shapes = {name: tuple(shape) for name, shape in graph["shapes"].items()}
        self.readers = {}
        for node in self.nodes:
            for tensor in node["inputs"]:
                self.readers.setdefault(tensor, []).append(node)
        self.tensors, self.buffers, self.operators = [], [fb.BufferT()], []
        self.codes, self.index, self.slots = [], {}, []
        self.done = set()

    def write(self):
        """Return the model as bytes."""
        for name in self.graph["inputs"]:
            self.value(name)
        for node in self.nodes:
            if node["name"] not in self.done:
                self.node(node)
        sub = fb.SubGraphT()
        sub.name = "main"
        sub.tensors, sub.operators = self.tensors, self.operators
        sub.inputs = [self.index[n] for n in self.graph["inputs"]]
        sub.outputs = [self.index[n] for n in self.graph["outputs"]]
        signature = fb.SignatureDefT()
        signature.signatureKey, signature.subgraphIndex = "serving_default", 0
        signature.inputs = [self._named(n) for n in self.graph["inputs"]]
        signature.outputs = [self._named(n) for n in self.graph["outputs"]]
        model = fb.ModelT()
        model.version, model.description = 3, "written by hand"
        model.subgraphs, model.buffers, model.operatorCodes = [sub], self.buffers, self.codes
        model.signatureDefs = [signature]
        builder = flatbuffers.Builder(1024)
        builder.Finish(model.Pack(builder), b"TFL3")
        return bytes(builder.Output())

    def _named(self, name):
        entry = fb.TensorMapT()
        entry.name, entry.tensorIndex = name, self.index[name]
        return entry

    def tensor(self, name, shape, data=None, kind="float32"):
        """Add a tensor and return its index."""
        tensor = fb.TensorT()
        tensor.name, tensor.shape, tensor.type = name, [int(d) for d in shape], TYPES[kind]
        tensor.buffer = 0
        if data is not None:
            buffer = fb.BufferT()
            buffer.data = np.frombuffer(np.ascontiguousarray(data).tobytes(), np.uint8)
            tensor.buffer = len(self.buffers)
            self.buffers.append(buffer)
        self.tensors.append(tensor)
        return len(self.tensors) - 1

    def constant(self, name, array):
        """Add a constant of its own."""
        array = np.asarray(array)
        return self.tensor(f"{name}#{len(self.tensors)}", array.shape, array, array.dtype.name)

    def value(self, name, rank=None):
        """Return the tensor that holds an ONNX tensor; constants broadcast to `rank`."""
        if name in self.arrays:
            array = self.arrays[name]
            if rank == 4 and array.ndim:
                array = array.reshape((1,) * (4 - array.ndim) + array.shape).transpose(NHWC)
            return self.constant(name, array)
        if name not in self.index:
            shape = self.shapes[name]
            shape = tuple(shape[i] for i in NHWC) if len(shape) == 4 else shape
            self.index[name] = self.tensor(name, shape)
        return self.index[name]

    def axis(self, axis, rank):
        axis %= rank
        return NHWC.index(axis) if rank == 4 else axis

    def add(self, code, inputs, outputs, options=None, slots=()):
        """Add an operator; `slots` tells which node inputs its operands are."""
        number = getattr(OPS, code)
        codes = [c.builtinCode for c in self.codes]
        if number not in codes:
            entry = fb.OperatorCodeT()
            entry.builtinCode, entry.version = number, 1
            entry.deprecatedBuiltinCode = min(number, 127)
            self.codes.append(entry)
            codes.append(number)
        operator = fb.OperatorT()
        operator.opcodeIndex = codes.index(number)
        operator.inputs, operator.outputs = list(inputs), list(outputs)
        if options is not None:
            kind = type(options).__name__.removesuffix("T")
            operator.builtinOptionsType = getattr(fb.BuiltinOptions, kind)
            operator.builtinOptions = options
        self.operators.append(operator)
        slots = list(slots)
        self.slots.append(slots + [None] * (len(operator.inputs) - len(slots)))

    def only_reader(self, tensor):
        readers = self.readers.get(tensor, [])
        return readers[0] if len(readers) == 1 and tensor not in self.graph["outputs"] else None

    def fused(self, node):
        """Return the activation that can be fused behind `node`, and the output's name."""
        output = node["outputs"][0]
        reader = self.only_reader(output)
        if reader is None or reader["op"] not in ("Relu", "Clip"):
            return NONE, output
        kind = {(0.0, math.inf): RELU, (-1.0, 1.0): RELU_N1, (0.0, 6.0): RELU6}.get(
            self.bounds(reader)
        )
        if kind is None:
            return NONE, output
        self.done.add(reader["name"])
        return kind, reader["outputs"][0]

    def bounds(self, node):
        if node["op"] == "Relu":
            return 0.0, math.inf
        found = [-math.inf, math.inf]
        for i, tensor in enumerate(node["inputs"][1:3]):
            if tensor:
                found[i] = float(self.arrays[tensor].ravel()[0])
        return tuple(found)

    # ------------------------------------------------------------------ nodes

    def node(self, node):
        """Write one ONNX node."""
        op, name, inputs = node["op"], node["name"], node["inputs"]
        shape = self.shapes[inputs[0]]
        here = (name, 0)
        if op == "Conv":
            self.conv(node)
        elif op == "ConvTranspose":
            self.conv_transpose(node)
        elif op in ("Gemm", "MatMul"):
            self.product(node)
        elif op in BINARY:
            options = getattr(fb, f"{op}OptionsT")()
            options.fusedActivationFunction, output = self.fused(node)
            rank = len(self.shapes[output])
            operands = [self.value(t, rank) for t in inputs]
            slots = [(name, 0), (name, 1)]
            self.add(BINARY[op], operands, [self.value(output)], options, slots)
        elif op in UNARY:
            options = fb.SoftmaxOptionsT() if op == "Softmax" else None
            if options:
                options.beta = 1.0
            if op == "LeakyRelu":
                options = fb.LeakyReluOptionsT()
                options.alpha = node["attributes"].get("alpha", 0.01)
            output = self.value(node["outputs"][0])
            self.add(UNARY[op], [self.value(inputs[0])], [output], options, [here])
        elif op == "Clip":
            self.clip(node)
        elif op in ("MaxPool", "AveragePool"):
            self.pool(node)
        elif op in REDUCE:
            self.reduce(node)
        elif op == "Concat":
            rank = len(self.shapes[node["outputs"][0]])
            options = fb.ConcatenationOptionsT()
            options.axis = self.axis(node["attributes"]["axis"], rank)
            operands = [self.value(t, rank) for t in inputs]
            slots = [(name, i) for i in range(len(inputs))]
            self.add("CONCATENATION", operands, [self.value(node["outputs"][0])], options, slots)
        elif op in ("Max", "Min"):
            rank = len(self.shapes[node["outputs"][0]])
            code = "MAXIMUM" if op == "Max" else "MINIMUM"
            operands = [self.value(t, rank) for t in inputs]
            slots = [(name, 0), (name, 1)]
            self.add(code, operands, [self.value(node["outputs"][0])], None, slots)
        elif op in ("Reshape", "Flatten", "Squeeze", "Unsqueeze"):
            self.reshape(node)
        elif op == "Transpose":
            perm = node["attributes"]["perm"]
            if len(shape) == 4:
                perm = [NHWC.index(perm[NHWC[i]]) for i in range(4)]
            operands = [self.value(inputs[0]), self.constant(name, np.int32(perm))]
            options = fb.TransposeOptionsT()
            self.add("TRANSPOSE", operands, [self.value(node["outputs"][0])], options, [here])
        elif op == "Slice":
            self.slice(node)
        elif op == "Split":
            self.split(node)
        elif op == "Pad":
            self.pad(node)
        elif op == "Resize":
            self.resize(node)
        elif op == "Gather":
            options = fb.GatherOptionsT()
            options.axis = self.axis(node["attributes"].get("axis", 0), len(shape))
            indices = self.constant(name, self.arrays[inputs[1]].astype(np.int32))
            operands = [self.value(inputs[0]), indices]
            self.add("GATHER", operands, [self.value(node["outputs"][0])], options, [here])
        elif op == "Expand":
            output = self.value(node["outputs"][0])
            target = self.constant(name, np.int32(self.tensors[output].shape))
            self.add("BROADCAST_TO", [self.value(inputs[0]), target], [output], None, [here])
        else:
            raise NotImplementedError(op)

    def conv(self, node):
        attributes, name = node["attributes"], node["name"]
        source, weight = node["inputs"][:2]
        array = self.arrays[weight]
        group = attributes.get("group", 1)
        channels = self.shapes[source][1]
        depthwise = group > 1
        if depthwise and group != channels:
            raise NotImplementedError("grouped Conv")
        options = fb.DepthwiseConv2DOptionsT() if depthwise else fb.Conv2DOptionsT()
        options.strideH, options.strideW = attributes.get("strides", [1, 1])
        dilations = attributes.get("dilations", [1, 1])
        options.dilationHFactor, options.dilationWFactor = dilations
        if depthwise:
            options.depthMultiplier = array.shape[0] // channels
        weight_at = self.constant(
            weight, array.transpose((1, 2, 3, 0) if depthwise else (0, 2, 3, 1))
        )
        reach = [(k - 1) * d + 1 for k, d in zip(array.shape[2:], dilations, strict=True)]
        x, options.padding = self.padded(node, reach, 0.0)
        bias = node["inputs"][2] if len(node["inputs"]) > 2 else ""
        slots = [(name, 0), (name, 1), (name, 2)]
        behind, last = self.bias_behind(node, array.shape[0], 1)
        if behind and not bias:
            bias, slots[2] = behind
        else:
            last = node
        values = self.arrays[bias].ravel() if bias else np.zeros(array.shape[0], np.float32)
        options.fusedActivationFunction, output = self.fused(last)
        operands = [x, weight_at, self.constant(bias or f"{name}/bias", values)]
        code = "DEPTHWISE_CONV_2D" if depthwise else "CONV_2D"
        self.add(code, operands, [self.value(output)], options, slots)

    def conv_transpose(self, node):
        attributes, name = node["attributes"], node["name"]
        array = self.arrays[node["inputs"][1]]
        if any(attributes.get("pads", [0])):
            raise NotImplementedError("padded ConvTranspose")
        options = fb.TransposeConvOptionsT()
        options.strideH, options.strideW = attributes.get("strides", [1, 1])
        options.padding = VALID
        bias = node["inputs"][2] if len(node["inputs"]) > 2 else ""
        values = self.arrays[bias] if bias else np.zeros(array.shape[1], np.float32)
        options.fusedActivationFunction, output = self.fused(node)
        made = self.value(output)
        operands = [
            self.constant(name, np.int32(self.tensors[made].shape)),
            self.constant(node["inputs"][1], array.transpose(1, 2, 3, 0)),
            self.value(node["inputs"][0]),
            self.constant(bias or f"{name}/bias", values),
        ]
        slots = [None, (name, 1), (name, 0), (name, 2)]
        self.add("TRANSPOSE_CONV", operands, [made], options, slots)

    def bias_behind(self, node, channels, axis):
        """Return ((bias, slot), Add) where an Add of one constant per channel follows."""
        reader = self.only_reader(node["outputs"][0])
        if reader is None or reader["op"] != "Add":
            return None, node
        index = 1 - reader["inputs"].index(node["outputs"][0])
        bias = reader["inputs"][index]
        array = self.arrays.get(bias)
        if array is None or array.size != channels:
            return None, node
        rank = len(self.shapes[node["outputs"][0]])
        place = axis - rank if axis > 0 else axis
        if array.ndim < -place or array.shape[place] != channels:
            return None, node
        self.done.add(reader["name"])
        return (bias, (reader["name"], index)), reader

    def product(self, node):
        name, (source, weight) = node["name"], node["inputs"][:2]
        array = self.arrays.get(weight)
        if node["op"] == "MatMul" and (array is None or array.ndim != 2):
            options = fb.BatchMatMulOptionsT()
            operands = [self.value(source), self.value(weight)]
            slots = [(name, 0), (name, 1)]
            self.add("BATCH_MATMUL", operands, [self.value(node["outputs"][0])], options, slots)
            return
        if node["op"] == "MatMul" or not node["attributes"].get("transB", 0):
            array = array.T
        options = fb.FullyConnectedOptionsT()
        options.keepNumDims = len(self.shapes[source]) > 2
        slots = [(name, 0), (name, 1), (name, 2)]
        bias, last = (node["inputs"][2] if len(node["inputs"]) > 2 else ""), node
        if not bias:
            behind, last = self.bias_behind(node, array.shape[0], -1)
            if behind:
                bias, slots[2] = behind
        values = self.arrays[bias].ravel() if bias else np.zeros(array.shape[0], np.float32)
        options.fusedActivationFunction, output = self.fused(last)
        operands = [self.value(source), self.constant(weight, array)]
        operands.append(self.constant(bias or f"{name}/bias", values))
        self.add("FULLY_CONNECTED", operands, [self.value(output)], options, slots)

    def padded(self, node, reach, value):
        """Return the input, padded where need be, and the padding option."""
        attributes, source = node["attributes"], node["inputs"][0]
        pads = attributes.get("pads", [0, 0, 0, 0])
        x = self.value(source)
        if not any(pads):
            return x, VALID
        size, strides = self.shapes[source][2:], attributes.get("strides", [1, 1])
        same = []
        for d, s, r in zip(size, strides, reach, strict=True):
            total = max((-(-d // s) - 1) * s + r - d, 0)
            same.append((total // 2, total - total // 2))
        if pads == [same[0][0], same[1][0], same[0][1], same[1][1]]:
            return x, SAME
        if value is None:
            raise NotImplementedError("pooling with other than SAME padding")
        return self.pad_by(
            node["name"], x, [(0, 0), (pads[0], pads[2]), (pads[1], pads[3]), (0, 0)]
        ), VALID

    def pad_by(self, name, x, pads):
        shape = [d + sum(p) for d, p in zip(self.tensors[x].shape, pads, strict=True)]
        padded = self.tensor(f"{name}/padded", shape)
        self.add("PAD", [x, self.constant(name, np.int32(pads))], [padded], fb.PadOptionsT())
        return padded

    def clip(self, node):
        name, bounds = node["name"], self.bounds(node)
        x, output = self.value(node["inputs"][0]), self.value(node["outputs"][0])
        alone = {
            (0.0, math.inf): "RELU", (0.0, 6.0): "RELU6", (-1.0, 1.0): "RELU_N1_TO_1",
            (0.0, 1.0): "RELU_0_TO_1",
        }.get(bounds)  # fmt: skip
        if alone:
            self.add(alone, [x], [output], None, [(name, 0)])
            return
        middle = self.tensor(f"{name}/above", self.tensors[x].shape)
        low, high = (self.constant(name, np.float32(b)) for b in bounds)
        self.add("MAXIMUM", [x, low], [middle], None, [(name, 0), (name, 1)])
        self.add("MINIMUM", [middle, high], [output], None, [None, (name, 2)])

    def pool(self, node):
        attributes = node["attributes"]
        options = fb.Pool2DOptionsT()
        options.strideH, options.strideW = attributes.get("strides", [1, 1])
        options.filterHeight, options.filterWidth = attributes["kernel_shape"]
        x, options.padding = self.padded(node, attributes["kernel_shape"], None)
        code = "MAX_POOL_2D" if node["op"] == "MaxPool" else "AVERAGE_POOL_2D"
        self.add(code, [x], [self.value(node["outputs"][0])], options, [(node["name"], 0)])

    def reduce(self, node):
        attributes, rank = node["attributes"], len(self.shapes[node["inputs"][0]])
        axes = [2, 3] if node["op"].startswith("Global") else attributes.get("axes")
        if axes is None:
            axes = self.arrays[node["inputs"][1]].tolist()
        options = fb.ReducerOptionsT()
        options.keepDims = bool(attributes.get("keepdims", 1))
        if not options.keepDims and rank == 4 and sorted(a % 4 for a in axes) != [2, 3]:
            raise NotImplementedError("a reduction that leaves three axes")
        at = self.constant(node["name"], np.int32([self.axis(a, rank) for a in axes]))
        operands = [self.value(node["inputs"][0]), at]
        output = self.value(node["outputs"][0])
        self.add(REDUCE[node["op"]], operands, [output], options, [(node["name"], 0)])

    def reshape(self, node):
        name, source, made = node["name"], node["inputs"][0], node["outputs"][0]
        x, slot = self.value(source), (name, 0)
        shape, target = self.shapes[source], self.shapes[made]
        if len(shape) == 4 and shape[2:] != (1, 1):
            turned = self.tensor(f"{name}/nchw", shape)
            perm = self.constant(name, np.int32(NCHW))
            self.add("TRANSPOSE", [x, perm], [turned], fb.TransposeOptionsT(), [slot])
            x, slot = turned, None
        y = self.value(made)
        turn = len(target) == 4 and target[2:] != (1, 1)
        plain = self.tensor(f"{name}/plain", target) if turn else y
        at = self.constant(name, np.int32(self.tensors[plain].shape))
        options = fb.ReshapeOptionsT()
        options.newShape = self.tensors[plain].shape
        self.add("RESHAPE", [x, at], [plain], options, [slot])
        if turn:
            perm = self.constant(name, np.int32(NHWC))
            self.add("TRANSPOSE", [plain, perm], [y], fb.TransposeOptionsT())

    def slice(self, node):
        name, source = node["name"], node["inputs"][0]
        shape = self.shapes[source]
        starts, ends = (self.arrays[t].tolist() for t in node["inputs"][1:3])
        axes = range(len(starts))
        if len(node["inputs"]) > 3:
            axes = self.arrays[node["inputs"][3]].tolist()
        begin, end = [0] * len(shape), list(shape)
        for a, s, e in zip(axes, starts, ends, strict=True):
            begin[a] = s + shape[a] if s < 0 else s
            end[a] = min(e + shape[a] if e < 0 else e, shape[a])
        order = NHWC if len(shape) == 4 else range(len(shape))
        options = fb.StridedSliceOptionsT()
        operands = [self.value(source)]
        operands += [self.constant(name, np.int32([v[i] for i in order])) for v in (begin, end)]
        operands.append(self.constant(name, np.int32([1] * len(shape))))
        output = self.value(node["outputs"][0])
        self.add("STRIDED_SLICE", operands, [output], options, [(name, 0)])

    def split(self, node):
        name, shape = node["name"], self.shapes[node["inputs"][0]]
        given = node["attributes"].get("axis", 0)
        axis = self.constant(name, np.array(self.axis(given, len(shape)), np.int32))
        x, outputs = self.value(node["inputs"][0]), [self.value(t) for t in node["outputs"]]
        sizes = [self.shapes[t][given] for t in node["outputs"]]
        even = len(set(sizes)) == 1
        options = fb.SplitOptionsT() if even else fb.SplitVOptionsT()
        options.numSplits = len(sizes)
        if even:
            self.add("SPLIT", [axis, x], outputs, options, [None, (name, 0)])
        else:
            operands = [x, self.constant(name, np.int32(sizes)), axis]
            self.add("SPLIT_V", operands, outputs, options, [(name, 0)])

    def pad(self, node):
        name, attributes = node["name"], node["attributes"]
        pads = self.arrays[node["inputs"][1]].tolist()
        rank = len(pads) // 2
        pairs = [(pads[i], pads[i + rank]) for i in range(rank)]
        if rank == 4:
            pairs = [pairs[i] for i in NHWC]
        operands = [self.value(node["inputs"][0]), self.constant(name, np.int32(pairs))]
        output, slots = [self.value(node["outputs"][0])], [(name, 0)]
        value = node["inputs"][2] if len(node["inputs"]) > 2 else ""
        if attributes.get("mode", "constant") == "reflect":
            self.add("MIRROR_PAD", operands, output, fb.MirrorPadOptionsT(), slots)
        elif value and float(self.arrays[value].ravel()[0]):
            operands.append(self.constant(value, self.arrays[value].reshape(())))
            slots += [None, (name, 2)]
            self.add("PADV2", operands, output, fb.PadV2OptionsT(), slots)
        else:
            self.add("PAD", operands, output, fb.PadOptionsT(), slots)

    def resize(self, node):
        name, attributes = node["name"], node["attributes"]
        linear = attributes.get("mode") == "linear"
        options = fb.ResizeBilinearOptionsT() if linear else fb.ResizeNearestNeighborOptionsT()
        options.halfPixelCenters = linear
        output = self.value(node["outputs"][0])
        size = self.constant(name, np.int32(self.tensors[output].shape[1:3]))
        code = "RESIZE_BILINEAR" if linear else "RESIZE_NEAREST_NEIGHBOR"
        self.add(code, [self.value(node["inputs"][0]), size], [output], options, [(name, 0)])
