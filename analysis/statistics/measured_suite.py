"""The configurations of the paper's rows, each measured once with all its seeds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from analysis.our_rows import OurRow, on_same_data
from analysis.paper.rows import EXPERIMENTS, experiments_of
from analysis.statistics.comparison import ComparedRow, MeasuredRows, measure
from sparse_rcnn.errors import UserError
from sparse_rcnn.rundir import layout
from sparse_rcnn.rundir.summary import RunSummary


@dataclass(frozen=True)
class MeasuredSuite:
    """The configurations that were measured, each experiment's index among them, or the reason why none was.

    ``left_out`` names those that were not, with the reason.
    """

    measured: MeasuredRows | None
    index: Mapping[str, int]
    reason: str | None
    left_out: tuple[str, ...] = ()


def measure_suite(rows: Mapping[str, OurRow], annotations: Path | None, num_resamples: int, seed: int) -> MeasuredSuite:
    """Measure each configuration of the paper's rows once, with all its seeds, however many rows it is."""
    done = [name for name in experiments_of(*EXPERIMENTS) if name in rows and rows[name].used]
    same, _ = on_same_data({name: rows[name] for name in done})
    left_out = [f"{name} (trained or evaluated on other data)" for name in done if name not in same]
    wanted = []
    for name in same:
        if all((run.directory.path / layout.DETECTIONS).is_file() for run in rows[name].used):
            wanted.append(name)
        else:
            left_out.append(f"{name} (a run has no detections.json)")
    seeds: dict[str, dict[str, RunSummary]] = {}
    for name in wanted:
        for summary in rows[name].used:
            seeds.setdefault(summary.identity, {})[summary.run_id] = summary
    order = list(seeds)
    index = {name: order.index(rows[name].used[0].identity) for name in wanted}
    if len(order) < 2:
        return MeasuredSuite(None, index, "fewer than two rows have finished runs to test", tuple(left_out))
    configurations = [
        ComparedRow(identity, tuple(own[run_id].directory for run_id in sorted(own))) for identity, own in seeds.items()
    ]
    try:
        return MeasuredSuite(measure(configurations, annotations, num_resamples, seed), index, None, tuple(left_out))
    except UserError as error:
        return MeasuredSuite(None, index, str(error), tuple(left_out))
