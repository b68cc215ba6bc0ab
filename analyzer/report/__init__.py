# SPDX-License-Identifier: Apache-2.0
"""Everything that shows an `Analysis` to somebody; reads that record and nothing else.

No module here imports onnx or onnxruntime, and rich, Jinja2 and matplotlib only inside the
functions that use them: an old analysis renders anywhere, and `--help` stays fast.
"""
