"""Files that are either the old ones or the new ones, whatever happens while they are written."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["replacing", "write_text"]


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path to write to; when the block ends well, its content is on the disk and stands at ``path``.

    The temporary file ``.NAME.<random>.tmp`` lies in the same folder, since renaming is atomic within one file system
    only. If the block or the writing fails, it is removed and ``path`` stays as it was.

    Raises:
        OSError: the file cannot be written or renamed.
    """
    part = path.parent / f".{path.name}.{uuid.uuid4().hex}.tmp"
    try:
        yield part
        with open(part, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:  # also when a person interrupts
        part.unlink(missing_ok=True)
        raise
    if os.name == "posix":  # the rename itself must reach the disk as well
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8, whole or not at all."""
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")
