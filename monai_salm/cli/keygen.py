# SPDX-License-Identifier: Apache-2.0
"""``monai-salm keygen``: the secret that new UIDs are made and noise is drawn with, and that originals
come back with.
"""

from __future__ import annotations

import secrets
from pathlib import Path

import click

from monai_salm.cli.options import FILE
from monai_salm.cli.printing import print_line
from monai_salm.disk import write_new
from monai_salm.errors import UsageError


@click.command()
@click.argument("file", metavar="FILE", type=FILE)
def keygen(file: Path) -> int:
    """Write a new random key to FILE, readable by its owner alone; an existing file is kept."""
    try:
        write_new(file, f"{secrets.token_hex(32)}\n".encode("ascii"))
    except FileExistsError as error:
        raise UsageError(
            f"{file} exists already; a key that was used must not be replaced, so give another name"
        ) from error
    print_line(f"wrote {file}; keep it private, and keep a copy")
    return 0
