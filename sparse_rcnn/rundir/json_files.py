"""JSON files that are whole or absent, without NaN; errors name the file."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sparse_rcnn.atomic import write_bytes_atomic
from sparse_rcnn.errors import RunError
from sparse_rcnn.rundir import own_digest


def write_json_atomic(path: str | Path, value: Any) -> None:
    """Write JSON so that a reader sees the old file or the whole new one, whenever the writer is killed.

    Numbers that JSON cannot hold (NaN, infinity) become null.

    Raises:
        UserError: the file cannot be written (full or read-only disk, no permission); nothing is left behind.
    """
    text = json.dumps(_jsonable(value), indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    write_bytes_atomic(Path(path), text.encode())


def write_sealed_json(path: str | Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object as `write_json_atomic` does, with its digest as the last key; see `read_sealed_object`."""
    data = own_digest.sealed_json(_jsonable(value), indent=2, allow_nan=False, ensure_ascii=False)
    write_bytes_atomic(Path(path), data)


def read_json(path: str | Path) -> Any:
    """The content of a JSON file.

    Raises:
        RunError: it cannot be read or is not JSON.
    """
    return _parsed(path, _content(path))


def read_object(path: str | Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        RunError: it cannot be read or holds something else.
    """
    return _object(path, _content(path))


def read_sealed_object(path: str | Path) -> dict[str, Any]:
    """The JSON object in a file without the digest in it, which is checked; older programs wrote none.

    Raises:
        RunError: it cannot be read, holds something else, or is not what was written.
    """
    data = _content(path)
    value = _object(path, data)
    if (problem := own_digest.json_problem(data)) is not None:
        raise RunError(f"{path} {problem}; restore it from a copy")
    return {key: item for key, item in value.items() if key != own_digest.KEY}


def reason(error: OSError) -> str:
    """The system's message, without number and path."""
    return error.strerror or str(error)


def _content(path: str | Path) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise RunError(f"{path} cannot be read: {reason(error)}") from error


def _parsed(path: str | Path, data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError as error:
        raise RunError(f"{path} is not valid JSON: {error}") from error


def _object(path: str | Path, data: bytes) -> dict[str, Any]:
    value = _parsed(path, data)
    if not isinstance(value, dict):
        raise RunError(f"{path} does not hold a JSON object")
    return value


def _jsonable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_jsonable(item) for item in value]
    if hasattr(value, "tolist"):  # a number or array of NumPy or torch, without importing either
        return _jsonable(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return os.fspath(value) if isinstance(value, os.PathLike) else value
