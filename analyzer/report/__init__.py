# SPDX-License-Identifier: Apache-2.0
"""Everything that shows an `Analysis` to somebody; reads that record and nothing else.

`files` writes what a run leaves behind, and what is made again of a stored analysis: `html` (the
page) and `spreadsheets`.  `terminal`, `markdown` and `comparison` (several targets) are what
stdout carries, `changes` holds one analysis against an older one, `frames`, `plots` and
`profile_plots` are for notebooks.  What all of them say in the same words is in `wording`,
`advice`, `ledger` and `tables`.

No module here imports onnx or onnxruntime, and rich, Jinja2 and matplotlib only inside the
functions that use them: an old analysis renders anywhere, and `--help` stays fast.
"""
