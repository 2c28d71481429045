# SPDX-License-Identifier: Apache-2.0
"""The process: reads files, answers with the values of the images. Started by its path, so that the package and its
other imports stay out of it.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import SimpleITK

_SITK: Any = SimpleITK


def serve(questions: BinaryIO, answers: BinaryIO) -> None:
    """Answer each line by a line of JSON: null, or the facts of the image, which its values follow.

    A question is JSON: the names that a file has, of which the first one counts that can be opened here, and the reader
    of ITK that is tried first, if there is one.
    """
    for question in questions:
        names, first = json.loads(question)
        name = next((name for name in names if os.access(name, os.R_OK)), names[-1])
        image = (_read(name, first) if first else None) or _read(name)
        if image is None:
            answers.write(b"null\n")
        else:
            values = np.ascontiguousarray(_SITK.GetArrayViewFromImage(image))
            facts = {"axes": image.GetDimension(), "dtype": values.dtype.str, "shape": values.shape}
            answers.write(json.dumps(facts).encode("ascii") + b"\n")
            answers.write(values.data)
        answers.flush()


def _read(name: str, first: str = "") -> Any:
    """Read a file; None where it cannot be read, or not by that reader."""
    reader = _SITK.ImageFileReader()
    reader.SetFileName(name)
    try:
        if first:
            reader.SetImageIO(first)
        return reader.Execute()
    except RuntimeError:
        return None


def main() -> None:
    """Keep standard output for the answers, whatever libraries write there."""
    with os.fdopen(os.dup(sys.stdout.fileno()), "wb") as answers, Path(os.devnull).open("wb") as nothing:
        os.dup2(nothing.fileno(), sys.stdout.fileno())
        serve(sys.stdin.buffer, answers)


if __name__ == "__main__":
    main()
