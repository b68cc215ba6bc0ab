# SPDX-License-Identifier: Apache-2.0
"""qanalyze: where INT8 noise in a network comes from, measured.

    import analyzer

    found = analyzer.analyze("model.onnx", "calibration/", target="esp32p4")
    found.layers.nlargest(10, "isolated_nsr")

Importing this imports nothing heavy: what is asked for is imported then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from analyzer.errors import QAnalyzeError

if TYPE_CHECKING:
    from analyzer.api import analyze, analyze_targets
    from analyzer.notebook import Analysis, load_analysis

__all__ = [
    "Analysis",
    "QAnalyzeError",
    "__version__",
    "analyze",
    "analyze_targets",
    "load_analysis",
]

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    """Import a part of the public API when it is first asked for."""
    if name in ("Analysis", "load_analysis"):
        from analyzer import notebook

        return getattr(notebook, name)
    if name in ("analyze", "analyze_targets"):
        from analyzer import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
