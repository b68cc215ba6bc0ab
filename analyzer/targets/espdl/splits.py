# SPDX-License-Identifier: Apache-2.0
"""Weight splits as esp-ppq makes them: which operations there are then, and what they are called.

Imitates `HorizontalLayerSplitPass` (`quantization/optim/morph.py`) of esp-ppq 1.3.12, which runs
behind the fusion of attention and before ConvTranspose is taken apart.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import onnx

from analyzer.fixes.splitting import SPLIT_TYPES, check_split, is_split, split_layer
from analyzer.graph.edit import GraphEditor
from analyzer.graph.names import unique
from analyzer.graph.view import GraphView
from analyzer.records import Edit, Model

MADE = "PPQ_Operation_"
_NUMBERED = re.compile(rf"{MADE}(\d+)")


def split_as_esp_ppq(model: Model, edit: Edit) -> Model:
    """Split weights; the other part is called `PPQ_Operation_<n>`, the Add `PPQ_Operation_<n+1>`.

    InsertZeros, which esp-ppq makes later, move on to the numbers behind; a ConvTranspose that is
    split has two of them.

    Args:
        model: as `esp_ppq_graph` returned it, or this function.
        edit: the setting's layers and threshold.

    Raises:
        ModelError: as `split_weights`.
    """
    check_split(edit)
    editor = GraphEditor(model)
    zeros = sorted((node.name for node in editor.of_type("InsertZeros")), key=_number)
    free = 1 + max(
        (_number(n) for n in editor.view.nodes if n not in zeros and _NUMBERED.fullmatch(n)),
        default=-1,
    )
    for position, name in enumerate(zeros):
        zeros[position] = _rename(editor, name, f"{name}//later")
    for layer in edit.layers:
        if not is_split(editor, layer, edit):
            continue
        part, total = f"{MADE}{free}", f"{MADE}{free + 1}"
        maker = editor.producer(editor.view.nodes[layer].input[0])
        source = ""
        if maker is not None and maker.name in zeros:
            zeros.append(_copied(editor, maker, layer, f"{part}//zeros"))
            source = editor.view.nodes[zeros[-1]].output[0]
        split_layer(editor, layer, edit, part=part, total=total, source=source)
        free += 2
    for number, name in enumerate(zeros, start=free):
        _rename(editor, name, f"{MADE}{number}")
    return editor.done()


def made_of(view: GraphView, kind: Callable[[str], str], name: str) -> str:
    """Return the operation that esp-ppq made `name` of: it runs in that one's precision.

    Args:
        view: the graph.
        kind: node name -> op type as esp-ppq calls it.
        name: any node; most are made of nothing else.
    """
    while True:
        node = view.nodes[name]
        readers = view.consumers.get(node.output[0], [])
        if kind(name) == "InsertZeros":
            name = readers[0]
        elif _is_total(view, kind, name):
            name = view.producer[node.input[0]]
        elif len(readers) == 1 and _is_total(view, kind, readers[0]):
            # the rest, or the part that an Add puts to it
            rest = view.producer[view.nodes[readers[0]].input[0]]
            if rest == name:
                return name
            name = rest
        else:
            return name


def _is_total(view: GraphView, kind: Callable[[str], str], name: str) -> bool:
    """Tell whether a node is the Add of a split; a user's own may be called like it."""
    if not name.startswith(MADE) or kind(name) != "Add":
        return False
    rest, part = (view.producer.get(tensor, "") for tensor in view.nodes[name].input)
    return bool(rest) and part.startswith(MADE) and kind(part) in SPLIT_TYPES


def _number(name: str) -> int:
    found = _NUMBERED.match(name)
    return int(found[1]) if found else -1


def _rename(editor: GraphEditor, name: str, new: str) -> str:
    editor.view.nodes[name].name = new
    editor.sources = {new if n == name else n: texts for n, texts in editor.sources.items()}
    editor.op_types = {new if n == name else n: kind for n, kind in editor.op_types.items()}
    editor.touch()
    return new


def _copied(editor: GraphEditor, zeros: onnx.NodeProto, layer: str, name: str) -> str:
    """Put a second InsertZeros before `layer`."""
    copy = onnx.NodeProto()
    copy.CopyFrom(zeros)
    made = unique(f"{name}//out", set(editor.shapes))
    shape = editor.shapes[zeros.output[0]]
    copy.name, copy.output[0] = name, made
    editor.insert_before(layer, copy, kind="InsertZeros", shapes={made: shape})
    return name
