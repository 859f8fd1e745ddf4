"""The rows of the paper's tables as our runs give them: what is used of each row's runs, and what is flagged."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from sparse_rcnn.rundir import metric_keys
from sparse_rcnn.rundir.summary import RunSummary


@dataclass(frozen=True)
class MetricColumn:
    """A number in a table: ``key`` of results.json times ``scale``; ``published`` is its name in tables.json, which
    gives so many digits. ``plus`` is a key that belongs to it and that older runs lack.
    """

    title: str
    key: str
    scale: float
    digits: int
    published: str | None
    published_digits: int = 0
    plus: str | None = None

    @property
    def is_clocked(self) -> bool:
        """Whether it depends on the machine and on what else ran there."""
        return self.title in ("FPS", "training h")

    @property
    def is_counted(self) -> bool:
        """Whether it follows from the configuration, and seeds have no spread."""
        return self.published is None


_AP = ("AP", "AP50", "AP75", "APs", "APm", "APl")
COLUMNS = (
    *(MetricColumn(name, metric_keys.bbox(name), 100.0, 1, name, 1) for name in _AP),
    MetricColumn("FPS", metric_keys.FPS, 1.0, 1, "FPS"),
    MetricColumn("training h", metric_keys.TRAIN_SECONDS, 1 / 3600, 2, "training_hours"),
    MetricColumn("params M", metric_keys.NUM_PARAMETERS, 1e-6, 2, None),
    MetricColumn("GFLOPs", metric_keys.FORWARD_GFLOPS, 1.0, 2, None, plus=metric_keys.ROI_POOLING_GFLOPS),
)

MAX_DEVIATIONS = 4  # of a run, named in a flag

# The row that a table's differences are to: the full detector, where it is one of the rows.
_BASELINES = {"table3": "head_fc_reuse_none_stages_1", "table7": "stages_6"}


def baseline_of(table: str) -> str:
    """The experiment that a table's differences are to."""
    return _BASELINES.get(table, "baseline")


@dataclass(frozen=True)
class MeanOverSeeds:
    """Mean and sample standard deviation (None for one run) over n seeds."""

    mean: float
    std: float | None
    n: int


@dataclass(frozen=True)
class OurRow:
    """Our results for an experiment: the runs used, sorted by seed, and flags, each a sentence."""

    experiment: str
    used: tuple[RunSummary, ...]
    flags: tuple[str, ...]
    command: str

    def lacks(self, column: MetricColumn) -> bool:
        """Whether a run has only a part of the number: a run of an older version."""
        return column.plus is not None and any(
            column.key in run.values and column.plus not in run.values for run in self.used
        )

    def value(self, column: MetricColumn) -> MeanOverSeeds | None:
        """Over the runs that have the number; COCO's -1, for no ground truth of a size, is none."""
        having = [run for run in self.used if run.values.get(column.key, -1.0) >= 0]
        if not having:
            return None
        found = [run.values[column.key] + run.values.get(column.plus or "", 0.0) for run in having]
        scaled = [column.scale * value for value in found]
        return MeanOverSeeds(
            statistics.fmean(scaled), statistics.stdev(scaled) if len(scaled) > 1 else None, len(scaled)
        )


def our_rows(summaries: Sequence[RunSummary], recipe: str) -> dict[str, OurRow]:
    """The rows of a recipe that have any run, of whatever recipe or state, by experiment.

    Equal configurations are one row whatever they are called: a name of one run is one of all its seeds.
    """
    names: dict[tuple[str, str], dict[str, Sequence[str]]] = defaultdict(dict)
    for run in summaries:
        for name in run.experiments:
            names[run.identity, run.recipe].setdefault(name, run.deviations.get(name, ()))
    by_experiment: dict[str, list[RunSummary]] = defaultdict(list)
    for run in summaries:
        own = names[run.identity, run.recipe]
        for name in own:
            by_experiment[name].append(replace(run, experiments=tuple(sorted(own)), deviations=own))
    return {name: _our_row(name, runs, recipe) for name, runs in sorted(by_experiment.items())}


def on_same_data(rows: Mapping[str, OurRow]) -> tuple[dict[str, OurRow], list[str]]:
    """The rows on the data that most runs are on (the baseline, where there is one), and the names of the others."""
    runs = rows["baseline"].used if "baseline" in rows else ()
    runs = runs or tuple({run.run_id: run for row in rows.values() for run in row.used}.values())
    counts = Counter(run.fingerprints for run in runs)
    reference = min(counts, key=lambda fingerprints: (-counts[fingerprints], str(fingerprints)), default=None)
    same = {name: row for name, row in rows.items() if all(run.fingerprints == reference for run in row.used)}
    return same, sorted(rows.keys() - same.keys())


def missing_row(experiment: str, recipe: str) -> OurRow:
    """A row without any run."""
    return OurRow(experiment, (), (), command(experiment, recipe))


def command(experiment: str, recipe: str) -> str:
    """The command that trains a row."""
    return f"python -m experiments.train experiment={experiment} recipe={recipe}"


def _our_row(experiment: str, runs: Sequence[RunSummary], recipe: str) -> OurRow:
    own = [run for run in runs if run.recipe == recipe]
    of_others = [run for run in own if _is_other_detector(run, experiment)]
    finished = [run for run in own if run.finished and run not in of_others]
    # A run with the experiment's name that overrides made into something else stands back.
    identity = _chosen_identity([run for run in finished if not run.deviations.get(experiment)] or finished)
    used = sorted(
        (run for run in finished if run.identity == identity), key=lambda run: (run.seed is None, run.seed, run.run_id)
    )
    flags = []
    others = Counter(run.recipe for run in runs if run.recipe != recipe and run.finished)
    flags += [f"{n} finished {_runs(n)} of recipe {name}, not used" for name, n in sorted(others.items())]
    for run in own:
        if run in of_others:
            flags.append(f"{run.run_id} is another detector than {experiment} and is not used")
        elif run.problem is not None:
            flags.append(f"{run.run_id} cannot be read and is not used: {run.problem}")
        elif not run.finished:
            flags.append(f"{run.run_id} is unfinished and not used ({run.progress})")
        elif run.identity != identity and not run.deviations.get(experiment):
            flags.append(f"{run.run_id} has another configuration than {identity} and is not used")
        if run.finished and run not in of_others and run.deviations.get(experiment):
            unused = "" if run in used else " and is not used"
            flags.append(f"{run.run_id} is not plain {experiment} ({_short(run.deviations[experiment])}){unused}")
    for run in used:
        if run.dirty:
            flags.append(f"{run.run_id} ran code with uncommitted changes")
        flags += [f"{run.run_id} was resumed with other {what}" for what in run.resumed_otherwise]
        if metric_keys.AP not in run.values:
            flags.append(f"{run.run_id} has no AP in its results")
    return OurRow(experiment, tuple(used), tuple(flags), command(experiment, recipe))


def _is_other_detector(run: RunSummary, experiment: str) -> bool:
    """Whether overrides of a run exchanged the class of the whole model."""
    return any(line.startswith("model: ") for line in run.deviations.get(experiment) or ())


def _short(lines: Sequence[str]) -> str:
    more = [f"and {len(lines) - MAX_DEVIATIONS} more"] if len(lines) > MAX_DEVIATIONS else []
    return ", ".join([*lines[:MAX_DEVIATIONS], *more])


def _chosen_identity(finished: Sequence[RunSummary]) -> str | None:
    """Different configurations are not seeds of one row: the one with most seeds is taken, of equal ones the newest."""
    by_identity: dict[str, list[RunSummary]] = defaultdict(list)
    for run in finished:
        by_identity[run.identity].append(run)
    ranked = sorted((len(runs), max(run.created_at for run in runs), name) for name, runs in by_identity.items())
    return ranked[-1][2] if ranked else None


def _runs(number: int) -> str:
    return "run" if number == 1 else "runs"
