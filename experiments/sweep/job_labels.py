"""Short names of a sweep's jobs: what tells them apart."""

from __future__ import annotations

from collections.abc import Sequence

from hydra.core.utils import filter_overrides


def job_names(job_overrides: Sequence[Sequence[str]]) -> list[str]:
    """One name for each job: its overrides without those that all jobs share (all of them where there is one job)."""
    jobs = [filter_overrides(overrides) for overrides in job_overrides]
    shared = set.intersection(*map(set, jobs)) if len(jobs) > 1 else set()
    return [" ".join(o for o in job if o not in shared) for job in jobs]
