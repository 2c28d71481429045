# SPDX-License-Identifier: Apache-2.0
"""Whether what a user overrides is there: MONAI takes a misspelt key silently."""

from __future__ import annotations

import difflib
import inspect
import json
import logging
import re
from collections.abc import Iterator, Sequence
from typing import Any

from monai.bundle import ConfigWorkflow

from monai_salm.bundle.commands import told_in_one_line
from monai_salm.errors import PrintableFormatter, UsageError

_REFERENCE = re.compile(r"@(\w+)")


def check_overrides() -> None:
    """Refuse an override that no config of the running bundle knows, and that nothing refers to. From here on the
    bundle's log has no control characters, whatever a file is called: MONAI takes no formatter of others.

    Call it from ``initialize``. It finds the workflow that evaluates it among its callers, and compares the keys of its
    configuration with those of the bundle's config files. A key of an overlay is known where something refers to it
    (``@key``), or the workflow runs it.

    Raises:
        UsageError: a key is unknown; the message names the nearest known one.
    """
    with told_in_one_line():
        workflow = _running_workflow()
        for handler in logging.getLogger().handlers:
            if not isinstance(handler.formatter, PrintableFormatter):
                handler.setFormatter(PrintableFormatter(handler.formatter))
        known: set[str] = set()
        for file in sorted(workflow.config_root_path.glob("*.json")):
            if file.name != "metadata.json":
                known |= set(json.loads(file.read_text(encoding="utf-8")))
        configuration: dict[str, Any] = workflow.parser.get()
        known |= {workflow.init_id, workflow.run_id, workflow.final_id}
        known |= {name for text in _texts(configuration) for name in _REFERENCE.findall(text)}
        for key in configuration:
            if key not in known and not key.startswith("_"):
                raise UsageError(f"override --{key} is unknown to this bundle; {suggestion(key, sorted(known))}")


def suggestion(name: str, known: Sequence[str]) -> str:
    """Say which known name is nearest to one that is unknown."""
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known are {', '.join(known)}"


def _running_workflow() -> ConfigWorkflow:
    frame = inspect.currentframe()
    while frame is not None and not isinstance(frame.f_locals.get("self"), ConfigWorkflow):
        frame = frame.f_back
    if frame is None:
        raise UsageError("check_overrides was not called by a bundle; put it into 'initialize' of a config")
    found: ConfigWorkflow = frame.f_locals["self"]
    return found


def _texts(content: Any) -> Iterator[str]:
    """Give all texts of a configuration, but for its keys."""
    if isinstance(content, str):
        yield content
    elif isinstance(content, (dict, list)):
        for part in content.values() if isinstance(content, dict) else content:
            yield from _texts(part)
