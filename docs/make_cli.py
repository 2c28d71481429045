# SPDX-License-Identifier: Apache-2.0
"""Write ``docs/cli.md`` from the commands' own help: ``python docs/make_cli.py``. A test holds the page to it."""

from __future__ import annotations

from pathlib import Path

import click

from monai_salm.cli import cli

HEAD = """# Command line

This page is made by `python docs/make_cli.py` from the commands' own help.

Results go to standard output (`--json`: one object), progress and logs to standard error. Exit codes: 0 done, 1
failed, 2 usage, 3 finished but some files were refused or failed (they are listed), 4 verification found a mismatch.
"""


def page() -> str:
    """Give the text of the page."""
    parts = [HEAD]
    parent = click.Context(cli, info_name="monai-salm", **cli.context_settings)
    for name, command in sorted(cli.commands.items()):
        context = click.Context(command, parent=parent, info_name=name, terminal_width=100, max_content_width=100)
        parts.append(f"## {name}\n\n```\n{command.get_help(context)}\n```\n")
    return "\n".join(parts)


if __name__ == "__main__":
    (Path(__file__).parent / "cli.md").write_text(page(), encoding="utf-8")
