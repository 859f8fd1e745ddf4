"""Digests that stand in the file that they are of: weights files (safetensors) and JSON objects.

The digest is the SHA-256 of the whole file with zeros in place of its own 64 digits, so that it covers every byte and
goes wherever the file goes. Files of older programs have none.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

KEY = "sha256"  # of the metadata of a weights file, and the last one of a JSON object
BLANK = "0" * 64
DAMAGED = "has another content than was written: its SHA-256 is not the one that stands in it"

_BLOCK = 1 << 20  # bytes
_DIGEST = re.compile(r"[0-9a-f]{64}")
_LAST_PAIR = re.compile(rb'"([^"\\]*)":\s?"([^"\\]*)"\s*\}\s*\Z')
_TAIL_BYTES = 256
_MAX_HEADER_BYTES = 100_000_000  # safetensors' own limit


def sealed_json(value: Mapping[str, Any], **form: Any) -> bytearray:
    """A JSON object as the content of a file, with its digest as the last key.

    Args:
        value: of the object; holds no key of the digest's name.
        form: for `json.dumps`.
    """
    assert KEY not in value
    data = bytearray((json.dumps({**value, KEY: BLANK}, **form) + "\n").encode())
    return _fill(data, data.rindex(BLANK.encode()))


def sealed_weights(data: bytes) -> bytearray:
    """The content of a safetensors file whose metadata has `BLANK` under `KEY`, with its digest there."""
    filled = bytearray(data)
    return _fill(filled, filled.index(f'"{KEY}":"{BLANK}"'.encode()) + len(f'"{KEY}":"'))


def json_problem(data: bytes) -> str | None:
    """The fault of a JSON file's content by the digest in it, as the end of a sentence; None without a digest."""
    pair = _last_pair(data)
    if pair is None:
        return None
    start, end = (len(data) - len(pair.string) + place for place in pair.span(2))
    digest = hashlib.sha256(data[:start] + BLANK.encode() + data[end:])
    return None if pair[1] == KEY.encode() and pair[2] == digest.hexdigest().encode() else DAMAGED


def has_json_digest(data: bytes) -> bool:
    """Whether a JSON file ends with a digest, right or wrong."""
    return _last_pair(data) is not None


def weights_problem(path: Path) -> str | None:
    """The fault of a weights file by its structure and the digest in it, as the end of a sentence.

    A file without a digest is as long as its header says where there is no problem.

    Raises:
        OSError: it cannot be read.
    """
    size = path.stat().st_size
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > min(size, _MAX_HEADER_BYTES):
            return "is no whole safetensors file: its header is cut off"
        file.seek(0)
        header = file.read(8 + length)
        try:
            entries = json.loads(header[8:])
            metadata = entries.pop("__metadata__", {})
            end = max((entry["data_offsets"][1] for entry in entries.values()), default=0)
            pairs = [(str(key), str(value)) for key, value in metadata.items()]
        except (ValueError, TypeError, KeyError, IndexError, AttributeError):
            return "is no safetensors file, or its header is damaged"
        if size != 8 + length + end:
            return f"has {size} bytes, {8 + length + end} by its header"
        digests = [(key, value) for key, value in pairs if _is_digest(key, value)]
        if not digests:
            return None
        key, value = digests[0]
        start = header.find(f'"{KEY}":"{value}"'.encode()) + len(f'"{KEY}":"')
        if len(digests) > 1 or key != KEY or start < len(f'"{KEY}":"'):
            return DAMAGED
        digest = hashlib.sha256(header[:start] + BLANK.encode() + header[start + len(value) :])
        while block := file.read(_BLOCK):
            digest.update(block)
    return None if digest.hexdigest() == value else DAMAGED


def has_weights_digest(path: Path) -> bool:
    """Whether a weights file carries a digest, right or wrong; False where it cannot be read."""
    try:
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            metadata = json.loads(file.read(min(length, _MAX_HEADER_BYTES)))["__metadata__"]
        return any(_is_digest(str(key), str(value)) for key, value in metadata.items())
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return False


def _last_pair(data: bytes) -> re.Match[bytes] | None:
    """The last key and value in the last bytes of a JSON file, where they are a digest."""
    pair = _LAST_PAIR.search(data[-_TAIL_BYTES:])
    if pair is None or not _is_digest(pair[1].decode(errors="replace"), pair[2].decode(errors="replace")):
        return None
    return pair


def _is_digest(key: str, value: str) -> bool:
    """Either of them is enough: a damaged key must not make a file look like one of an older program."""
    return key == KEY or _DIGEST.fullmatch(value) is not None


def _fill(data: bytearray, start: int) -> bytearray:
    data[start : start + len(BLANK)] = hashlib.sha256(data).hexdigest().encode()
    return data
