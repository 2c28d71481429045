# SPDX-License-Identifier: Apache-2.0
"""The process: reads paths, answers with the values of the images. Started by its path, so that the package and its
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
    """Answer each line, a path as JSON, by a line of JSON: null, or the facts of the image, which its
    values follow.
    """
    for question in questions:
        reader = _SITK.ImageFileReader()
        reader.SetFileName(json.loads(question))
        try:
            image = reader.Execute()
        except RuntimeError:
            answers.write(b"null\n")
        else:
            values = np.ascontiguousarray(_SITK.GetArrayViewFromImage(image))
            facts = {"axes": image.GetDimension(), "dtype": values.dtype.str, "shape": values.shape}
            answers.write(json.dumps(facts).encode("ascii") + b"\n")
            answers.write(values.data)
        answers.flush()


def main() -> None:
    """Keep standard output for the answers, whatever libraries write there."""
    with os.fdopen(os.dup(sys.stdout.fileno()), "wb") as answers, Path(os.devnull).open("wb") as nothing:
        os.dup2(nothing.fileno(), sys.stdout.fileno())
        serve(sys.stdin.buffer, answers)


if __name__ == "__main__":
    main()
