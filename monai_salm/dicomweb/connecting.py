# SPDX-License-Identifier: Apache-2.0
"""The way to an archive: the client is loaded here, where one is asked for something."""

from __future__ import annotations

import logging
from functools import cache
from typing import TYPE_CHECKING

from monai_salm.dicomweb.places import SCHEME, ArchivePlace
from monai_salm.errors import UsageError, how_to_install

if TYPE_CHECKING:
    from monai_salm.dicomweb.client import Archive

logger = logging.getLogger(__name__)


def connect(place: ArchivePlace) -> Archive:
    """Give the archive of a place; nothing is asked of the network yet. Warns where what it is asked can be read on the
    way.

    Raises:
        UsageError: the client is not installed, or the environment says half of a password.
    """
    try:
        from monai_salm.dicomweb.client import Archive
    except ImportError as error:
        raise UsageError(
            f"{SCHEME} needs dicomweb-client ({error}); install it: {how_to_install('dicomweb-client')}"
        ) from error
    if place.in_clear:
        _warn(place.url)
    return Archive(place)


@cache
def _warn(url: str) -> None:
    """Say once that what an archive is asked can be read on the way."""
    logger.warning(
        "%s: http:// to another machine is not encrypted: who is on the way reads images, names and passwords; "
        "use https://",
        url,
    )
