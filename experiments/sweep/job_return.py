"""The outcome of a sweep's job, with the file that its output went to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hydra.core.utils import JobReturn


@dataclass
class LoggedJobReturn(JobReturn):
    """Hydra's outcome of a job, and its log where the launcher keeps one."""

    log: Path | None = None
