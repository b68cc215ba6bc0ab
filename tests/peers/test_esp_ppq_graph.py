# SPDX-License-Identifier: Apache-2.0
"""The graph that is quantized, against esp-ppq itself: names, edges and what it computes."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from peers.esp_graphs import CASES, model

from analyzer.graph.session import open_session, run, to_value
from analyzer.graph.view import GraphView
from analyzer.load import bind_shapes, load_model
from analyzer.targets import get_target

MODELS = Path(__file__).resolve().parents[3] / "shared" / "models"
NETS = (
    *("yolo11n_heads", "espdet_pico_cat", "mobilenet_v1_025_imagenet", "face_rfb320"),
    *("resnet8_cifar10", "ppocrv3_det", "superres_subpixel", "vww_mobilenet", "ad_autoencoder"),
    *("squeezenet_imagenet", "yolox_nano"),
)
SHAPES = {"ppocrv3_det": (1, 3, 64, 96)}
TARGET = get_target("esp32p4")
IDLE = {"Dropout", "Identity", "Constant", "Shape", "Gather", "Unsqueeze", "Concat"}

pytestmark = [pytest.mark.peer, pytest.mark.filterwarnings("ignore")]


def prepared(path, shape=None):
    """Return the user's nodes, the graph that the target quantizes, and inputs for it."""
    user = load_model(path)
    loaded = load_model(path, rewrite=TARGET.rewrite)
    shapes = {s.name: shape or tuple(d or 1 for d in s.shape) for s in loaded.inputs}
    rng = np.random.default_rng(0)
    feeds = {n: rng.uniform(-1, 1, s).astype(np.float32) for n, s in shapes.items()}
    return user, TARGET.prepare(bind_shapes(loaded, shapes)), feeds


@pytest.fixture(scope="module")
def everything(tmp_path_factory, judge):
    """Ask esp-ppq about all graphs at once; return name -> (user, ours, feeds, theirs, values)."""
    folder = tmp_path_factory.mktemp("graphs")
    known = {}
    for case in CASES:
        (folder / f"{case}.onnx").write_bytes(model(case).SerializeToString())
    for net in NETS:
        if (MODELS / net / "model.onnx").is_file():
            shutil.copy(MODELS / net / "model.onnx", folder / f"{net}.onnx")
    for path in sorted(folder.glob("*.onnx")):
        known[path.stem] = prepared(path, SHAPES.get(path.stem))
        np.savez(path.with_suffix(".npz"), **known[path.stem][2])
    answers = judge("esp-ppq", "esp_ppq_graph", folder)
    made = {}
    for name, answer in answers.items():
        file = folder / f"{name}.out.npz"
        values = [] if "error" in answer else list(np.load(file).values())
        made[name] = (*known[name], answer, values)
    return made


def of(everything, name):
    if name not in everything:
        pytest.skip(f"the shared model {name} is not here")
    return everything[name]


@pytest.mark.parametrize("name", [*CASES, *(n for n in NETS if n != "squeezenet_imagenet")])
def test_the_graph_is_the_one_esp_ppq_quantizes(everything, name):
    """Every operation with its name, its type and what it reads; nothing else."""
    _, graph, _, answer, _ = of(everything, name)
    view = GraphView(graph.proto.graph)
    ours = {
        (n.name, graph.op_types.get(n.name, n.op_type), *sorted(view.parents(n)))
        for n in graph.proto.graph.node
    }
    assert ours == {(op, kind, *parents) for op, kind, parents in answer["operations"]}


@pytest.mark.parametrize("name", [*CASES, *(n for n in NETS if n != "squeezenet_imagenet")])
def test_the_graph_computes_what_esp_ppq_computes(everything, name):
    """All outputs in float, to 1e-4 of their largest value (and 1e-6, for ppocrv3_det's zeros)."""
    _, graph, feeds, _, theirs = of(everything, name)
    session = open_session(graph.proto.SerializeToString())
    names = [o.name for o in graph.outputs]
    ours = run(session, names, {k: to_value(v) for k, v in feeds.items()})
    assert len(names) == len(theirs)
    for output, value in zip(names, theirs, strict=True):
        off = np.abs(ours[output].numpy() - value).max()
        assert off <= 1e-4 * np.abs(value).max() + 1e-6, output


@pytest.mark.parametrize("name", [*CASES, *NETS])
def test_every_node_of_the_user_is_found_once(everything, name):
    """Whatever was folded, fused, split or renamed: the user's nodes are all there, once."""
    user, graph, *_ = of(everything, name)
    found = Counter(text for texts in graph.source_nodes.values() for text in texts)
    assert max(found.values()) == 1
    idle = {
        text
        for node in user.proto.graph.node
        if node.op_type in IDLE
        for text in user.source_nodes[node.name]
    }
    wanted = {text for texts in user.source_nodes.values() for text in texts} - idle
    assert wanted <= set(found)


def test_esp_ppq_stops_at_dropout(everything):
    """It has no kernel; the model is analysed without it, and the user is told."""
    _, graph, _, answer, _ = of(everything, "squeezenet_imagenet")
    assert "Dropout" in answer["error"]
    assert any("no kernel for Dropout 'Dropout_61'" in note for note in graph.notes)
