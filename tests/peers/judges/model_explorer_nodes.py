# SPDX-License-Identifier: Apache-2.0
"""What Model Explorer's ONNX adapter makes of models.

    PEER_PYTHON model_explorer_nodes.py MODEL... OUT.json

OUT is a list in the order of the models: graph id -> list of [node id, label], the main graph
first.  Imports nothing of qanalyze.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from model_explorer_onnx.main import ONNXAdapter


def main() -> None:
    """Convert all models."""
    *models, out = sys.argv[1:]
    found = [
        {
            graph.id: [[node.id, node.label] for node in graph.nodes]
            for graph in converted["graphs"]
        }
        for converted in (ONNXAdapter().convert(model, {}) for model in models)
    ]
    Path(out).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()
