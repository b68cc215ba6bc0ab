# SPDX-License-Identifier: Apache-2.0
"""qanalyze: where INT8 noise in a network comes from, measured."""

from analyzer.errors import QAnalyzeError
from analyzer.records import Analysis

__all__ = ["Analysis", "QAnalyzeError", "__version__"]

__version__ = "0.1.0"
