# SPDX-License-Identifier: Apache-2.0
"""Whether a PDF has pictures in it; a PDF of text and lines has none."""

from __future__ import annotations

import re

PICTURES_IN_PDF = "the PDF has pictures in it, which are not protected; take it out of what you share, or look at them first"
LOOKED_FOR = "no picture was found in the PDF, whose lines and text are not looked at"
# Streams, and so pictures, are never inside compressed objects (ISO 32000-1 7.5.7), and names are never encrypted (7.6.1).
_PICTURE = re.compile(rb"/Subtype\s*/Image\b|/Type\s*/EmbeddedFile\b")


def holds_pictures(content: bytes | memoryview) -> bool:
    """Say whether a PDF has image objects (ISO 32000-1 8.9.5) or files within it.

    Args:
        content: the whole PDF.
    """
    return _PICTURE.search(content) is not None
