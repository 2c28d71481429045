# SPDX-License-Identifier: Apache-2.0
"""What is run: methods and formats, options, surrogates, stopped runs, the bundle, the transforms."""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass

from tests.same_bytes.inputs import FAMILIES

# Cases ---------------------------------------------------------------------------------------------------------------

METHODS = ("salm", "random-mask", "em", "em-augmented", "aue", "tap", "lsp", "pil", "umed", "voxshield", "random")
CLASSIFIERS = tuple(name for name in METHODS if name not in ("umed", "voxshield"))
"""Methods that protect from classification."""
SEGMENTERS = ("salm", "random-mask", "em", "em-augmented", "aue", "umed", "voxshield")
"""Methods that protect from segmentation; the last one protects volumes alone."""
FLAT, VOLUMES, FLAT_LABELS, VOLUME_LABELS = "png", "nifti-3d", "nifti-2d-labels", "nifti-3d-labels"
"""Families that every method runs on."""
ROUNDS = 3
CHECKPOINT = "*.work/search.safetensors"
"""What a run has written after its first round."""


@dataclass(frozen=True)
class Step:
    """A command of a case.

    Args:
        module: what ``python -m`` runs; a name that ends in ``.py`` is a script of the case.
        arguments: in which ``{inputs}``, ``{case}`` and ``{checkout}`` stand for folders.
        stop: kill it as soon as there is a checkpoint.
    """

    module: str
    arguments: tuple[str, ...]
    stop: bool = False


@dataclass(frozen=True)
class Case:
    """What is run and then compared."""

    name: str
    steps: tuple[Step, ...]


def protect(
    family: str,
    method: str,
    *more: str,
    part: str = "images",
    output: str = "out",
    rounds: int | None = ROUNDS,
    stop: bool = False,
) -> Step:
    """Give the command that protects a family."""
    about = FAMILIES[family]
    source = f"{{inputs}}/{family}/{part}" + ("/export.zip" if family == "zip" else "")
    arguments = [
        "protect", source, f"{{case}}/{output}", "--method", method, "--key-file", "{inputs}/key", "--seed", "0",
        "--working-size", str(about.working_size), "--device", "cpu", "--quiet", *about.arguments,
    ]  # fmt: skip
    if about.segmentation and method != "random":
        arguments += ["--task", "segmentation"]
        arguments += ["--labels", f"{{inputs}}/{family}/{part}-labels"] if about.segmentation == "folder" else []
    elif method != "random":
        arguments += ["--labels", f"{{inputs}}/{family}/{part}.csv"]
    if method != "random":
        arguments += ["--rounds", str(rounds)] if rounds is not None else []
        arguments += ["--surrogate", about.network] if about.network else []
    return Step("monai_salm", (*arguments, *more), stop)


def _bundle(config: str) -> Step:
    bundle, family = "{checkout}/bundles/salm_protect", "{inputs}/nifti-2d"
    options = {
        "bundle_root": bundle, "config_file": f"{bundle}/configs/{config}.json", "dataset_dir": f"{family}/images",
        "labels": f"{family}/images.csv", "output_dir": "{case}/out", "modality": "MR", "rounds": str(ROUNDS),
        "seed": "0", "working_size": "32", "device": "cpu",
    }  # fmt: skip
    return Step("monai.bundle", ("run", *(part for name, value in options.items() for part in (f"--{name}", value))))


TRANSFORM_SCRIPT = '''"""Protect NIfTI images by the transform: FOLDER TABLE OUTPUT KIND PATH."""
import csv, sys
from pathlib import Path
import numpy as np
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged
from monai_salm.transforms import SALMProtectd

folder, table, output, kind, path = sys.argv[1:]
more = {"label_key": "label"} if kind == "surrogate" else {}
whole = Compose([LoadImaged("image"), EnsureChannelFirstd("image"), SALMProtectd("image", **{kind: path}, **more)])
Path(output).mkdir()
failed = 0
for row in csv.DictReader(Path(table).read_text(encoding="utf-8").splitlines()):
    if row["path"].endswith(".img"):
        continue  # no reader of MONAI takes it by its name
    try:
        image = whole({"image": f"{folder}/{row['path']}", "label": ["healthy", "ill"].index(row["label"])})["image"]
        np.save(f"{output}/{row['path']}.npy", np.asarray(image))
    except Exception as error:
        print(f"{row['path']}: {error.__cause__ or error}", file=sys.stderr)
        failed = 3
sys.exit(failed)
'''


def _transform(family: str, kind: str, part: str) -> Step:
    place = {"noise": "{case}/out.work/noise", "surrogate": "{case}/out.work/surrogate.safetensors"}[kind]
    folder = f"{{inputs}}/{family}/{part}"
    return Step("transform.py", (folder, f"{folder}.csv", f"{{case}}/{kind}", kind, place))


def _frozen(family: str, method: str = "salm") -> Case:
    """Protect a family, and then further samples with its surrogate."""
    surrogate = ("--surrogate", "{case}/out.work/surrogate.safetensors")
    further = protect(family, method, *surrogate, part="further", output="out2", rounds=None)
    return Case(f"surrogate/{family}/{method}", (protect(family, method), further))


def _resumed(family: str, rounds: int) -> Case:
    begun = protect(family, "salm", rounds=rounds, stop=True)
    return Case(f"resume/{family}", (begun, protect(family, "salm", "--resume", rounds=rounds)))


def _transformed(family: str) -> Case:
    """Protect a family, and then by the transform itself from its noise, and further samples with its surrogate."""
    both = _transform(family, "noise", "images"), _transform(family, "surrogate", "further")
    return Case(f"transform/{family}", (protect(family, "salm"), *both))


def all_cases() -> list[Case]:
    """Give every case, by names of their own."""
    pairs = [(family, method) for family in FAMILIES for method in ("salm", "random")]
    pairs += [(family, method) for family in (FLAT, VOLUMES) for method in CLASSIFIERS]
    pairs += [(FLAT_LABELS, method) for method in SEGMENTERS[:-1]] + [(VOLUME_LABELS, method) for method in SEGMENTERS]
    cases = [Case(f"{family}/{method}", (protect(family, method),)) for family, method in dict.fromkeys(pairs)]
    findings = f"{{inputs}}/{FLAT}/images-findings.csv"
    bare = ("--uids", "keep", "--image-type", "keep", "--provenance", "none", "--no-source-reference")
    minimal = ("--provenance", "minimal", "--epsilon", "9 HU", "--window", "lung")
    fraction = ("--perturbed-fraction", "0.1", "--epsilon", "4/255", "--seed", "7")
    return [
        *cases,
        _frozen(FLAT), _frozen(FLAT, "random-mask"), _frozen(VOLUMES), _frozen(VOLUME_LABELS), _frozen("dicom-ct"),
        _resumed(FLAT, 6), _resumed(VOLUME_LABELS, 6),
        Case("options/bare", (protect("dicom-ct", "random", *bare),)),
        Case("options/instance", (protect("dicom-ct", "random", "--sample", "instance"),)),
        Case("options/minimal", (protect("dicom-ct", "random", *minimal),)),
        Case("options/fraction", (protect(FLAT, "salm", *fraction),)),
        Case("options/network", (protect(FLAT, "em", "--surrogate", "ViT", rounds=1),)),
        *(Case(f"findings/{method}", (protect(FLAT, method, "--labels", findings),)) for method in ("salm", "tap")),
        Case("bundle", (_bundle("train"),)),
        _transformed("nifti-2d"), _transformed("nifti-3d"),
    ]  # fmt: skip


def chosen_cases(pattern: str) -> list[Case]:
    """Give the cases whose names match one of the patterns, separated by commas."""
    patterns = pattern.split(",")
    return [case for case in all_cases() if any(fnmatch.fnmatchcase(case.name, wanted) for wanted in patterns)]
