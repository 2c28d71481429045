# SPDX-License-Identifier: Apache-2.0
"""DICOMweb archives as places: what they hold is fetched into a private folder, and what a run wrote is stored.

Nothing else asks the network for images. The client's packages are loaded when an archive is asked for something.
"""

from __future__ import annotations

from monai_salm.dicomweb.places import SCHEME, ArchivePlace, place_of

__all__ = ["SCHEME", "ArchivePlace", "place_of"]
