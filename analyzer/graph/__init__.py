# SPDX-License-Identifier: Apache-2.0
"""Models: views, rewriting, segments, sessions and MAC counting; onnx and onnxruntime only."""
