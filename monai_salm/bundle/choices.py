# SPDX-License-Identifier: Apache-2.0
"""Options as the command line of MONAI and JSON have them, in the types of the package."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import torch

from monai_salm.bundle.overrides import suggestion
from monai_salm.errors import UsageError


def given_options(given: Mapping[str, Any], kind: Any, paths: Collection[str]) -> dict[str, Any]:
    """Give the options that were chosen.

    Args:
        given: by name; empty text, an empty list and None count as not given.
        kind: dataclass that they are for.
        paths: names of those that are places.

    Raises:
        UsageError: an option is unknown or of the wrong kind.
    """
    known = {field.name: field for field in fields(kind)}
    chosen = {name: value for name, value in given.items() if isinstance(value, torch.device) or value not in _NOTHING}
    unknown = sorted(set(chosen) - set(known))
    if unknown:
        raise UsageError(f"option {unknown[0]!r} is unknown; {suggestion(unknown[0], list(known))}")
    for name, value in chosen.items():
        default = known[name].default
        if isinstance(default, bool) and not isinstance(value, bool):
            raise UsageError(f"option {name} {value!r} is neither true nor false; give one of them")
        if name in paths:
            chosen[name] = Path(value)
        elif isinstance(default, tuple) or default is MISSING:
            chosen[name] = (value,) if isinstance(value, str) else tuple(value)
        elif isinstance(default, str) and isinstance(value, (tuple, list)):  # 0,1000 comes as two numbers
            chosen[name] = ",".join(str(part) for part in value)
        elif isinstance(default, str) or name == "label_column":  # and 0.03 as a number, and a device as one
            chosen[name] = str(value)
    return chosen


_NOTHING: tuple[Any, ...] = ("", None, [], ())
