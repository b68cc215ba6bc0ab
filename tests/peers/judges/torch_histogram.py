# SPDX-License-Identifier: Apache-2.0
"""Feed streams of arrays to torch's HistogramObserver.

    python torch_histogram.py STREAMS.npz ANSWER.json

Arrays are called STREAM//INDEX.  The answer: stream -> [counts, smallest, largest value kept].
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch
from torch.ao.quantization.observer import HistogramObserver


def main():
    """Answer the command line."""
    observers = {}
    for name, array in np.load(sys.argv[1]).items():
        stream = name.rsplit("//", 1)[0]
        observers.setdefault(stream, HistogramObserver())(torch.from_numpy(array))
    found = {}
    for stream, observer in observers.items():
        ends = [float(end) for end in observer._non_linear_param_search()]
        found[stream] = [observer.histogram.tolist(), *ends]
    Path(sys.argv[2]).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()
