# SPDX-License-Identifier: Apache-2.0
"""Node data against Model Explorer's ONNX adapter: every id we write is one of its nodes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import onnx
import pytest

import analyzer
from analyzer.export.model_explorer import node_ids
from analyzer.node_data import node_data

HERE = Path(__file__).resolve().parent
SAMPLES = HERE.parents[1] / "sample_models"
SHARED = HERE.parents[2] / "shared"
sys.path[:0] = [str(HERE.parent / "export")]

from test_model_explorer import BODIES, CHAIN  # noqa: E402

# model -> data, options; what is special about its names
MODELS = {
    "digits_dw": (SAMPLES / "digits_dw", {}),
    "mobilenet_v1_025_imagenet": (SHARED / "data" / "imagenet" / "images", {"preset": "tf"}),
    "superres_subpixel": (  # no node has a name
        SHARED / "data" / "coco" / "calib" / "images",
        {"preset": "zero-one", "resize": "stretch", "channels": "y"},
    ),
    "ppocrv3_det": (  # some have
        SHARED / "data" / "text" / "images",
        {"preset": "imagenet", "resize": "stretch", "size": "320x320", "channels": "bgr"},
    ),
}
COMPUTING = {"Conv", "ConvTranspose", "Gemm", "MatMul", "LSTM", "GRU"}

pytestmark = [pytest.mark.peer, pytest.mark.filterwarnings("ignore")]


def path_of(name):
    found = (
        SAMPLES / f"{name}.onnx"
        if name == "digits_dw"
        else SHARED / "models" / name / "model.onnx"
    )
    return found if found.exists() else pytest.skip(f"{found} is not there")


@pytest.mark.parametrize("name", MODELS)
def test_every_layer_is_found(judge, name):
    """Each id exists there, each computing node of the file has a value, stored ids agree."""
    path, (data, options) = path_of(name), MODELS[name]
    (graphs,) = judge("model-explorer", "model_explorer_nodes", path)
    theirs = dict(next(iter(graphs.values())))
    record = analyzer.analyze(
        path, data, calib_samples=2, samples=1, propose=False, **options
    ).record
    ids = node_ids(onnx.load(path, load_external_data=False))
    files = {p: json.loads(t)["results"] for p, t in node_data(record, ids).items()}
    for path, results in files.items():
        assert set(results) <= set(theirs), path
    computing = {node for node, label in theirs.items() if label in COMPUTING}
    assert computing
    assert computing <= set(files["model-explorer/graphwise.json"])
    for path, text in node_data(record).items():  # without the model: fewer at most
        assert json.loads(text)["results"].items() <= files[path].items()


@pytest.mark.parametrize(
    ("text", "names"),
    [(CHAIN, ()), (CHAIN, ("", "conv", "", "call", "node_1")), (BODIES, ())],
    ids=["unnamed", "taken", "bodies"],
)
def test_nodes_are_numbered_as_the_adapter_does(judge, tmp_path, text, names):
    """Functions, bodies and names that are taken: the ids of the file's own nodes, in order."""
    model = onnx.parser.parse_model(text)
    for node, name in zip(model.graph.node, names, strict=False):
        node.name = name
    onnx.save(model, tmp_path / "net.onnx")
    (graphs,) = judge("model-explorer", "model_explorer_nodes", tmp_path / "net.onnx")
    theirs = dict(next(iter(graphs.values())))
    kinds = [n.op_type if not n.domain else f"{n.domain}::{n.op_type}" for n in model.graph.node]
    ids = list(dict.fromkeys(node_ids(model).values()))
    assert [theirs[node] for node in ids] == kinds
