# SPDX-License-Identifier: Apache-2.0
"""The command line: parsing, printing and exit codes, nothing else.

Results go to standard output, progress and logs to standard error. Exit codes: 0 done, 1 failed, 2 usage, 3 finished,
but some files were refused, failed, lack or show something to know of, 4 verification found a mismatch. Each command
imports the rooms that it needs when it runs, because torch and MONAI take seconds to load.
"""

from __future__ import annotations

from monai_salm.cli.entry import cli, main
from monai_salm.cli.exit_codes import EXIT_FAILED, EXIT_INCOMPLETE, EXIT_MISMATCH, EXIT_USAGE

__all__ = ["EXIT_FAILED", "EXIT_INCOMPLETE", "EXIT_MISMATCH", "EXIT_USAGE", "cli", "main"]
