# SPDX-License-Identifier: Apache-2.0
"""The options of the command: what each is called, means, and which panel of the help it is in."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from analyzer.cli.info import explain, list_targets, version
from analyzer.cli.output import Format

INPUT, PICTURES, TARGET = "Input", "Preparing pictures", "Target"
MEASURING, ADVICE, GATE, OUTPUT, INFO = "Measuring", "Advice", "Gate", "Output", "Info"

Model = Annotated[
    Path,
    typer.Argument(
        help="FP32 (or FP16) ONNX model; or an analysis.json, to render its reports again.",
        show_default=False,
        metavar="MODEL",
    ),
]
Calib = Annotated[
    str | None,
    typer.Option(
        help="Calibration data: a folder of images, .npy/.npz files or folders, an ONNX "
        "test_data_set folder, or module:function.",
        envvar="QANALYZE_CALIB",
        metavar="PATH",
        rich_help_panel=INPUT,
    ),
]
Eval = Annotated[
    str | None,
    typer.Option(
        "--eval",
        help="Other data for the analysis.",
        envvar="QANALYZE_EVAL",
        metavar="PATH",
        rich_help_panel=INPUT,
    ),
]
Shape = Annotated[
    list[str] | None,
    typer.Option(
        help="Shape of an input with free axes: images=1,3,640,640.",
        metavar="NAME=DIMS",
        rich_help_panel=INPUT,
    ),
]
CalibSamples = Annotated[
    str | None,
    typer.Option(
        help="Calibrate on the first N samples only.",
        envvar="QANALYZE_CALIB_SAMPLES",
        metavar="N",
        rich_help_panel=INPUT,
    ),
]
Preset = Annotated[
    str | None,
    typer.Option(
        help="Named preparation: zero-one, raw, imagenet, tf, caffe, yolo, yolox, ...",
        envvar="QANALYZE_PRESET",
        metavar="NAME",
        rich_help_panel=PICTURES,
    ),
]
Resize = Annotated[
    str | None,
    typer.Option(
        help="stretch, letterbox, crop or none.", metavar="HOW", rich_help_panel=PICTURES
    ),
]
Size = Annotated[
    str | None, typer.Option(help="HxW of the input.", metavar="HxW", rich_help_panel=PICTURES)
]
ShortSide = Annotated[
    str | None,
    typer.Option(help="Short side before the centre crop.", metavar="N", rich_help_panel=PICTURES),
]
PadValue = Annotated[
    str | None,
    typer.Option(help="0..255 for letterbox bars.", metavar="N", rich_help_panel=PICTURES),
]
PadSide = Annotated[
    str | None,
    typer.Option(help="centre or bottom_right.", metavar="SIDE", rich_help_panel=PICTURES),
]
Scale = Annotated[
    str | None,
    typer.Option(
        help="Factor on the 0..255 pixel, like 1/255.", metavar="X", rich_help_panel=PICTURES
    ),
]
Mean = Annotated[
    str | None,
    typer.Option(
        help="Taken away after scaling: 0.485,0.456,0.406.",
        metavar="X,...",
        rich_help_panel=PICTURES,
    ),
]
Std = Annotated[
    str | None,
    typer.Option(
        help="Divided by after that: 0.229,0.224,0.225.",
        metavar="X,...",
        rich_help_panel=PICTURES,
    ),
]
Channels = Annotated[
    str | None,
    typer.Option(help="rgb, bgr, gray or y.", metavar="ORDER", rich_help_panel=PICTURES),
]
Layout = Annotated[
    str | None, typer.Option(help="nchw or nhwc.", metavar="ORDER", rich_help_panel=PICTURES)
]
Antialias = Annotated[
    str | None,
    typer.Option(
        help="true (Pillow) or false (OpenCV) shrinking.",
        metavar="BOOL",
        rich_help_panel=PICTURES,
    ),
]
Target = Annotated[
    str | None,
    typer.Option(
        help="Quantizer to imitate, see --list-targets; several with commas, or all. "
        r"\[default: esp32p4]",
        envvar="QANALYZE_TARGET",
        metavar="NAME",
        rich_help_panel=TARGET,
    ),
]
Quantized = Annotated[
    str | None,
    typer.Option(
        help="Analyse this Q/DQ or QOperator model instead of imitating a quantizer; MODEL is "
        "the FP32 one it was made from.",
        metavar="INT8.onnx",
        rich_help_panel=TARGET,
    ),
]
Calibration = Annotated[
    str | None,
    typer.Option(
        help="Range observer: minmax, percentile, ..., see --list-targets. "
        r"\[default: the target's]",
        envvar="QANALYZE_CALIBRATION",
        metavar="NAME",
        rich_help_panel=TARGET,
    ),
]
Precision = Annotated[
    str | None,
    typer.Option(
        help=r"Precision of all layers: int8, int16, ..., see --list-targets. "
        r"\[default: the target's]",
        envvar="QANALYZE_PRECISION",
        metavar="NAME",
        rich_help_panel=TARGET,
    ),
]
Dispatch = Annotated[
    list[str] | None,
    typer.Option(
        help="Precision of one layer: /head/conv/Conv=int16; may be given several times.",
        metavar="LAYER=NAME",
        rich_help_panel=TARGET,
    ),
]
Granularity = Annotated[
    str | None,
    typer.Option(
        help=r"Weight scales per channel or per tensor. \[default: the target's]",
        envvar="QANALYZE_GRANULARITY",
        metavar="channel|tensor",
        rich_help_panel=TARGET,
    ),
]
Samples = Annotated[
    str | None,
    typer.Option(
        help="Analyse N samples, every layer on each of them; auto: few for all layers, more "
        r"where the order of the worst is open. \[default: auto]",
        envvar="QANALYZE_SAMPLES",
        metavar="N|auto",
        rich_help_panel=MEASURING,
    ),
]
Slice = Annotated[
    list[str] | None,
    typer.Option(
        "--slice",
        help="Look at a part of an output by itself: boxes=output0[:, :4]; may be given "
        "several times.",
        metavar="NAME=EXPR",
        rich_help_panel=MEASURING,
    ),
]
Labels = Annotated[
    str | None,
    typer.Option(
        help="True answers for the task metric: a .csv of names and classes, a folder of "
        "YOLO .txt files, or a COCO .json.",
        envvar="QANALYZE_LABELS",
        metavar="PATH",
        rich_help_panel=MEASURING,
    ),
]
Task = Annotated[
    str | None,
    typer.Option(
        help="What the outputs mean: classification, detection, embedding, tokens, none. "
        r"\[default: auto]",
        envvar="QANALYZE_TASK",
        metavar="NAME",
        rich_help_panel=MEASURING,
    ),
]
Metric = Annotated[
    str | None,
    typer.Option(
        help="Your own task metric.",
        envvar="QANALYZE_METRIC",
        metavar="MODULE:FUNCTION",
        rich_help_panel=MEASURING,
    ),
]
Threads = Annotated[
    str | None,
    typer.Option(
        help=r"Cores to use. \[default: all]",
        envvar="QANALYZE_THREADS",
        metavar="N",
        rich_help_panel=MEASURING,
    ),
]
Budget = Annotated[
    str | None,
    typer.Option(
        help="Most that the recommended proposal may cost: share of the MACs moved to more than "
        r"8 bits, or the time of a run as 12ms, with --latency. \[default: 5%]",
        envvar="QANALYZE_BUDGET",
        metavar="SHARE|MS",
        rich_help_panel=ADVICE,
    ),
]
Goal = Annotated[
    str | None,
    typer.Option(
        help='What is good enough: an NSR as 1%, or a score as "top-1=98%". '
        r"\[default: as good as the budget allows]",
        envvar="QANALYZE_GOAL",
        metavar="NAME=VALUE",
        rich_help_panel=ADVICE,
    ),
]
TimeLimit = Annotated[
    str | None,
    typer.Option(
        help="Stop looking for proposals when the whole run has taken this long: 60s, 2m.",
        envvar="QANALYZE_TIME_LIMIT",
        metavar="TIME",
        rich_help_panel=ADVICE,
    ),
]
Latency = Annotated[
    str | None,
    typer.Option(
        help="Your own measurements: a table of layer, precision and milliseconds.",
        envvar="QANALYZE_LATENCY",
        metavar="TABLE.csv",
        rich_help_panel=ADVICE,
    ),
]
Export = Annotated[
    str | None,
    typer.Option(
        help="Write the recommended proposal for quantizers, into export/ of the reports: "
        "esp-ppq, onnxruntime, qdq, ..., several with commas, or all.",
        envvar="QANALYZE_EXPORT",
        metavar="NAME",
        rich_help_panel=ADVICE,
    ),
]
NoPropose = Annotated[
    bool,
    typer.Option(
        "--no-propose", help="Look for no proposals, which is faster.", rich_help_panel=ADVICE
    ),
]
MaxNsr = Annotated[
    str | None,
    typer.Option(
        help="Exit with 1 when the NSR of any output is above this, like 10%.",
        envvar="QANALYZE_MAX_NSR",
        metavar="SHARE",
        rich_help_panel=GATE,
    ),
]
MinAgreement = Annotated[
    str | None,
    typer.Option(
        help="Exit with 1 when the first score against FP32 is below this, like 99%.",
        envvar="QANALYZE_MIN_AGREEMENT",
        metavar="SHARE",
        rich_help_panel=GATE,
    ),
]
NoWorseThan = Annotated[
    str | None,
    typer.Option(
        help="Exit with 1 when an output has more than 1 % more NSR than in this analysis, or a "
        "score is more than 0.001 lower.",
        envvar="QANALYZE_NO_WORSE_THAN",
        metavar="ANALYSIS.json",
        rich_help_panel=GATE,
    ),
]
Baseline = Annotated[
    str | None,
    typer.Option(
        help="Show what got better or worse since this analysis.",
        envvar="QANALYZE_BASELINE",
        metavar="ANALYSIS.json",
        rich_help_panel=OUTPUT,
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        help=r"Folder for the reports. \[default: reports/MODEL.TARGET]",
        metavar="DIR",
        rich_help_panel=OUTPUT,
    ),
]
Stdout = Annotated[
    Format, typer.Option("--format", help="What stdout carries.", rich_help_panel=OUTPUT)
]
ShowAll = Annotated[
    bool,
    typer.Option("--all", help="Print everything, not the worst only.", rich_help_panel=OUTPUT),
]
Quiet = Annotated[
    bool, typer.Option("-q", "--quiet", help="Only the verdict.", rich_help_panel=OUTPUT)
]
Verbose = Annotated[
    bool, typer.Option("-v", "--verbose", help="Time of every stage.", rich_help_panel=OUTPUT)
]
ListTargets = Annotated[
    bool,
    typer.Option(
        "--list-targets",
        help="Print the targets.",
        callback=list_targets,
        is_eager=True,
        rich_help_panel=INFO,
    ),
]
Explain = Annotated[
    str | None,
    typer.Option(
        help="Print what a finding's code means.",
        callback=explain,
        is_eager=True,
        metavar="CODE",
        rich_help_panel=INFO,
    ),
]
Version = Annotated[
    bool,
    typer.Option(
        "--version",
        help="Print the version.",
        callback=version,
        is_eager=True,
        rich_help_panel=INFO,
    ),
]
