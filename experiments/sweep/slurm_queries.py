"""Questions to SLURM: the states of jobs, and how large an array may be."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence


def job_states(ids: Sequence[str]) -> dict[str, str] | None:
    """The state of each job that SLURM still knows, or None where it does not answer."""
    answer = _ask("squeue", "--noheader", "--array", "--states=all", f"--jobs={','.join(ids)}", "--format=%i|%T")
    if answer is None or (answer.returncode and "Invalid job id" not in answer.stderr):
        return None
    return dict(line.split("|", 1) for line in answer.stdout.splitlines() if "|" in line)


def max_array_size() -> int | None:
    """How many jobs one array may have, at least 1; None where SLURM does not say."""
    answer = _ask("scontrol", "show", "config")
    if answer is None or answer.returncode:
        return None
    limits = re.findall(r"^MaxArraySize\s*=\s*(\d+)", answer.stdout, re.MULTILINE)
    limits += re.findall(r"^SchedulerParameters\s*=.*?\bmax_array_tasks=(\d+)", answer.stdout, re.MULTILINE)
    return max(1, min(map(int, limits))) if limits else None  # 0: no arrays at all


def _ask(*command: str) -> subprocess.CompletedProcess[str] | None:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
