"""The SHA-256 and the size of a file, read from it or taken while it is written."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import BinaryIO, NamedTuple

_BLOCK = 1 << 20  # bytes


class FileDigest(NamedTuple):
    """The size of a file in bytes, and its SHA-256 in hex."""

    num_bytes: int
    sha256: str

    @classmethod
    def of_bytes(cls, data: bytes | bytearray) -> FileDigest:
        """That of a file with this content."""
        return cls(len(data), hashlib.sha256(data).hexdigest())


def file_digest(path: Path) -> FileDigest:
    """The digest of a file, read anew each time.

    Raises:
        OSError: it cannot be read.
    """
    digest, num_bytes = hashlib.sha256(), 0
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
            num_bytes += len(block)
    return FileDigest(num_bytes, digest.hexdigest())


class DigestWriter:
    """Writes to an open file and takes the digest of what it is given, whatever becomes of that on its way."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._digest, self._num_bytes = file, hashlib.sha256(), 0

    def write(self, data: bytes) -> int:
        """Append; returns the number of bytes."""
        view = memoryview(data)
        self._digest.update(view)
        self._num_bytes += view.nbytes
        return self._file.write(view)

    def flush(self) -> None:
        self._file.flush()

    @property
    def digest(self) -> FileDigest:
        """That of what was written so far."""
        return FileDigest(self._num_bytes, self._digest.hexdigest())
