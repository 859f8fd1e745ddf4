"""The experiments that a run is: equal configurations are one run, whatever they are called."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from analysis.runs import read_run
from experiments.build import build_dashboards
from experiments.rundir import RunDirectory


def add_names(path: Path, names: Sequence[str], config: dict[str, Any]) -> None:
    """Note that a run is these experiments: in its directory and, where it is finished, on its dashboards.

    A run that still trains tells its dashboards itself.
    """
    directory = RunDirectory.load(path)
    new = [name for name in names if directory.add_name(name)]
    if new and directory.is_finished:
        for dashboard in build_dashboards(config, path, directory.meta["run_id"]):
            dashboard.renamed(read_run(path).results or {})
            dashboard.close()
