# SPDX-License-Identifier: Apache-2.0
"""What a command tells the shell: done, failed, used wrongly, incomplete, or that files do not match."""

from __future__ import annotations

EXIT_FAILED, EXIT_USAGE, EXIT_INCOMPLETE, EXIT_MISMATCH = 1, 2, 3, 4
