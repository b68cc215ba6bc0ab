# SPDX-License-Identifier: Apache-2.0
"""`README.txt` of the export folder: what each file is for, and which formats were left out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from analyzer.export.header import lines, plain, wrapped
from analyzer.export.order import Order
from analyzer.formats import SOURCE, TOOLS

_BESIDE = {
    "names.csv": "What each layer is called in your file, and its precision before and after.",
    SOURCE: "The FP32 model to give to the tools where their files say so, instead of your own: "
    "every node has a name, and {edits}. Input shapes are those of the data.",
}


def readme(
    order: Order,
    written: Mapping[str, Sequence[str]],
    beside: Sequence[str],
    refused: Mapping[str, str],
) -> str:
    """Return the text.

    Args:
        order: what was exported.
        written: format -> paths of its files.
        beside: paths of files that belong to no format.
        refused: format -> why it cannot carry the plan.
    """
    parts = [*_wrapped(lines(order)), ""]
    for path in beside:
        parts += [path, *_wrapped([f"  {_BESIDE[path].format(edits=_edits(order))}"]), ""]
    for name, paths in written.items():
        parts += [f"{TOOLS[name].title} (--export {name})", *(f"  {path}" for path in paths)]
        parts += [*_wrapped([f"  {TOOLS[name].use}", *_doubt(order, name)]), ""]
    if refused:
        parts += ["Not written:"]
        parts += _wrapped([f"  {name}: {plain(reason)}" for name, reason in refused.items()])
    return "\n".join(parts).rstrip() + "\n"


def _edits(order: Order) -> str:
    done = dict.fromkeys(edit.kind.replace("_", " ") for edit in order.our_edits)
    return (
        f"it has the {', '.join(done)} of the plan" if done else "the plan changes nothing in it"
    )


def _doubt(order: Order, name: str) -> Iterator[str]:
    if order.target.name not in TOOLS[name].targets:
        yield f"  Measured with the rules of {order.target.name}, not with those of this tool."


def _wrapped(texts: Sequence[str]) -> list[str]:
    return [line for text in texts for line in wrapped(text)]
