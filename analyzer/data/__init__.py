# SPDX-License-Identifier: Apache-2.0
"""Data stage: from what `--calib` or `--eval` names to arrays that the model can be fed with.

In: a path (images, `.npy`, `.npz`, ONNX `test_data_set_*` folders) or `module:function`, and the
model's inputs.  Out: a `Dataset`, read sample by sample, so that memory does not grow with the
number of samples.
"""

from analyzer.data.checks import check_inputs
from analyzer.data.dataset import Dataset
from analyzer.data.preprocess import PRESETS, Preprocess, resolve_preprocess
from analyzer.data.sources import open_data

__all__ = [
    "PRESETS",
    "Dataset",
    "Preprocess",
    "check_inputs",
    "open_data",
    "resolve_preprocess",
]
