# SPDX-License-Identifier: Apache-2.0
"""Node data for Model Explorer, out of an analysis made by hand."""

from __future__ import annotations

import importlib
import json
import math
import subprocess
import sys

import pytest

from analyzer.formats import FROM_ANALYSIS, TOOLS
from analyzer.node_data import node_data
from analyzer.records import Analysis, LayerError, OutputError, Provenance, QuantPlan


def of(*layers, outputs=(), warnings=()):
    """Return the files of an analysis of these layers, by measure."""
    outputs = outputs or (OutputError("y", 0.5, 3.0, 0.9, 1.0),)
    plan = QuantPlan("esp32p4", (), frozenset(), {}, ())
    stands_on = Provenance("", "", {}, "esp32p4", (), 0, {}, {})
    found = node_data(Analysis(stands_on, outputs, layers, plan, warnings=warnings))
    assert all(path.startswith("model-explorer/") for path in found)
    return {path[15:-5]: json.loads(text) for path, text in found.items()}


def values(content):
    return {node: entry["value"] for node, entry in content["results"].items()}


def test_each_measure_is_a_file_in_percent():
    """Four digits; outputs stand beside the layers with the accumulated error."""
    found = of(
        LayerError("a", "Conv", ("a",), isolated_nsr=0.01234567, local_nsr=0.5, graphwise_nsr=2.0),
        LayerError("b", "Relu", ("b",), isolated_nsr=0.0),
    )
    assert {name: values(content) for name, content in found.items()} == {
        "isolated": {"a": 1.235, "b": 0.0},
        "local": {"a": 50.0},
        "graphwise": {"a": 200.0, "[value] y": 50.0},
    }
    assert found["isolated"]["name"] == "isolated error, % NSR at the outputs"


def test_slices_are_no_outputs_of_the_file():
    """Only what the file itself gives out has a node there."""
    outputs = (OutputError("y", 0.5, 3, 1, 1), OutputError("box", 0.1, 10, 1, 1, slice_of="y"))
    assert values(of(outputs=outputs)["graphwise"]) == {"[value] y": 50.0}


def test_all_nodes_of_a_layer_show_its_value_and_a_node_the_worst_of_its_layers():
    """NaN is worse than any number; a layer that the target put in has no node."""
    found = of(
        LayerError("conv", "Conv", ("conv", "bn"), isolated_nsr=0.01),
        LayerError("gemm", "MatMul", ("gemm",), isolated_nsr=0.01),
        LayerError("gemm_add", "Add", ("gemm",), isolated_nsr=0.02),
        LayerError("lost", "Conv", ("lost",), isolated_nsr=math.nan),
        LayerError("lost_too", "Conv", ("lost",), isolated_nsr=0.5),
        LayerError("put_in", "Cast", (), isolated_nsr=0.5),
    )
    assert values(found["isolated"]) == {"conv": 1.0, "bn": 1.0, "gemm": 2.0, "lost": "nan"}


def test_what_json_cannot_hold_is_text_with_the_loudest_colour():
    """Strict JSON has neither infinity nor NaN, and thresholds colour numbers only."""
    layers = [
        LayerError(n, "Conv", (n,), isolated_nsr=v) for n, v in (("a", math.inf), ("b", 1e307))
    ]
    found = of(*layers)["isolated"]
    assert values(found) == {"a": "inf", "b": "inf"}
    assert found["results"]["a"]["bgColor"] == found["thresholds"][-1]["bgColor"]


def test_thresholds_grow_to_above_every_value():
    """The viewer takes the first bound that a value does not exceed, and paints nothing else."""
    bounds = [step["value"] for step in of()["graphwise"]["thresholds"]]
    assert bounds == sorted(bounds)
    assert bounds[-1] >= 1e300


def test_findings_are_words():
    """Each node names its codes once, with titles of those that are known."""
    found = of(
        LayerError("a", "Conv", ("a",), findings=("QA101", "QA999")),
        LayerError("a_too", "Add", ("a",), findings=("QA101",)),
    )["findings"]
    assert values(found) == {"a": "QA101 A few channels reach much farther than the others, QA999"}


def test_nodes_without_a_name_are_counted():
    """As the adapter names them: node, node_1 ...; here every node of the file is unnamed."""
    found = of(
        LayerError("Conv_0", "Conv", ("Conv#0", "Relu#1"), isolated_nsr=0.1),
        LayerError("Gemm_7", "Gemm", ("Gemm#7",), isolated_nsr=0.2),
    )
    assert values(found["isolated"]) == {"node": 10.0, "node_1": 10.0, "node_7": 20.0}


@pytest.mark.parametrize("moved", [False, True])
def test_nodes_that_cannot_be_counted_are_left_out(moved):
    """Among named ones, or with functions expanded, the place in the file says nothing."""
    layers = [LayerError("Conv_3", "Conv", ("Conv#3",), isolated_nsr=0.1)]
    named = [LayerError("a", "Conv", ("a",), isolated_nsr=0.2)]
    warnings = ("Local functions were expanded into the nodes they stand for.",)
    found = of(*layers, warnings=warnings) if moved else of(*layers, *named)
    assert values(found.get("isolated", {"results": {}})) == ({} if moved else {"a": 20.0})


def test_the_warning_is_the_one_that_loading_gives(tmp_path):
    """The sentence that the test above makes up is the real one."""
    import onnx

    from analyzer.load import load_model

    text = """<ir_version: 8, opset_import: ["": 17, "f": 1]>
    g (float[2] x) => (float[2] y) { y = f.twice(x) }
    <domain: "f", opset_import: ["": 17]> twice (p) => (q) { q = Add(p, p) }"""
    onnx.save(onnx.parser.parse_model(text), tmp_path / "f.onnx")
    assert any("functions were expanded" in note for note in load_model(tmp_path / "f.onnx").notes)


def test_names_are_data():
    """Any name comes back out of the JSON as it is."""
    name = '</script>"\\ \u202e \U0001f600'
    assert values(of(LayerError(name, "Conv", (name,), local_nsr=0.1))["local"]) == {name: 10.0}


def test_formats_of_an_analysis_can_be_called():
    """The table names functions that are there, of formats that are there."""
    for name, place in FROM_ANALYSIS.items():
        module, _, function = place.partition(":")
        assert name in TOOLS
        assert callable(getattr(importlib.import_module(module), function))


def test_no_runtime_is_needed():
    """Neither onnx nor onnxruntime is imported."""
    code = "import analyzer.node_data, sys; print({'onnx', 'onnxruntime'} & set(sys.modules))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "set()\n"
