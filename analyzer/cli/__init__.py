# SPDX-License-Identifier: Apache-2.0
"""The command line: the only package that prints or exits.

The result goes to stdout, the conversation (progress, warnings, errors, paths) to stderr.  Exit
codes: 0 fine, 1 the gate failed, 2 bad input, 3 a bug of ours, 130 interrupted.
"""

from __future__ import annotations

from typing import NoReturn

import typer

from analyzer import __version__
from analyzer.cli import options
from analyzer.cli.output import Format, say
from analyzer.errors import QAnalyzeError, nearest

# parameters that every kind of MODEL has a use for
_SHOWN = frozenset(("model", "out", "format_", "show_all", "quiet", "verbose"))
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


@app.command(context_settings={"help_option_names": ["-h", "--help"]})
def analyze(
    context: typer.Context,
    model: options.Model,
    calib: options.Calib = None,
    eval_: options.Eval = None,
    shape: options.Shape = None,
    calib_samples: options.CalibSamples = None,
    preset: options.Preset = None,
    resize: options.Resize = None,
    size: options.Size = None,
    short_side: options.ShortSide = None,
    pad_value: options.PadValue = None,
    pad_side: options.PadSide = None,
    scale: options.Scale = None,
    mean: options.Mean = None,
    std: options.Std = None,
    channels: options.Channels = None,
    layout: options.Layout = None,
    antialias: options.Antialias = None,
    target: options.Target = None,
    quantized: options.Quantized = None,
    calibration: options.Calibration = None,
    precision: options.Precision = None,
    dispatch: options.Dispatch = None,
    granularity: options.Granularity = None,
    samples: options.Samples = None,
    slice_: options.Slice = None,
    labels: options.Labels = None,
    task: options.Task = None,
    metric: options.Metric = None,
    threads: options.Threads = None,
    budget: options.Budget = None,
    goal: options.Goal = None,
    time_limit: options.TimeLimit = None,
    latency: options.Latency = None,
    export: options.Export = None,
    no_propose: options.NoPropose = False,
    max_nsr: options.MaxNsr = None,
    min_agreement: options.MinAgreement = None,
    no_worse_than: options.NoWorseThan = None,
    baseline: options.Baseline = None,
    out: options.Out = None,
    format_: options.Stdout = Format.TABLE,
    show_all: options.ShowAll = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    list_targets: options.ListTargets = False,
    explain: options.Explain = None,
    version: options.Version = False,
) -> int:
    """Tell where INT8 noise in MODEL comes from, and what helps against it.

    Writes report.html, analysis.json, layers.csv, sources.csv and proposals.csv into --out; an
    analysis.json in place of MODEL is rendered again.
    """
    given = {
        "calib": calib, "eval": eval_, "shapes": shape or None, "calib_samples": calib_samples,
        "preset": preset, "resize": resize, "size": size, "short_side": short_side,
        "pad_value": pad_value, "pad_side": pad_side, "scale": scale, "mean": mean, "std": std,
        "channels": channels, "layout": layout, "antialias": antialias, "target": target,
        "quantized": quantized, "calibration": calibration, "precision": precision,
        "dispatch": dispatch or None, "granularity": granularity, "samples": samples,
        "slices": slice_ or None, "labels": labels, "task": task, "metric": metric,
        "threads": threads, "max_nsr": max_nsr, "min_agreement": min_agreement,
        "no_worse_than": no_worse_than, "baseline": baseline, "budget": budget, "goal": goal,
        "time_limit": time_limit, "latency": latency, "export": export,
        "propose": False if no_propose else None,
    }  # fmt: skip
    shown = {"show_all": show_all, "quiet": quiet, "verbose": verbose}
    if model.suffix.lower() == ".json":
        from analyzer.cli.rerender import rerender

        return rerender(model, given, _flags(context), out, format_, **shown)
    from analyzer.cli.run import run

    return run(model, given, out, format_, **shown)


def _flags(context: typer.Context) -> list[str]:
    """Return the options that say what to do and stand on the command line itself."""
    return [
        f"--{name.rstrip('_').replace('_', '-')}"
        for name in context.params
        if name not in _SHOWN and _source(context, name) == "COMMANDLINE"
    ]


def _source(context: typer.Context, name: str) -> str:
    found = context.get_parameter_source(name)
    return "" if found is None else found.name
