"""The experiments that a run is: equal configurations are one run, whatever they are called."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from analysis.runs import read_run
from experiments.build import build_dashboards
from experiments.rundir import RunDirectory


def add_names(path: Path, names: Sequence[str]) -> bool:
    """Note that a run is these experiments: in its directory and, where it is finished, on its dashboards.

    They are those of the run's own configuration. A run that still trains tells its dashboards itself.

    Returns:
        Whether all dashboards know all names now.
    """
    directory = RunDirectory.load(path)
    for name in names:
        directory.add_name(name)
    if not directory.is_finished:
        return True
    dashboards = build_dashboards(directory.config, path, directory.meta["run_id"])
    told = [dashboard.renamed(read_run(path).results or {}) for dashboard in dashboards]
    return all(told)
