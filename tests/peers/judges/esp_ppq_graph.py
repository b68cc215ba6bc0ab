# SPDX-License-Identifier: Apache-2.0
"""What graphs does esp-ppq quantize?  Run by its own interpreter: FOLDER ANSWER.json.

FOLDER holds models `<case>.onnx`, each with an `<case>.npz` of one array per graph input.  For
every case the answer names the operations after the passes before quantization with their types
and what they read, or says why esp-ppq stops.  What its executor computes in float goes into
`<case>.out.npz`, as `<n>` for output n.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxsim
import torch
from esp_ppq.api.interface import dispatch_graph, load_onnx_graph
from esp_ppq.api.setting import QuantizationSettingFactory
from esp_ppq.core import TargetPlatform
from esp_ppq.executor import TorchExecutor
from esp_ppq.lib import Quantizer
from esp_ppq.quantization.optim.espdl_attention import _attention_prequant_needs_trace

PLATFORM = TargetPlatform.ESPDL_INT8


def ask(model: Path) -> list[list[object]]:
    """Do what `espdl_quantize_onnx` and `BaseEspdlQuantizer.quantize` do before quantizing."""
    simple, fine = onnxsim.simplify(onnx.load(model))
    if fine:
        onnx.save(simple, model)
    with np.load(model.with_suffix(".npz")) as arrays:
        feeds = {name: torch.from_numpy(array) for name, array in arrays.items()}
    setting = QuantizationSettingFactory.espdl_setting(num_of_bits=8)
    graph = load_onnx_graph(onnx_import_file=str(model))
    graph = dispatch_graph(graph, PLATFORM, setting.dispatcher, setting.dispatching_table)
    quantizer = Quantizer(PLATFORM, graph)
    executor = TorchExecutor(graph=quantizer._graph, device="cpu")
    if _attention_prequant_needs_trace(graph, PLATFORM):
        executor.tracing_operation_meta(inputs=feeds)
    quantizer.build_prequant_pipeline(setting, executor=executor).optimize(
        graph=graph,
        dataloader=[feeds],
        executor=executor,
        verbose=False,
        calib_steps=1,
        collate_fn=lambda batch: batch,
    )
    executor.load_graph(graph)
    executor.tracing_operation_meta(inputs=feeds)
    made = executor.forward(inputs=feeds)
    np.savez(model.with_suffix(".out.npz"), **{str(i): x for i, x in enumerate(made)})
    return [
        [op.name, op.type, sorted({v.source_op.name for v in op.inputs if v.source_op})]
        for op in graph.operations.values()
    ]


def main(folder: str, answer: str) -> None:
    torch.set_num_threads(1)  # two wait for each other: ten times as long on small tensors
    found = {}
    for model in sorted(Path(folder).glob("*.onnx")):
        try:
            found[model.stem] = {"operations": ask(model)}
        except Exception as error:  # whatever it stops with is the answer
            found[model.stem] = {"error": f"{error} <- {error.__cause__}"}
    Path(answer).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
