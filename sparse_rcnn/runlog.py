"""Where a run's numbers go: a small interface, and the JSON-lines file every run writes."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from sparse_rcnn.errors import UserError


class Writer:
    """Receives a run as it goes on, on rank 0; a subclass overrides the hooks that it needs.

    Each is called by the training, in this order: ``started``, then ``log`` and ``evaluated`` many times, ``finished``
    where the run comes to its end, ``close`` in any case.
    """

    def started(self) -> None:
        """The run begins or is resumed; nothing was written before."""

    def log(self, event: str, step: int, epoch: float, metrics: Mapping[str, float]) -> None:
        """Record metrics (``split/group/name`` to number) of an event (``train``, ``eval``) after a step."""

    def evaluated(self, step: int, epoch: float, record: Mapping[str, Any], views: Sequence[Any]) -> None:
        """An evaluation after ``step`` steps as a whole: the content of its file, and the views of some images."""

    def finished(self, results: Mapping[str, float]) -> None:
        """The run has come to its end; ``results`` is the content of results.json."""

    def close(self) -> None:
        """Flush and close; no events follow."""

    def skipped(self, results: Mapping[str, float]) -> None:
        """The run was finished before, so that none of the other hooks is called; ``results`` as for ``finished``."""


class JsonlWriter(Writer):
    """One event a line: ``{"event", "step", "epoch", "time", "metrics"}``.

    A killed run may leave a torn last line: opening again ends that line, so that it never swallows the next
    event. A resumed run repeats the events after its checkpoint; readers take the last of each (event, step).
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            torn = path.exists() and path.stat().st_size > 0 and path.read_bytes()[-1:] != b"\n"
            self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 (closed by close)
            if torn:
                self._file.write("\n")
        except OSError as error:
            raise UserError(f"cannot write {path}: {error.strerror}") from error

    def log(self, event: str, step: int, epoch: float, metrics: Mapping[str, float]) -> None:
        # NaN and infinity are no JSON: null says that there was a value, and that it was no number.
        finite = {k: v if math.isfinite(v) else None for k, v in metrics.items()}
        row = {
            "event": event,
            "step": step,
            "epoch": round(epoch, 6),
            "time": round(time.time(), 3),
            "metrics": finite,
        }
        try:
            self._file.write(json.dumps(row, allow_nan=False) + "\n")
            self._file.flush()
        except OSError as error:
            raise UserError(f"cannot write {self.path}: {error.strerror}") from error

    def close(self) -> None:
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise UserError(f"cannot write {self.path}: {error.strerror}") from error
        finally:
            with suppress(OSError):  # what could not be flushed fails once more
                self._file.close()
