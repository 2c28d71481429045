# SPDX-License-Identifier: Apache-2.0
"""The codes that say of what modality an image is."""

from __future__ import annotations

_TERMS = (
    "ANN AR ASMT AU BDUS BI BMD CFM CR CT CTPROTOCOL DG DMS DOC DX ECG EEG EMG EOG EPS ES FID GM HC HD IO IOL "
    "IVOCT IVUS KER KO LEN LS M3D MG MR NM "
    "OAM OCT OP OPM OPT OPTBSV OPTENF OPV OSS OT PA PLAN POS PR PT PX REG RESP RF RG RTDOSE RTIMAGE RTINTENT "
    "RTPLAN RTRAD RTRECORD RTSEGANN RTSTRUCT "
    "RWV SEG SM SMR SR SRF STAIN TEXTUREMAP TG US VA XA XAPROTOCOL XC "
    "AS CD CF CP CS DD DF DM DS EC FA FS LP MA MS OPR ST VF SC"
)

MODALITIES = frozenset(_TERMS.split())
"""Defined terms of Modality (PS3.3 C.7.3.1.1.1), the retired ones behind them; SC is none, but often written."""
