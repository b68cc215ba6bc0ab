# SPDX-License-Identifier: Apache-2.0
"""Numbers: observers, scales, fake-quantization and metrics; numpy only."""
