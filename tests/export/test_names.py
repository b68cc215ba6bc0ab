# SPDX-License-Identifier: Apache-2.0
"""Names: from what the target prints to what stands in the user's file."""

from __future__ import annotations

import csv
import io
import json

import pytest
from tiny_orders import NET, tiny_order, write_net

from analyzer.errors import ExportError
from analyzer.export.names import NameMap, check, known_nodes, known_tensors, names_csv, reads
from analyzer.records import Edit, Setting

UNNAMED = NET.replace("[stem] ", "")
TWICE = NET.replace("[act]", "[stem]")
NORM = NET.replace(
    "[act] a = Relu(h)",
    "[norm] n = BatchNormalization(h, b0, b0, b0, v) [act] a = Relu(n)",
).replace("y) {", "y) <float[4] v = {1, 2, 3, 4}> {")


def split(*layers):
    return Setting(edits=(Edit("weight_split", layers, "balance", 1.0),))


def rows(order):
    return {row["layer"]: row for row in csv.DictReader(io.StringIO(names_csv(order)))}


def test_unknown_names_are_refused_with_the_nearest():
    """A misspelt name would be ignored by most quantizers."""
    with pytest.raises(ExportError, match=r"no layer '/conv1/Cnv'.*Did you mean '/conv1/Conv'"):
        check(["/conv1/Cnv"], ["/conv1/Conv", "/conv2/Relu"], "layer")
    check(["a"], {"a"}, "layer")


def test_the_error_stays_short_where_nothing_is_near():
    """Three names out of a thousand are enough."""
    known = {f"/model.{i}/Conv" for i in range(1000)}
    with pytest.raises(ExportError) as caught:
        check(["zzz"], known, "layer")
    assert len(str(caught.value)) < 200
    with pytest.raises(ExportError, match="It has none"):
        check(["zzz"], (), "layer")


def test_a_named_layer_is_found(tmp_path):
    """Its own node, and the tensor it makes."""
    found = NameMap(tiny_order(tmp_path)).layer("stem")
    assert (found.nodes, found.unnamed, found.elsewhere) == (("stem",), (), ())
    assert (found.tensor, found.outputs) == ("h", ("h",))


def test_a_node_without_a_name_is_found_by_its_place(tmp_path):
    """`Conv#0` is the first node of the file, which makes `h`."""
    order = tiny_order(tmp_path, text=UNNAMED)
    found = NameMap(order).layer("Conv_0")
    assert (found.nodes, found.unnamed, found.outputs) == ((), ("Conv#0",), ("h",))
    assert rows(order)["Conv_0"]["note"] == "has no name in the file"


def test_nodes_of_the_same_name_are_told(tmp_path):
    """A tool that reads by name could take either of them."""
    order = tiny_order(tmp_path, setting=Setting(table={"stem": "s16s8"}))
    write_net(tmp_path, TWICE)
    assert rows(order)["stem"]["note"] == "2 nodes of the file have this name"
    assert reads(order) == "ours"
    assert "stem" not in known_nodes(order, "original")


def test_a_folded_layer_makes_what_the_last_of_its_nodes_makes(tmp_path):
    """With its BatchNormalization folded in, a Conv makes the tensor behind that."""
    found = NameMap(tiny_order(tmp_path, text=NORM)).layer("stem")
    assert (set(found.nodes), found.outputs) == ({"stem", "norm"}, ("n",))


def test_unknown_layers_are_refused(tmp_path):
    """With the nearest one."""
    with pytest.raises(ExportError, match="Did you mean 'stem'"):
        NameMap(tiny_order(tmp_path)).layer("stm")


def test_a_tensor_keeps_its_name_where_the_file_has_it(tmp_path):
    """What the file does not have is looked for by its maker."""
    found = NameMap(tiny_order(tmp_path))
    assert [found.tensor(name) for name in ("h", "x", "nowhere")] == ["h", "x", None]


@pytest.mark.parametrize(
    ("text", "layer", "file"),
    [(NET, "stem", "original"), (UNNAMED, "Conv_0", "ours")],
)
def test_the_users_file_is_read_where_the_names_stand_in_it(tmp_path, text, layer, file):
    """A node without a name has one in ours only."""
    order = tiny_order(tmp_path, setting=Setting(table={layer: "s16s8"}), text=text)
    assert reads(order) == file


def test_a_plan_that_names_nothing_reads_the_users_file(tmp_path):
    """Names that are asked for beyond the setting's count as well."""
    order = tiny_order(tmp_path, text=UNNAMED)
    assert reads(order) == "original"
    assert reads(order, nodes=["Conv_0"]) == "ours"
    assert reads(order, tensors=["no such tensor"]) == "ours"


def test_edits_that_the_tool_does_not_do_need_our_file(tmp_path):
    """For others the graph is edited before the tool sees it."""
    (tmp_path / "ort").mkdir()
    assert reads(tiny_order(tmp_path / "ort", setting=split("stem"))) == "ours"


def test_known_names_are_those_of_the_file(tmp_path):
    """The user's file has its own, once each; ours names every node."""
    order = tiny_order(tmp_path, text=UNNAMED)
    assert known_nodes(order, "original") == {"act", "pool", "flat", "head"}
    assert known_nodes(order, "ours") == {"Conv_0", "act", "pool", "flat", "head"}
    tensors = {"x", "w0", "b0", "h", "a", "p", "f", "w1", "b1", "y"}
    assert known_tensors(order, "original") == known_tensors(order, "ours") == tensors


def test_the_table_has_a_line_per_layer(tmp_path):
    """With precision before and after, and the user's nodes."""
    order = tiny_order(tmp_path, setting=Setting(table={"head": "s16s8"}))
    found = rows(order)
    assert list(found) == list(order.plan.layers)
    head = found["head"]
    assert (head["precision_before"], head["precision_after"]) == ("int8", "s16s8")
    assert json.loads(head["source_nodes"]) == ["head"]
    assert json.loads(head["tensors_in_file"]) == ["y"]
    assert found["stem"]["precision_after"] == "int8"


def test_a_file_that_is_gone_is_told(tmp_path):
    """In one sentence, not with a traceback."""
    order = tiny_order(tmp_path)
    order.original.unlink()
    with pytest.raises(ExportError, match="cannot be read any more"):
        NameMap(order)
