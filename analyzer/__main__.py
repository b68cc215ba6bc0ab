# SPDX-License-Identifier: Apache-2.0
"""`python -m analyzer`."""

from analyzer.cli import main

main()
