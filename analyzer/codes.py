# SPDX-License-Identifier: Apache-2.0
"""The codes of findings: QA1xx causes, QA2xx quirks of a quantizer, QA3xx files read."""

from __future__ import annotations

import textwrap
from typing import NamedTuple

from analyzer.errors import ConfigError, nearest


class Code(NamedTuple):
    """What the code of a finding stands for."""

    title: str
    why: str
    remedy: str


_GAIN = (
    "The cause is taken out of the quantized model, everything else is left as it is, and the "
    "model is run again: the gain is the share of the noise at the outputs that has gone, mean "
    "over the outputs. Gains of several causes overlap. Where nothing can be taken out, none is "
    "printed."
)

CODES: dict[str, Code] = {
    "QA101": Code(
        "A few channels reach much farther than the others",
        "A tensor has one scale, and its step follows the channels with the largest values: "
        "the other channels get a fraction of the levels.",
        "Divide those channels by a power of two in the layer before and multiply their weights "
        "by it in the layer behind (equalization), or give the layer 16 bits.",
    ),
    "QA102": Code(
        "A few values reach much farther than the others",
        "The range is set by less than a thousandth of the values; all others share the few "
        "levels that are left near zero.",
        "Calibrate with a percentile or MSE and see whether the clipped values are missed; else "
        "limit them in the float model, or give the layer 16 bits.",
    ),
    "QA103": Code(
        "The grid ends before the values do",
        "Most of the noise made here is of values beyond the last level, which are cut to it.",
        "Calibrate with min-max or a higher percentile, for this layer or for all, and with data "
        "that reach as far as those in use.",
    ),
    "QA104": Code(
        "The steps are too coarse",
        "Nothing is clipped and no single channel or value is to blame: the signal needs more "
        "levels than there are.",
        "Give the layer 16 bits; for weights, scales per channel where the target has them.",
    ),
    "QA105": Code(
        "Tensors of different ranges share one scale",
        "A Concat, an Add or the like puts them onto one grid, whose step follows the widest: "
        "the narrow ones get a fraction of the levels.",
        "Bring the ranges together in the float model (scale one branch, divide it out in the "
        "layer behind), or give what is joined 16 bits.",
    ),
    "QA106": Code(
        "Boxes and scores share a scale",
        "An output joins parts of very different ranges (pixels and probabilities, say) under one "
        "scale: its step follows the large part, and the small one has few levels left or none.",
        "Return the parts as outputs of their own, or divide the large one (boxes by the image "
        "size) before joining them.",
    ),
    "QA107": Code(
        "A channel that never changes sets the range",
        "It holds the same large value whatever the input is, usually because its weights are "
        "zero and its bias is not, and takes the levels from all channels that vary.",
        "Remove the channel, and add what it contributes to the biases of the layer behind.",
    ),
    "QA108": Code(
        "Channels of a weight reach unequally far, on one scale",
        "Folding a BatchNorm multiplies every output channel by a factor of its own; in a "
        "depthwise convolution nothing evens that out.  Channels of small weights keep few "
        "levels, or none.",
        "Use weight scales per channel; where the target has none, equalize the channels with "
        "the layer before, or leave the layer in 16 bits.",
    ),
    "QA109": Code(
        "Half of the grid is never used",
        "The grid is the same on both sides of zero, but the values lie on one: behind a SiLU, "
        "GELU or HardSwish but for a short tail, behind a Relu or Sigmoid altogether.",
        "Use an affine (asymmetric) grid for activations where the target has one; else give the "
        "layer 16 bits, or put a Relu in place of the activation and train again.",
    ),
    "QA110": Code(
        "Attention is finer than its grid",
        "A Softmax spreads 1 over a whole row, so most probabilities lie below half a step of an "
        "8-bit grid and become 0; and scores that share a range with a mask (-10000, say) are "
        "rounded to steps that change a probability by whole factors.",
        "Leave the Softmax and what it reads in 16 bits or in float; mask with a value just "
        "below the scores (-50, say) instead of a huge one.",
    ),
    "QA111": Code(
        "The inside of a norm is quantized",
        "A norm squares, averages and divides: the variance spans the square of the range of what "
        "it is taken of, and where it is small 8 bits leave it a few steps, which scale the whole "
        "row wrongly.",
        "Leave the norm in float or in 16 bits, or export it as one node (LayerNormalization, "
        "opset 17) for an engine that has it.",
    ),
    "QA112": Code(
        "Biases saturate",
        "A bias is stored in steps of weight scale times input scale, in so many bits. Where "
        "that step is tiny, because the channel's weights are nearly zero, the bias does not fit "
        "and is cut.",
        "Remove channels of nearly zero weights, give the weights one scale per tensor there, or "
        "run the layer with more bits.",
    ),
    "QA113": Code(
        "A scale is not a usable number",
        "A scale that is NaN, infinite, zero, negative or subnormal turns everything it touches "
        "into NaN, infinity or zero, or into something else on every device.",
        "Look at the range the scale was made of: constant or empty channels, overflow in the "
        "calibration, a type too small for the scale.",
    ),
    "QA114": Code(
        "Calibration saw a narrower range than the analysis data have",
        "Values that no calibration sample had lie beyond the grid and are clipped.",
        "Calibrate with more samples, or with samples like those that are clipped.",
    ),
    "QA115": Code(
        "The calibration data are not like the model's input",
        "Scales found on constant, repeated or random inputs, or on inputs prepared otherwise "
        "than the model takes them, fit nothing that comes later.",
        "Calibrate with real inputs, prepared as for inference.",
    ),
    "QA116": Code(
        "A part of an output is lost",
        "Every value of it is zero once quantized, although it is not in FP32.  The error of the "
        "whole output may look perfect, where the rest of it is far larger.",
        "Give the part an output and a scale of its own.",
    ),
    "QA117": Code(
        "The model looks trained for quantization",
        "It has learned to make up for the noise of all its quantizers together.  With only one "
        "of them on, the rest of that is made up for without being there, so isolated errors are "
        "too large and rank layers wrongly.",
        "Judge by the accumulated error and the task, and change the quantizers of the training "
        "only together with it.",
    ),
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


def page(code: str, width: int = 80) -> str:
    """Return what `--explain` prints: title, why it hurts, what to do, how it was tried out.

    Args:
        code: in any case.
        width: in characters; lines are wrapped to it, and to 100 at most.

    Raises:
        ConfigError: if there is no such code.
    """
    found = CODES.get(code.upper())
    if found is None:
        raise ConfigError(f"There is no code {code!r}.", nearest(code.upper(), CODES))
    parts = [("Why it hurts", found.why), ("What to do", found.remedy)]
    if code.upper().startswith(("QA1", "QA2")):
        parts.append(("What the gain is", _GAIN))
    blocks = [f"{code.upper()}  {found.title}"]
    blocks += [f"{head}\n{_wrapped(text, width)}" for head, text in parts]
    return "\n\n".join(blocks)


def _wrapped(text: str, width: int) -> str:
    return textwrap.fill(
        " ".join(text.split()),
        min(max(width, 40), 100),
        initial_indent="  ",
        subsequent_indent="  ",
        break_long_words=False,
        break_on_hyphens=False,
    )
