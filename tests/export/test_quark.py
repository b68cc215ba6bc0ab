# SPDX-License-Identifier: Apache-2.0
"""AMD Quark: what the exported script asks for, read by a stand-in for its API.

`tests/peers` runs the script with the real one.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from types import ModuleType, SimpleNamespace

import numpy as np
import onnx
import pytest
from onnxruntime.quantization import QuantType
from tiny_orders import NET, tiny_order

from analyzer.errors import ExportError
from analyzer.export import quark
from analyzer.export.source import source_bytes
from analyzer.records import Edit, Setting


def remembers(kind):
    """Return what makes an object of whatever it is called with."""
    return lambda **named: SimpleNamespace(kind=kind, **named)


def stand_in():
    module = ModuleType("quark.onnx")
    for kind in ("QConfig", "QLayerConfig", "Int8Spec", "UInt8Spec", "Int16Spec", "UInt16Spec"):
        setattr(module, kind, remembers(kind))
    module.ModelQuantizer = None
    module.CalibMethod = SimpleNamespace(MinMax="MinMax", Percentile="Percentile")
    module.QuantGranularity = SimpleNamespace(Channel="Channel")
    return module


@pytest.fixture
def script(tmp_path, monkeypatch):
    """Return a function: target and setting -> what the script defines, and its text."""
    monkeypatch.setitem(sys.modules, "quark", ModuleType("quark"))
    monkeypatch.setitem(sys.modules, "quark.onnx", stand_in())

    def run(target="onnxruntime", **setting):
        order = tiny_order(tmp_path, target, Setting(**setting))
        (text,) = quark.write(order).values()
        found = {"__name__": "config", "__file__": str(tmp_path / "quark" / "config.py")}
        exec(compile(text, "config.py", "exec"), found)
        found |= {"text": text, "source": onnx.load_from_string(source_bytes(order))}
        return SimpleNamespace(**found, order=order)

    return run


def told(spec):
    """Return type, symmetry and whether it is per channel."""
    return spec.kind, spec.symmetric, getattr(spec, "quant_granularity", None) == "Channel"


def test_the_grids_are_those_of_the_plan(script):
    """onnxruntime's default: asymmetric int8 activations, symmetric int8 weights per channel."""
    config = script().quant_config()
    shared = config.global_config
    assert told(shared.input_tensors) == ("Int8Spec", False, False)
    assert told(shared.weight) == ("Int8Spec", True, True)
    assert shared.input_tensors.calibration_method == "MinMax"
    assert (config.extra_options["TensorQuantOverrides"], config.exclude) == ({}, [])
    assert config.extra_options["OptimizeModel"] is False


def test_unsigned_weights_are_asymmetric(script):
    """As in onnxruntime."""
    shared = script(precision="u8u8", granularity="tensor").quant_config().global_config
    assert told(shared.input_tensors) == ("UInt8Spec", False, False)
    assert told(shared.weight) == ("UInt8Spec", False, False)


def test_a_calibration_of_quarks_own_is_told(script):
    """It goes by the same name, and the header says that it is another one."""
    found = script(observer="percentile")
    spec = found.quant_config().global_config.input_tensors
    assert spec.calibration_method == "Percentile"
    assert "found by Quark's own Percentile" in found.text


def test_layers_get_16_bits_or_float(script):
    """16-bit tensors by overrides without `convert`, which Quark refuses; float by exclusion."""
    found = script(table={"stem": "s16s8", "head": "fp32"})
    config = found.quant_config()
    wide = {"quant_type": QuantType.QInt16}
    overrides = config.extra_options["TensorQuantOverrides"]
    assert overrides
    assert set(overrides) <= {"x", "h", "a"}
    assert all(entries == [wide] for entries in overrides.values())
    assert config.exclude == ["head"]
    assert "Quark converts no tensor for single readers" in found.text


def test_ranges_are_overrides(script):
    """In the form of onnxruntime's TensorQuantOverrides, which Quark takes."""
    options = script(ranges={"a": (0.0, 2.5)}).quant_config().extra_options
    ((entry,),) = options["TensorQuantOverrides"].values()
    assert {key: float(value) for key, value in entry.items()} == {"rmin": 0.0, "rmax": 2.5}
    assert entry["rmax"].dtype == np.float32


def test_other_targets_give_their_scales(script):
    """esp-ppq's powers of two stand in the overrides, a 16-bit weight with its own type."""
    found = script("esp32p4", table={"head": "int16"})
    overrides = found.quant_config().extra_options["TensorQuantOverrides"]
    planned = {q.tensor: q for q in found.order.plan.quantizers if q.active}
    ((weight, *_), (stem, *rest)) = overrides["w1"], overrides["w0"]
    assert weight["quant_type"] is QuantType.QInt16
    assert (stem["axis"], len(rest)) == (0, 3)
    assert stem["scale"] == planned["w0"].scale[0]
    assert np.frexp(stem["scale"])[0] == 0.5


def test_names_are_checked_before_quark_sees_them(script):
    """Quark would ignore one that is not there."""
    found = script(table={"head": "fp32"}, ranges={"a": (0.0, 1.0)})
    found.check_names(found.source)
    found.source.graph.node[-1].name = "other"
    with pytest.raises(SystemExit, match="Not in the model: head"):
        found.check_names(found.source)


def test_samples_are_read_run_by_run(script, tmp_path):
    """The reader hands out all of them, and again after a rewind."""
    found = script()
    reader = found.Reader(found.samples_of(tmp_path / "samples.npz"))
    for _ in range(2):
        runs = list(iter(reader.get_next, None))
        assert [run["x"].shape for run in runs] == [(1, 3, 8, 8)] * 4
        reader.rewind()


def test_the_model_is_ours(script, tmp_path):
    """It lies beside the folder of the script, with what the plan edits."""
    found = script(edits=(Edit("weight_split", ("stem",), "balance", 0.5),))
    assert tmp_path / "model.fp32.onnx" == found.MODEL
    assert found.INPUTS == {"x": ("float32", (1, 3, 8, 8))}
    assert len(found.source.graph.node) == len(found.order.source.proto.graph.node)


def test_a_network_in_float_is_refused(tmp_path):
    """There is nothing to configure."""
    order = tiny_order(tmp_path)
    plan = replace(order.plan, quantizers=())
    with pytest.raises(ExportError, match="in float"):
        quark.write(replace(order, plan=plan))


def test_a_name_that_would_be_a_pattern_is_refused(tmp_path):
    """Quark reads names that begin with "^" as regular expressions."""
    text = NET.replace("[head] ", "")
    order = tiny_order(tmp_path, setting=Setting(table={"Gemm_4": "fp32"}), text=text)
    for graph in (order.source.proto.graph, order.graph.proto.graph):
        graph.node[-1].name = "^Gemm_4"
    table = order.proposal.setting.table
    table["^Gemm_4"] = table.pop("Gemm_4")
    with pytest.raises(ExportError, match="begins with"):
        quark.write(order)
