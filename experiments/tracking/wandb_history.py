"""What W&B wrote to a run's own .wandb files: up to where it is logged, whatever became of the processes."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_BLOCK, _FILE_HEADER, _RECORD_HEADER = 32768, 7, 7  # LevelDB's log format behind a header of W&B's own
_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4


def wandb_files(folder: Path, run_id: str) -> list[Path]:
    """The .wandb files of all sessions of a run, in the order in which they began."""
    return sorted(folder.glob(f"*run-*/run-{run_id}.wandb"), key=lambda path: path.parent.name.split("run-", 1)[1])


def history(path: Path) -> list[dict[str, Any]]:
    """The logged rows of a .wandb file in order, with ``_step``; one cut short gives the rows before the cut."""
    from wandb.proto import wandb_internal_pb2

    rows = []
    for content in _records(path.read_bytes()):
        record: Any = wandb_internal_pb2.Record()  # type: ignore[attr-defined] # made by protobuf as it is imported
        record.ParseFromString(content)
        if record.WhichOneof("record_type") == "history":
            row = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
            rows.append({"_step": record.history.step.num, **row})
    return rows


def last_position(folder: Path, run_id: str) -> int:
    """The highest ``_step`` that any session has in its file, -1 where there is none."""
    return max((row["_step"] for path in wandb_files(folder, run_id) for row in history(path)), default=-1)


def _records(data: bytes) -> Iterator[bytes]:
    position, begun = _FILE_HEADER, b""
    while position + _RECORD_HEADER <= len(data):
        left = _BLOCK - position % _BLOCK
        if left < _RECORD_HEADER:  # the rest of a block that no header fits into
            position += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, position)
        position += _RECORD_HEADER
        part, position = data[position : position + length], position + length
        if position > len(data) or kind not in (_FULL, _FIRST, _MIDDLE, _LAST):
            return
        begun = part if kind in (_FULL, _FIRST) else begun + part
        if kind in (_FULL, _LAST):
            yield begun
