"""The experiments that a run is: equal configurations are one run, whatever they are called."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from analysis.runs import read_run
from experiments.build import build_dashboards
from experiments.deviations import deviations
from experiments.rundir import RunDirectory


def add_names(path: Path, configs: Iterable[dict[str, Any]]) -> None:
    """Note in a run's directory that it is the experiments of these configurations, which lead to it."""
    directory = RunDirectory.load(path)
    for config in configs:
        if not directory.has_name(config["experiment_name"]):
            directory.add_name(config["experiment_name"], deviations(config))


def tell_names(path: Path) -> bool:
    """Tell a finished run's names to the dashboards of its own configuration; one that still trains tells them itself.

    Returns:
        Whether all dashboards know all names now.
    """
    directory = RunDirectory.load(path)
    if not directory.is_finished:
        return True
    dashboards = build_dashboards(directory.config, path, directory.meta["run_id"])
    told = [dashboard.renamed(read_run(path).results or {}) for dashboard in dashboards]
    return all(told)
