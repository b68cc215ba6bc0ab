# SPDX-License-Identifier: Apache-2.0
"""The graph that esp-ppq quantizes: a simplified, bound model goes in, its own graph comes out.

Imitates `format_graph` (`api/interface.py`, `IR/morph.py`) and the passes before quantization
(`EspdlQuantizer.build_prequant_pipeline`) of esp-ppq 1.3.12, in its order: it decides the names.
"""

from __future__ import annotations

import numpy as np
from onnx import helper

from analyzer.graph.batchnorm import fold_batchnorm
from analyzer.graph.edit import GraphEditor
from analyzer.graph.fuse import fuse_bias_adds, fuse_lp_norms, fuse_rms_norms, fuse_swish
from analyzer.graph.view import attributes
from analyzer.records import Model
from analyzer.targets.espdl.attention import fuse_attention
from analyzer.targets.espdl.kernels import OTHER_REFERENCE, use_its_kernels
from analyzer.targets.espdl.transposed import decompose_transposed


def esp_ppq_graph(model: Model) -> Model:
    """Rewrite `model` as esp-ppq 1.3.12 does between reading the file and quantizing."""
    edit = GraphEditor(model)
    order = [node.name for node in edit.graph.node]
    for output in fuse_bias_adds(edit):
        edit.note(f"{OTHER_REFERENCE} output '{output}' has the bias behind it added.")
    merged = _fold_norms(edit)
    order = [name for name in order if name not in merged] + merged
    _norms_to_convs(edit)
    for output in fuse_swish(edit):
        edit.note(f"{OTHER_REFERENCE} it has no output '{output}', which is inside a Swish.")
    fuse_rms_norms(edit)
    fuse_lp_norms(edit)
    for node in edit.of_type("Identity", "Dropout"):
        if node.op_type == "Dropout":
            edit.note(
                f"esp-ppq has no kernel for Dropout '{node.name}': take it out of the model."
            )
        edit.bypass(node.name)
    number = fuse_attention(edit, order)
    decompose_transposed(edit, order, number)
    use_its_kernels(edit)
    return edit.done()


def _fold_norms(edit: GraphEditor) -> list[str]:
    """Fold BatchNormalization, and return the layers it went into: esp-ppq lists them last."""
    before = {name: len(texts) for name, texts in edit.sources.items()}
    if fold_batchnorm(edit.graph, edit.sources, or_output=True):
        edit.touch()
    for output in edit.view.outputs:
        if output not in edit.view.producer and output not in edit.view.inputs:
            edit.drop_output(output)
            edit.note(
                f"{OTHER_REFERENCE} it has no output '{output}', which is inside a layer with its "
                "BatchNormalization."
            )
    present = {node.name for node in edit.graph.node}
    return [n for n in before if n in present and len(edit.sources[n]) > before[n]]


def _norms_to_convs(edit: GraphEditor) -> None:
    """Turn every BatchNormalization that is left into a depthwise 1x1 Conv of the same name."""
    for norm in edit.of_type("BatchNormalization"):
        arrays = [edit.array(name) for name in norm.input[1:5]]
        if len(edit.shapes[norm.input[0]]) != 4 or any(a is None for a in arrays):
            edit.note(
                f"esp-ppq makes a 2-D Conv of BatchNormalization '{norm.name}', which its input "
                "does not fit; it is left in FP32 here."
            )
            continue
        gamma, beta, mean, var = (np.asarray(a, np.float64) for a in arrays)
        scale = gamma / np.sqrt(var + attributes(norm).get("epsilon", 1e-5))
        weight = scale.reshape(-1, 1, 1, 1).astype(np.float32)
        bias = (beta - scale * mean).astype(np.float32)
        conv = helper.make_node(
            "Conv",
            [
                norm.input[0],
                edit.constant(f"{norm.name}_weight", weight),
                edit.constant(f"{norm.name}_bias", bias),
            ],
            [norm.output[0]],
            name=norm.name,
            kernel_shape=[1, 1],
            group=weight.shape[0],
        )
        edit.fuse([norm.name], conv)
