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


def write_json_atomic(path: str | Path, value: Any) -> None:
    """Write JSON so that a reader sees the old file or the whole new one, whenever the writer is killed.

    Numbers that JSON cannot hold (NaN, infinity) become null.

    Raises:
        UserError: the file cannot be written (full or read-only disk, no permission); nothing is left behind.
    """
    text = json.dumps(_jsonable(value), indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    write_bytes_atomic(Path(path), text.encode())


def read_json(path: str | Path) -> Any:
    """The content of a JSON file.

    Raises:
        RunError: it cannot be read or is not JSON.
    """
    try:
        return json.loads(Path(path).read_bytes())
    except OSError as error:
        raise RunError(f"{path} cannot be read: {reason(error)}") from error
    except ValueError as error:
        raise RunError(f"{path} is not valid JSON: {error}") from error


def read_object(path: str | Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        RunError: it cannot be read or holds something else.
    """
    value = read_json(path)
    if not isinstance(value, dict):
        raise RunError(f"{path} does not hold a JSON object")
    return value


def reason(error: OSError) -> str:
    """The system's message, without number and path."""
    return error.strerror or str(error)


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
