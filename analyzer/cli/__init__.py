# SPDX-License-Identifier: Apache-2.0
"""The command line: the only package that prints or exits.

The result goes to stdout, the conversation (progress, warnings, errors, paths) to stderr.  Exit
codes: 0 fine, 1 the gate failed, 2 bad input, 3 a bug of ours, 130 interrupted.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, NoReturn

import typer

from analyzer import __version__
from analyzer.cli.output import Format, say
from analyzer.errors import QAnalyzeError, nearest

INPUT, PICTURES, TARGET = "Input", "Preparing pictures", "Target"
MEASURING, GATE, OUTPUT, INFO = "Measuring", "Gate", "Output", "Info"
INTERRUPTED = 130  # 128 + SIGINT, as a shell reports it


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich")


def main() -> NoReturn:
    """Run the command and exit with its code."""
    try:
        code = app(standalone_mode=False)
    except QAnalyzeError as error:
        say(f"Error: {error.message}", error.remedy)
        code = 2
    except Exception as error:
        code = _foreign(error)
    except KeyboardInterrupt:
        code = INTERRUPTED
    if code == INTERRUPTED:  # the parser may have made a number of the exception
        say("Interrupted: no report was written for the run at hand.")
    raise SystemExit(code if isinstance(code, int) else 0)


def _foreign(error: Exception) -> int:
    """Exit code for what is not ours: the parser's own errors, or a bug."""
    describe = getattr(error, "format_message", None)
    if callable(describe):  # a usage error of the argument parser
        say(*_usage(error, str(describe())))
        return int(getattr(error, "exit_code", 2))
    if type(error).__name__ in ("Exit", "Abort"):
        return int(getattr(error, "exit_code", INTERRUPTED))
    import traceback

    traceback.print_exc()
    say(
        f"This is a bug in qanalyze {__version__}: {type(error).__name__}.",
        "Please report it with the lines above.",
    )
    return 3


def _usage(error: Exception, message: str) -> tuple[str, str]:
    """Word an error of the argument parser as we word our own."""
    unknown = getattr(error, "option_name", None)
    if unknown is not None and message.startswith("No such option"):
        close = list(getattr(error, "possibilities", None) or ())
        remedy = nearest(unknown, close) if close else "See qanalyze --help."
        return f"Error: There is no option {unknown!r}.", remedy
    message = message.replace("Value error, ", "").rstrip(".")
    return f"Error: {message}.", "See qanalyze --help."


def _version(asked: bool) -> None:
    if asked:
        print(f"qanalyze {__version__}")  # noqa: T201
        raise typer.Exit


def _list_targets(asked: bool) -> None:
    if asked:
        from analyzer.targets import get_target, target_names
        from analyzer.targets.fidelity import fidelity_of

        for name in target_names():
            target = get_target(name)
            found = fidelity_of(name)
            lines = (
                f"{name}: {target.summary}",
                f"    --precision    {', '.join(target.precisions)}",
                f"    --calibration  {', '.join(target.observers)}",
                f"    --granularity  {', '.join(target.granularities)}",
                f"    fidelity       {found.sentence() if found else 'not measured'}",
            )
            print("\n".join(lines))  # noqa: T201
        raise typer.Exit


def _explain(code: str | None) -> None:
    if code is not None:
        import shutil

        from analyzer.codes import page

        print(page(code, shutil.get_terminal_size().columns))  # noqa: T201
        raise typer.Exit


@app.command(context_settings={"help_option_names": ["-h", "--help"]})
def analyze(
    model: Annotated[
        Path,
        typer.Argument(help="FP32 (or FP16) ONNX model.", show_default=False, metavar="MODEL"),
    ],
    calib: Annotated[
        str | None,
        typer.Option(
            help="Calibration data: a folder of images, .npy/.npz files or folders, an ONNX "
            "test_data_set folder, or module:function.",
            envvar="QANALYZE_CALIB",
            metavar="PATH",
            rich_help_panel=INPUT,
        ),
    ] = None,
    eval_: Annotated[
        str | None,
        typer.Option(
            "--eval",
            help="Other data for the analysis.",
            envvar="QANALYZE_EVAL",
            metavar="PATH",
            rich_help_panel=INPUT,
        ),
    ] = None,
    shape: Annotated[
        list[str] | None,
        typer.Option(
            help="Shape of an input with free axes: images=1,3,640,640.",
            metavar="NAME=DIMS",
            rich_help_panel=INPUT,
        ),
    ] = None,
    calib_samples: Annotated[
        str | None,
        typer.Option(
            help="Calibrate on the first N samples only.",
            envvar="QANALYZE_CALIB_SAMPLES",
            metavar="N",
            rich_help_panel=INPUT,
        ),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            help="Named preparation: zero-one, raw, imagenet, tf, caffe, yolo, yolox, ...",
            envvar="QANALYZE_PRESET",
            metavar="NAME",
            rich_help_panel=PICTURES,
        ),
    ] = None,
    resize: Annotated[
        str | None,
        typer.Option(
            help="stretch, letterbox, crop or none.", metavar="HOW", rich_help_panel=PICTURES
        ),
    ] = None,
    size: Annotated[
        str | None, typer.Option(help="HxW of the input.", metavar="HxW", rich_help_panel=PICTURES)
    ] = None,
    short_side: Annotated[
        str | None,
        typer.Option(
            help="Short side before the centre crop.", metavar="N", rich_help_panel=PICTURES
        ),
    ] = None,
    pad_value: Annotated[
        str | None,
        typer.Option(help="0..255 for letterbox bars.", metavar="N", rich_help_panel=PICTURES),
    ] = None,
    pad_side: Annotated[
        str | None,
        typer.Option(help="centre or bottom_right.", metavar="SIDE", rich_help_panel=PICTURES),
    ] = None,
    scale: Annotated[
        str | None,
        typer.Option(
            help="Factor on the 0..255 pixel, like 1/255.", metavar="X", rich_help_panel=PICTURES
        ),
    ] = None,
    mean: Annotated[
        str | None,
        typer.Option(
            help="Taken away after scaling: 0.485,0.456,0.406.",
            metavar="X,...",
            rich_help_panel=PICTURES,
        ),
    ] = None,
    std: Annotated[
        str | None,
        typer.Option(
            help="Divided by after that: 0.229,0.224,0.225.",
            metavar="X,...",
            rich_help_panel=PICTURES,
        ),
    ] = None,
    channels: Annotated[
        str | None,
        typer.Option(help="rgb, bgr, gray or y.", metavar="ORDER", rich_help_panel=PICTURES),
    ] = None,
    layout: Annotated[
        str | None, typer.Option(help="nchw or nhwc.", metavar="ORDER", rich_help_panel=PICTURES)
    ] = None,
    antialias: Annotated[
        str | None,
        typer.Option(
            help="true (Pillow) or false (OpenCV) shrinking.",
            metavar="BOOL",
            rich_help_panel=PICTURES,
        ),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            help="Quantizer to imitate, see --list-targets; several with commas, or all. "
            r"\[default: esp32p4]",
            envvar="QANALYZE_TARGET",
            metavar="NAME",
            rich_help_panel=TARGET,
        ),
    ] = None,
    quantized: Annotated[
        str | None,
        typer.Option(
            help="Analyse this Q/DQ or QOperator model instead of imitating a quantizer; MODEL is "
            "the FP32 one it was made from.",
            metavar="INT8.onnx",
            rich_help_panel=TARGET,
        ),
    ] = None,
    calibration: Annotated[
        str | None,
        typer.Option(
            help="Range observer: minmax, percentile, ..., see --list-targets. "
            r"\[default: the target's]",
            envvar="QANALYZE_CALIBRATION",
            metavar="NAME",
            rich_help_panel=TARGET,
        ),
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(
            help=r"Precision of all layers: int8, int16, ..., see --list-targets. "
            r"\[default: the target's]",
            envvar="QANALYZE_PRECISION",
            metavar="NAME",
            rich_help_panel=TARGET,
        ),
    ] = None,
    dispatch: Annotated[
        list[str] | None,
        typer.Option(
            help="Precision of one layer: /head/conv/Conv=int16; may be given several times.",
            metavar="LAYER=NAME",
            rich_help_panel=TARGET,
        ),
    ] = None,
    granularity: Annotated[
        str | None,
        typer.Option(
            help=r"Weight scales per channel or per tensor. \[default: the target's]",
            envvar="QANALYZE_GRANULARITY",
            metavar="channel|tensor",
            rich_help_panel=TARGET,
        ),
    ] = None,
    samples: Annotated[
        str | None,
        typer.Option(
            help="Analyse N samples, every layer on each of them; auto: few for all layers, more "
            r"where the order of the worst is open. \[default: auto]",
            envvar="QANALYZE_SAMPLES",
            metavar="N|auto",
            rich_help_panel=MEASURING,
        ),
    ] = None,
    slice_: Annotated[
        list[str] | None,
        typer.Option(
            "--slice",
            help="Look at a part of an output by itself: boxes=output0[:, :4]; may be given "
            "several times.",
            metavar="NAME=EXPR",
            rich_help_panel=MEASURING,
        ),
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(
            help="True answers for the task metric: a .csv of names and classes, a folder of "
            "YOLO .txt files, or a COCO .json.",
            envvar="QANALYZE_LABELS",
            metavar="PATH",
            rich_help_panel=MEASURING,
        ),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(
            help="What the outputs mean: classification, detection, embedding, tokens, none. "
            r"\[default: auto]",
            envvar="QANALYZE_TASK",
            metavar="NAME",
            rich_help_panel=MEASURING,
        ),
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(
            help="Your own task metric.",
            envvar="QANALYZE_METRIC",
            metavar="MODULE:FUNCTION",
            rich_help_panel=MEASURING,
        ),
    ] = None,
    threads: Annotated[
        str | None,
        typer.Option(
            help=r"Cores to use. \[default: all]",
            envvar="QANALYZE_THREADS",
            metavar="N",
            rich_help_panel=MEASURING,
        ),
    ] = None,
    max_nsr: Annotated[
        str | None,
        typer.Option(
            help="Exit with 1 when the NSR of any output is above this, like 10%.",
            envvar="QANALYZE_MAX_NSR",
            metavar="SHARE",
            rich_help_panel=GATE,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help=r"Folder for the reports. \[default: reports/MODEL.TARGET]",
            metavar="DIR",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    format_: Annotated[
        Format, typer.Option("--format", help="What stdout carries.", rich_help_panel=OUTPUT)
    ] = Format.TABLE,
    show_all: Annotated[
        bool,
        typer.Option(
            "--all", help="Print everything, not the worst only.", rich_help_panel=OUTPUT
        ),
    ] = False,
    quiet: Annotated[
        bool, typer.Option("-q", "--quiet", help="Only the verdict.", rich_help_panel=OUTPUT)
    ] = False,
    verbose: Annotated[
        bool, typer.Option("-v", "--verbose", help="Time of every stage.", rich_help_panel=OUTPUT)
    ] = False,
    list_targets: Annotated[
        bool,
        typer.Option(
            "--list-targets",
            help="Print the targets.",
            callback=_list_targets,
            is_eager=True,
            rich_help_panel=INFO,
        ),
    ] = False,
    explain: Annotated[
        str | None,
        typer.Option(
            help="Print what a finding's code means.",
            callback=_explain,
            is_eager=True,
            metavar="CODE",
            rich_help_panel=INFO,
        ),
    ] = None,
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            help="Print the version.",
            callback=_version,
            is_eager=True,
            rich_help_panel=INFO,
        ),
    ] = False,
) -> int:
    """Tell where INT8 noise in MODEL comes from: run it in FP32 and as TARGET would quantize it.

    Writes report.html, analysis.json, layers.csv and sources.csv into --out.
    """
    given = {
        "calib": calib, "eval": eval_, "shapes": shape or None, "calib_samples": calib_samples,
        "preset": preset, "resize": resize, "size": size, "short_side": short_side,
        "pad_value": pad_value, "pad_side": pad_side, "scale": scale, "mean": mean, "std": std,
        "channels": channels, "layout": layout, "antialias": antialias, "target": target,
        "quantized": quantized, "calibration": calibration, "precision": precision,
        "dispatch": dispatch or None, "granularity": granularity, "samples": samples,
        "slices": slice_ or None, "labels": labels, "task": task, "metric": metric,
        "threads": threads, "max_nsr": max_nsr,
    }  # fmt: skip
    from analyzer.cli.run import run

    return run(model, given, out, format_, show_all=show_all, quiet=quiet, verbose=verbose)
