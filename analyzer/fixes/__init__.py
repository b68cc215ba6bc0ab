# SPDX-License-Identifier: Apache-2.0
"""Remedies, one file per kind: what may be worth trying, and how the graph is rewritten for it."""
