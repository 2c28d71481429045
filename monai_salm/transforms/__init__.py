# SPDX-License-Identifier: Apache-2.0
"""MONAI transforms: array and dictionary forms of the masks, of the protection, and of faithful reading and writing."""

from __future__ import annotations

from monai_salm.transforms.array import AnatomyMask, SALMProtect, SparsityMask
from monai_salm.transforms.dictionary import (
    AnatomyMaskD,
    AnatomyMaskd,
    AnatomyMaskDict,
    LoadFaithfulD,
    LoadFaithfuld,
    LoadFaithfulDict,
    SALMProtectD,
    SALMProtectd,
    SALMProtectDict,
    SaveFaithfulD,
    SaveFaithfuld,
    SaveFaithfulDict,
    SparsityMaskD,
    SparsityMaskd,
    SparsityMaskDict,
)
from monai_salm.transforms.loading import LoadFaithful
from monai_salm.transforms.saving import SaveFaithful

__all__ = [
    "AnatomyMask",
    "AnatomyMaskD",
    "AnatomyMaskDict",
    "AnatomyMaskd",
    "LoadFaithful",
    "LoadFaithfulD",
    "LoadFaithfulDict",
    "LoadFaithfuld",
    "SALMProtect",
    "SALMProtectD",
    "SALMProtectDict",
    "SALMProtectd",
    "SaveFaithful",
    "SaveFaithfulD",
    "SaveFaithfulDict",
    "SaveFaithfuld",
    "SparsityMask",
    "SparsityMaskD",
    "SparsityMaskDict",
    "SparsityMaskd",
]
