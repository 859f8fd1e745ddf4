"""Digests of the files of a folder, in a file of their own that is written last (docs/run_directory.md, "Digests")."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sparse_rcnn.errors import RunError
from sparse_rcnn.rundir import layout
from sparse_rcnn.rundir.file_digest import file_digest
from sparse_rcnn.rundir.json_files import read_sealed_object, reason, write_sealed_json


def write_digests(folder: Path, names: Iterable[str]) -> None:
    """Write digests.json: size and digest of some files of a folder, as they are on the disk.

    Raises:
        UserError: a file cannot be read or digests.json not be written.
    """
    try:
        files = {name: _entry(folder / name) for name in sorted(names)}
    except OSError as error:
        raise RunError(f"{error.filename or folder} cannot be read: {reason(error)}") from error
    write_sealed_json(folder / layout.DIGESTS, {"files": files})


def recorded_digests(folder: Path) -> dict[str, Any] | None:
    """The entries of digests.json by file name, or None where there is no such file.

    Raises:
        RunError: it is damaged.
    """
    path = folder / layout.DIGESTS
    if not path.exists():
        return None
    files = read_sealed_object(path).get("files")
    if not isinstance(files, dict) or not all(isinstance(entry, dict) for entry in files.values()):
        raise RunError(f"{path} is damaged: it holds no digests")
    return files


def difference(path: Path, entry: dict[str, Any]) -> str | None:
    """What a file is, where that is not what its entry of digests.json says: the end of a sentence.

    Raises:
        OSError: it cannot be read, for a reason that is not in the file or the disk below it.
    """
    try:
        size = path.stat().st_size
        if size != entry.get("bytes"):
            return f"has {size} bytes, not the {entry.get('bytes')} that were written"
        if file_digest(path) != entry.get("sha256"):
            return "has another content than was written: its SHA-256 is not that of digests.json"
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        return f"cannot be read: {reason(error)}"
    return None


def _entry(path: Path) -> dict[str, Any]:
    return {"bytes": os.path.getsize(path), "sha256": file_digest(path)}
