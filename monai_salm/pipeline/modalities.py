# SPDX-License-Identifier: Apache-2.0
"""The Modality codes that a user may give for files that do not say theirs."""

from __future__ import annotations

from monai_salm.errors import UsageError
from monai_salm.io import MODALITIES

_MEANT = {
    "MRI": "MR",
    "MRT": "MR",
    "PET": "PT",
    "XRAY": "DX",
    "X-RAY": "DX",
    "XR": "DX",
    "USG": "US",
    "MAMMO": "MG",
    "SPECT": "NM",
    "HISTO": "SM",
    "WSI": "SM",
}


def check_modality(code: str) -> str:
    """Give a Modality code in capitals; empty stays empty.

    Raises:
        UsageError: DICOM has no such modality.
    """
    capitals = code.strip().upper()
    if capitals and capitals not in MODALITIES:
        meant = (
            f"give {_MEANT[capitals]}"
            if capitals in _MEANT
            else "give a code of DICOM, such as CT, MR, PT, NM, CR, DX, MG, US, XA, SM, OT"
        )
        raise UsageError(f"modality {code!r} is unknown; {meant}")
    return capitals
