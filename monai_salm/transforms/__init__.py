# SPDX-License-Identifier: Apache-2.0
"""MONAI transforms: array and dictionary forms of the masks and of the protection."""

from __future__ import annotations

from monai_salm.transforms.array import AnatomyMask, SALMProtect, SparsityMask
from monai_salm.transforms.dictionary import (
    AnatomyMaskD,
    AnatomyMaskd,
    AnatomyMaskDict,
    SALMProtectD,
    SALMProtectd,
    SALMProtectDict,
    SparsityMaskD,
    SparsityMaskd,
    SparsityMaskDict,
)

__all__ = [
    "AnatomyMask",
    "AnatomyMaskD",
    "AnatomyMaskDict",
    "AnatomyMaskd",
    "SALMProtect",
    "SALMProtectD",
    "SALMProtectDict",
    "SALMProtectd",
    "SparsityMask",
    "SparsityMaskD",
    "SparsityMaskDict",
    "SparsityMaskd",
]
