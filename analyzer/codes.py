# SPDX-License-Identifier: Apache-2.0
"""The codes of findings: QA2xx quirks of a quantizer, QA3xx models read from a file."""

from __future__ import annotations

from typing import NamedTuple


class Code(NamedTuple):
    """What the code of a finding stands for."""

    title: str
    why: str
    remedy: str


CODES: dict[str, Code] = {
    "QA201": Code(
        "An 8-bit layer writes with the scale of a 16-bit layer",
        "esp-ppq aligns what an Add, Concat or Resize alone reads to its output, whatever the "
        "bits are: an 8-bit tensor gets a 16-bit step and keeps 1/256 of its range.",
        "Put the layers in front to 16 bits too, or the aligned layer back to 8.",
    ),
    "QA202": Code(
        "A 16-bit layer writes with the scale of an 8-bit layer",
        "esp-ppq aligns what an Add, Concat or Resize alone reads to its output: the wide tensor "
        "is rounded to the narrow one's step, so its output gains nothing from 16 bits.",
        "Put the aligned layer to 16 bits too, or leave both at 8.",
    ),
    "QA203": Code(
        "KL calibration cuts the range",
        "The KL search weighs how often values occur, not how large they are, and its threshold "
        "is rounded to the nearest power of two: rare large values are clipped.",
        "Compare with minmax or percentile calibration, for this layer or for all.",
    ),
    "QA204": Code(
        "Biases do not fit the bias width",
        "A bias is stored in steps of weight scale times input scale; 20 bits on ESP32-S3 hold "
        "524287 of them. Larger biases saturate.",
        "Run the layer in 16 bits (40-bit bias), or make its weights and input less unequal.",
    ),
    "QA205": Code(
        "A channel without weights loses its bias",
        "All weights of the channel are zero, so its scale is the smallest there is, and a bias "
        "in steps of it does not fit.",
        "Remove the channel, or fold its constant output into the next layer.",
    ),
    "QA206": Code(
        "The largest values of a constant are cut",
        "Constants with one scale are calibrated by the 99.99 percentile: beyond 10000 values the "
        "largest do not count.",
        "Clip or rescale the outlier in the float model, or use 16 bits, where the range counts.",
    ),
    "QA207": Code(
        "A graph output stays in float",
        "The tensor also feeds a Relu or Clip, and esp-ppq leaves its quantization to that one's "
        "output.",
        "Return the activated tensor instead, or put an Identity-like layer of its own in front "
        "of the output.",
    ),
    "QA208": Code(
        "The quantizer's FP32 reference is not the model",
        "esp-ppq evaluates some operators otherwise than ONNX defines them, quantized or not, and "
        "drops or changes graph outputs that lie inside a layer it fuses.",
        "Check the device against onnxruntime, not only against esp-ppq's report; export the "
        "operator with the attributes named.",
    ),
    "QA209": Code(
        "The FP32 reference reads 16-bit tables",
        "esp-ppq replaces functions by tables before it compares, in both branches: its report "
        "holds only part of their error.",
        "Judge the outputs against onnxruntime.",
    ),
    "QA210": Code(
        "The exported table is coarser than the simulated function",
        "In an 8-bit model a 16-bit function is simulated exactly but exported with every 256th "
        "value.",
        "Keep the function at 8 bits, or run the whole model in 16.",
    ),
    "QA211": Code(
        "A change of scale is missing in the exported file",
        "esp-ppq inserts a RequantizeLinear only where scales differ by 1e-5 or more; 16-bit "
        "scales may be smaller than that.",
        "Compare the device with the simulation at this layer.",
    ),
    "QA212": Code(
        "MSE calibration does not search at 16 bits",
        "Its histogram has 2048 bins, fewer than there are levels: the only candidate is 32 times "
        "the range.",
        "Use minmax for 16-bit layers.",
    ),
    "QA221": Code(
        "A graph output is cut to the range behind its Relu",
        "onnxruntime gives a tensor that a Relu or Clip alone reads the range of that one's "
        "output, even where the tensor is a graph output itself: the rest of it is clipped.",
        "Return the activated tensor instead, or let a second node read the output.",
    ),
    "QA222": Code(
        "A Relu or Clip is dropped that the quantizer does not stand for",
        "onnxruntime removes a Relu or Clip in front of a quantizer and leaves the clipping to "
        "its range.  That range reaches to zero beyond a Clip's bounds, is no range at all where "
        "calibration saw only zeros, and does not apply inside an If, Loop or Scan.",
        'Set "QDQKeepRemovableActivations": True in extra_options.',
    ),
    "QA223": Code(
        "A Gemm loses the factor on its bias",
        "onnxruntime resets beta to 1 without multiplying the quantized bias by it, so that the "
        "bias is added in full.  The simulation keeps the factor.",
        "Multiply the bias by beta in the float model and leave beta at 1.",
    ),
    "QA224": Code(
        "Entropy calibration is min-max calibration",
        "quantize_static searches thresholds among 128 histogram bins for 128 quantized ones: the "
        "only candidate is the whole range, cut to the data.",
        "Use percentile calibration where outliers are to be clipped.",
    ),
    "QA225": Code(
        "The quantized file does not load",
        "Per-channel weights need opset 13, and onnxruntime's quantizer writes them into files of "
        "an older opset as well.",
        "Convert the model to opset 13 or newer first, or quantize weights per tensor.",
    ),
    "QA241": Code(
        "A layer's weight has a single scale",
        "ModelOpt gives scales per channel to initializers only; a weight that a Constant node "
        "makes is calibrated like an activation, as one tensor.",
        "Turn Constant nodes into initializers before quantizing (simplify=True, or onnxslim).",
    ),
    "QA242": Code(
        "FP16 cannot hold the scale",
        "ModelOpt stores scales in FP16, whose numbers lie 6e-8 apart below 6e-5: a scale below "
        "1e-6 may be several percent off, and the smallest one is 6e-8.",
        'Quantize with high_precision_dtype="fp32", or remove channels of nearly zero weights.',
    ),
    "QA243": Code(
        "A Gemm loses the factor on its bias",
        "onnxruntime's quantizer, which ModelOpt calls, resets beta to 1 although the bias stays "
        "in float, so that it is added in full.  The simulation keeps the factor.",
        "Multiply the bias by beta in the float model and leave beta at 1.",
    ),
    "QA301": Code(
        "The quantized model was trained further",
        "Its weights differ from the FP32 ones by more than rounding: it was trained quantized, "
        "or equalized.  Errors are those against its own float form.",
        "Compare the task metric of both models to see what the training gained or lost.",
    ),
    "QA302": Code(
        "Layers of the FP32 model were not found in the quantized one",
        "Neither a name nor the structure around them leads to a counterpart; they are taken as "
        "float.",
        "Give the FP32 file that was quantized, or analyse the quantized file by itself, giving "
        "it as both.",
    ),
    "QA303": Code(
        "Quantizers of the file have no place in the FP32 graph",
        "The graphs differ there: the FP32 one has no tensor that these quantizers round.",
        "Analyse the quantized file by itself, giving it as both, to have them all.",
    ),
}
