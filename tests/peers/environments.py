# SPDX-License-Identifier: Apache-2.0
"""Make one virtual environment per real quantizer: they do not fit into one.

    python tests/peers/environments.py [NAME...] [--into .peers]

Without names all are made.  Tests marked `peer` look into `.peers/` of the checkout, or into the
folder that QPEERS names.  torch comes first and by version, so that pip takes its CPU build.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# one `pip install` per line
ENVIRONMENTS: dict[str, tuple[str, ...]] = {
    "esp-ppq": ("torch==2.13.0", "esp-ppq==1.3.12"),
    "pytorch": ("torch==2.13.0", "onnx onnxruntime onnxscript numpy"),
    "nncf": ("nncf==3.4.* openvino onnx onnxruntime",),
    "modelopt": ("torch==2.13.0", "nvidia-modelopt[onnx]==0.47.*"),
    "ai-edge-quantizer": ("ai-edge-quantizer==0.10.*",),
    # the adapter and the classes it is made of, without those for other formats (500 MB)
    "model-explorer": (
        "onnx onnx-ir numpy flask ipython dacite packaging portpicker requests termcolor watchdog",
        "--no-deps model-explorer-onnx==0.4.2 ai-edge-model-explorer==0.1.34",
    ),
    "quark": ("torch==2.13.0", "amd-quark==0.13 onnx onnxruntime==1.24.*"),
}


def make(name: str, folder: Path) -> None:
    """Make the environment `name` below `folder`, unless it is there already."""
    home = folder / name
    done = home / "installed"
    if done.exists():
        return
    print(f"{name}: {home}", flush=True)
    venv.create(home, with_pip=True, clear=True)
    for line in ENVIRONMENTS[name]:
        pip = [str(home / "bin" / "python"), "-m", "pip", "install", "-q", *line.split()]
        subprocess.run(pip, check=True)
    done.touch()


def main() -> int:
    """Make what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(ENVIRONMENTS))
    parser.add_argument("--into", type=Path, default=ROOT / ".peers")
    given = parser.parse_args()
    for name in given.names:
        if name not in ENVIRONMENTS:
            parser.error(f"there is no peer {name!r}; known: {', '.join(ENVIRONMENTS)}")
    for name in given.names or ENVIRONMENTS:
        make(name, given.into)
    return 0


if __name__ == "__main__":
    sys.exit(main())
