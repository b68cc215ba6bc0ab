# SPDX-License-Identifier: Apache-2.0
"""The Python files of `pytorch`: templates, see `script.filled`."""

from __future__ import annotations

_CHECK = '''
def check(model):
    """Refuse a model without these modules: PyTorch passes over what it does not find."""
    modules = dict(model.named_modules())
    for name, rule in {**FLOAT, **INT8}.items():
        if name not in modules:
            near = difflib.get_close_matches(name, modules, 1, 0.0)
            raise ValueError(
                f"The model has no module {name!r} (found by the {rule}). The nearest is {near}; "
                "correct the name here."
            )
        if any(True for _ in modules[name].children()):
            raise ValueError(
                f"Module {name!r} (found by the {rule}) has modules below it: name the one meant."
            )
'''

QCONFIG = (
    '''\
$header"""FX quantization: from qconfig import quantize; quantize(model, samples).

Names of modules were guessed from the ONNX file; the rule stands beside each.
"""

import copy
import difflib

import torch
from torch.ao.quantization import (
    HistogramObserver,
    MinMaxObserver,
    QConfig,
    QConfigMapping,
    default_per_channel_weight_observer,
    default_weight_observer,
    get_default_qconfig_mapping,
)
from torch.ao.quantization.quantize_fx import convert_fx, convert_to_reference_fx, prepare_fx

ENGINE = "$engine"
OBSERVER = "$observer"  # of activations: histogram or minmax
GRANULARITY = "$granularity"  # of weights: channel or tensor
# whether all modules are quantized but those of FLOAT; False: those of INT8 only
EVERY = $every
# module -> how its name was found
$floats
$chosen

_TRANSPOSED = [getattr(torch.nn, f"ConvTranspose{n}d") for n in (1, 2, 3)] + [
    getattr(torch.nn.functional, f"conv_transpose{n}d") for n in (1, 2, 3)
]


def qconfig_mapping():
    """Return the mapping of the plan: the engine's defaults, changed where the plan says so."""
    mapping = get_default_qconfig_mapping(ENGINE)
    usual = mapping.global_qconfig
    ours = QConfig(activation=_activation(), weight=_weight())
    for kind, qconfig in list(mapping.object_type_qconfigs.items()):
        if qconfig is not None and qconfig.activation is usual.activation:
            weight = qconfig.weight if kind in _TRANSPOSED else ours.weight
            mapping.set_object_type(kind, QConfig(ours.activation, weight))
    # the plan takes a reshape for a view, which hands its input's grid on
    mapping.set_object_type("reshape", ours)
    mapping.set_global(ours)
    if not EVERY:
        mapping = QConfigMapping().set_global(None)
        for name in INT8:
            mapping.set_module_name(name, ours)
    for name in FLOAT:
        mapping.set_module_name(name, None)
    return mapping


def quantize(model, samples, *, reference=False):
    """Return the quantized model.

    Args:
        model: float, without quantization; is not modified.
        samples: a sequence of runs, each a tensor or a tuple of them.
        reference: with quantize-dequantize pairs around float operators instead of int8 kernels.

    Raises:
        ValueError: if the model has not the modules that are named here.
    """
    check(model)
    runs = [sample if isinstance(sample, tuple) else (sample,) for sample in samples]
    torch.backends.quantized.engine = ENGINE
    prepared = prepare_fx(copy.deepcopy(model).eval(), qconfig_mapping(), runs[0])
    with torch.no_grad():
        for run in runs:
            prepared(*run)
    return convert_to_reference_fx(prepared) if reference else convert_fx(prepared)


'''
    + _CHECK.strip("\n")
    + """


def _activation():
    observer = HistogramObserver if OBSERVER == "histogram" else MinMaxObserver
    return observer.with_args(reduce_range=ENGINE == "x86")


def _weight():
    per_channel = GRANULARITY == "channel"
    return default_per_channel_weight_observer if per_channel else default_weight_observer
"""
)

TORCHAO = (
    '''\
$header"""torchao: quantize_(model, config(model, base), filter_fn=None), base is a configuration.

Names of modules were guessed from the ONNX file; the rule stands beside each.
"""

import difflib
from collections import OrderedDict

import torch
from torchao.quantization import FqnToConfig

# whether all Linear layers are quantized but those of FLOAT; False: those of INT8 only
EVERY = $every
# module -> how its name was found
$floats
$chosen


def config(model, base):
    """Return a configuration that gives `base` to the layers that the plan quantizes.

    Raises:
        ValueError: if the model has not the modules that are named here.
    """
    check(model)
    rules = OrderedDict()
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) or name in INT8:
            wanted = name not in FLOAT if EVERY else name in INT8
            rules[name] = base if wanted else None
    return FqnToConfig(rules)


'''
    + _CHECK.strip("\n")
    + "\n"
)
