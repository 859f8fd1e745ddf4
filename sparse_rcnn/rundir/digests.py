"""Digests of the files of a folder, in a file of their own that is written last (docs/run_directory.md, "Digests")."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from pathlib import Path

from sparse_rcnn.errors import RunError
from sparse_rcnn.rundir import layout
from sparse_rcnn.rundir.file_digest import FileDigest, file_digest
from sparse_rcnn.rundir.json_files import read_sealed_object, reason, write_sealed_json


def write_digests(folder: Path, files: Mapping[str, FileDigest]) -> None:
    """Write digests.json: size and digest of files of a folder, by name.

    Raises:
        UserError: it cannot be written.
    """
    entries = {name: {"bytes": file.num_bytes, "sha256": file.sha256} for name, file in sorted(files.items())}
    write_sealed_json(folder / layout.DIGESTS, {"files": entries})


def recorded_digests(folder: Path) -> dict[str, FileDigest] | None:
    """The content of digests.json by file name, or None where there is no such file.

    Raises:
        RunError: it is damaged, or cannot be read.
    """
    path = folder / layout.DIGESTS
    if not path.exists():
        return None
    try:
        entries = read_sealed_object(path)["files"]
        return {name: FileDigest(entry["bytes"], entry["sha256"]) for name, entry in entries.items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise RunError(f"{path} is damaged: it holds no digests") from error


def difference(path: Path, written: FileDigest) -> str | None:
    """The fault of a file that is not the one written, as the end of a sentence; None for one that is.

    Raises:
        OSError: it cannot be read, for another reason than a fault of the disk.
    """
    try:
        size = path.stat().st_size
        if size != written.num_bytes:
            return f"has {size} bytes, {written.num_bytes} were written"
        if file_digest(path) != written:
            return f"has another content than was written: its SHA-256 is not that of {layout.DIGESTS}"
    except (FileNotFoundError, NotADirectoryError):
        return "is missing"
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        return f"cannot be read: {reason(error)}"
    return None
