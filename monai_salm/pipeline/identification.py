# SPDX-License-Identifier: Apache-2.0
"""What a file is by itself, found out in any process."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from monai_salm.errors import RefusedError
from monai_salm.io import Document, Kind, UndecidedError, identify
from monai_salm.pipeline.inventory import FileRecord


@dataclass(frozen=True)
class IdentifyJob:
    """A file to look at.

    Args:
        root: folder of the input.
        path: relative to it.
        said: what the user says that it is; None leaves it to the file.
    """

    root: Path
    path: str
    said: Kind | None


def identified(job: IdentifyJob) -> FileRecord:
    """Say what a regular file is, or why it is refused."""
    path = job.path
    try:
        found = identify(job.root / path, job.said)
    except UndecidedError as open_question:
        return FileRecord(path, reason=str(open_question), judgement=open_question.judgement)
    except RefusedError as refusal:
        return FileRecord(path, reason=str(refusal))
    except OSError as error:
        return FileRecord(path, reason=f"cannot be read: {error.strerror or error}")
    except MemoryError:
        return FileRecord(path, reason="it needs more memory than there is")
    return FileRecord(path, document=found) if isinstance(found, Document) else FileRecord(path, found)


def not_identified(job: IdentifyJob, why: str) -> FileRecord:
    """Refuse a file where no process came to the end of looking at it."""
    return FileRecord(job.path, reason=why)
