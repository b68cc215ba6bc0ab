# SPDX-License-Identifier: Apache-2.0
"""The exceptions a run can end in, and the exit code each one means.

    QAnalyzeError            exit 2: something the user gave us cannot be used
    ├── ModelError           the model file, its graph, or an operator in it
    ├── DataError            calibration, evaluation or label data
    ├── TargetError          a target name, or a model that a target cannot quantize
    ├── ConfigError          an option, an environment variable or a configuration file
    ├── ExportError          a plan that cannot be written for a quantizer
    └── StoreError           an analysis.json that cannot be read or written

Every message says in one sentence what was found and what was expected; `remedy` says in one more
what to do about it.  Anything else that is raised is a bug of ours (exit 3).
"""

from __future__ import annotations

import difflib
import traceback
from collections.abc import Iterable
from pathlib import Path


class QAnalyzeError(Exception):
    """A problem with what the user gave us.

    Args:
        message: one sentence, the value found and what was expected.
        remedy: one sentence, what to do.
    """

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message} {self.remedy}".rstrip()


class ModelError(QAnalyzeError):
    """The model file, its graph, or an operator in it cannot be used."""


class DataError(QAnalyzeError):
    """Calibration, evaluation or label data cannot be used."""


class TargetError(QAnalyzeError):
    """The target is unknown, or cannot quantize this model."""


class ConfigError(QAnalyzeError):
    """An option, an environment variable or a configuration file is wrong."""


class ExportError(QAnalyzeError):
    """A plan cannot be written for a quantizer."""


class StoreError(QAnalyzeError):
    """An analysis file or the output folder cannot be read or written."""


def nearest(value: str, known: Iterable[str]) -> str:
    """Return a sentence naming the known value nearest to `value`, or all of them.

    >>> nearest("esp32p5", ["esp32p4", "onnxruntime"])
    "Did you mean 'esp32p4'?"
    """
    names = sorted(known)
    close = difflib.get_close_matches(value, names, n=1, cutoff=0.6)
    if close:
        return f"Did you mean {close[0]!r}?"
    return f"Known: {', '.join(names)}."


def raised_at(error: BaseException, *, ours: str, otherwise: str) -> str:
    """Point to the line of a user's own code that raised, as the remedy of an error.

    Args:
        error: as it was caught.
        ours: `__file__` of the module that called the user's code.
        otherwise: what to say where none of the user's lines ran.
    """
    frames = traceback.extract_tb(error.__traceback__)
    theirs = [frame for frame in frames if frame.filename != ours]
    if not theirs:
        return otherwise
    return f"See {Path(theirs[-1].filename).name}, line {theirs[-1].lineno}."
