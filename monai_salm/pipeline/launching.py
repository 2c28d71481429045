# SPDX-License-Identifier: Apache-2.0
"""Jobs of several processes, started by ``torchrun``: the first one runs, the others help where it searches. One that
is alone loads nothing for it.
"""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING, TypeVar

from monai_salm.errors import UsageError
from monai_salm.learning.launch import launched

if TYPE_CHECKING:
    from monai_salm.learning.ranks import Ranks

T = TypeVar("T")


def alone(command: str) -> None:
    """Make sure that a command which one process does was not started in several.

    Raises:
        UsageError: it was.
    """
    count = launched()
    if count > 1:
        raise UsageError(
            f"{command} is done by one process, and {count} were started; give it without torchrun, which "
            "'monai-salm protect' alone can use"
        )


def together(lead: Callable[[Ranks | None], T]) -> T | None:
    """Call a function in the first of the processes that a launcher started, while the others share its searches.

    Args:
        lead: takes the processes, None for one that is alone, and hands them to
            :meth:`~monai_salm.pipeline.protection.ProtectionRun.search`.

    Returns:
        What the function gives; None in the other processes, which tell nobody anything and end with the first.

    Raises:
        LostProcessError: another process ended; in the first one alone.
        UsageError: the environment is not that of a launcher.

    Example:
        >>> from monai_salm.pipeline.launching import together
        >>> together(lambda ranks: ranks is None)  # without a launcher
        True
    """
    if launched() == 1:
        return lead(None)
    room, search = import_module("monai_salm.learning.ranks"), import_module("monai_salm.pipeline.together")
    with room.joined_ranks() as ranks:
        if ranks.first:
            result = lead(ranks)
            search.dismiss(ranks)
            return result
        logging.disable()  # one of them tells all
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):  # it has nothing to tidy up, and may be waiting in a library
                signal.signal(number, signal.SIG_DFL)
        with suppress(room.LostProcessError):  # the first one says so, or has said why it ended
            search.follow(ranks)
        logging.disable(logging.NOTSET)
    return None
