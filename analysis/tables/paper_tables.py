"""The paper's tables 1 to 9 from finished runs, the published numbers beside them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from analysis.our_rows import COLUMNS, MeanOverSeeds, MetricColumn, OurRow, baseline_of, missing_row, our_rows
from analysis.paper.rows import EXPERIMENTS, published_tables
from analysis.tables.formats import DASH, Cell, Footnotes, Grid
from sparse_rcnn.rundir.summary import RunSummary

TABLES = tuple(EXPERIMENTS)
_METRICS = {column.published for column in COLUMNS if column.published}


def build_tables(summaries: Sequence[RunSummary], recipe: str, tables: Sequence[str] = TABLES) -> list[Grid]:
    """The tables, of the finished runs of one recipe."""
    rows = our_rows(summaries, recipe)
    return [build_table(table, rows, recipe) for table in tables]


def build_table(table: str, rows: Mapping[str, OurRow], recipe: str) -> Grid:
    """One table: for each row of the paper's, ours and, below it, the published one.

    A difference, in brackets, is to the table's baseline row: ours to ours, published to published.
    """
    published = published_tables()[table]
    columns = table_columns(table)
    labels = [key for key in published["rows"][0] if key not in _METRICS]
    experiments = EXPERIMENTS[table]
    own = {name: rows.get(name, missing_row(name, recipe)) for name in experiments}
    baseline = baseline_of(table)
    base_published = published["rows"][experiments.index(baseline)]
    footnotes, groups, records = Footnotes(), [], []
    reference = _reference_data(own, baseline)
    for experiment, row in zip(experiments, published["rows"], strict=True):
        ours = own[experiment]
        flags = _flags(ours, reference)
        our_line = _our_line(ours, own[baseline], columns, labels, row, footnotes, flags)
        groups.append((our_line, _published_line(row, base_published, columns, labels)))
        about = {
            "table": table.removeprefix("table"),
            "recipe": recipe,
            "row": ", ".join(f"{label} {_label(row[label])}" for label in labels),
            "experiment": experiment,
        }
        records += _records(about, columns, ours, own[baseline], row, base_published, flags)
    return Grid(
        f"Table {table.removeprefix('table')}: {published['title']}",
        (*(label.replace("_", " ") for label in labels), "source", "n", *(column.title for column in columns)),
        tuple(groups),
        num_label_columns=len(labels) + 1,
        footnotes=footnotes.all(),
        remarks=(*_remarks(own, baseline, columns, recipe), *epochs_remark(table, own)),
        records=tuple(records),
    )


def table_columns(table: str) -> list[MetricColumn]:
    """The columns that the paper's table has; where it has a cost, also the costs that are counted."""
    rows = published_tables()[table]["rows"]
    known = [column for column in COLUMNS if any(column.published in row for row in rows)]
    return known + ([column for column in COLUMNS if column.published is None] if "FPS" in rows[0] else [])


def _our_line(
    ours: OurRow,
    base: OurRow,
    columns: Sequence[MetricColumn],
    labels: Sequence[str],
    row: Mapping[str, Any],
    footnotes: Footnotes,
    flags: Sequence[str],
) -> tuple[Cell, ...]:
    cells = [Cell(_our_label(ours, label, row[label])) for label in labels]
    marks = tuple(footnotes.mark(text) for text in flags)
    cells += [Cell(ours.experiment, marks), Cell(str(len(ours.used)) if ours.used else DASH)]
    for column in columns:
        value, change = ours.value(column), difference(ours, base, column)
        text, own_marks = DASH if value is None else _format(value, column), []
        if change is not None and ours is not base:
            text += f" ({_signed(change, column.digits)})"
        if value is not None and value.n != len(ours.used):
            own_marks.append(footnotes.mark(f"{column.title} of {value.n} of the {len(ours.used)} runs"))
        if value is not None and ours.lacks(column):
            own_marks.append(
                footnotes.mark(f"{column.title} without {column.plus}, which runs of an older version lack")
            )
        cells.append(Cell(text, tuple(own_marks)))
    return tuple(cells)


def difference(ours: OurRow, base: OurRow, column: MetricColumn) -> float | None:
    """A row's mean less the baseline's; None where either is missing or they do not compare.

    They compare where the data are the same and, for what a clock measured, the devices too.
    """
    value, reference = ours.value(column), base.value(column)
    if value is None or reference is None or ours.lacks(column) != base.lacks(column):
        return None
    fingerprints, devices = (
        {getattr(run, key) for run in (*ours.used, *base.used)} for key in ("fingerprints", "devices")
    )
    if len(fingerprints) > 1 or (column.is_clocked and len(devices) > 1):
        return None
    return value.mean - reference.mean


def _published_line(
    row: Mapping[str, Any], base: Mapping[str, Any], columns: Sequence[MetricColumn], labels: Sequence[str]
) -> tuple[Cell, ...]:
    cells = [*(Cell(_label(row[label])) for label in labels), Cell("paper"), Cell("")]
    for column in columns:
        value, reference = row.get(column.published or ""), base.get(column.published or "")
        digits = column.published_digits
        text = DASH if value is None else f"{value:.{digits}f}"
        if value is not None and reference is not None and row is not base:
            text += f" ({_signed(value - reference, digits)})"
        cells.append(Cell(text if column.published else ""))
    return tuple(cells)


def _records(
    about: Mapping[str, object],
    columns: Sequence[MetricColumn],
    ours: OurRow,
    base: OurRow,
    row: Mapping[str, Any],
    base_row: Mapping[str, Any],
    flags: Sequence[str],
) -> list[dict[str, object]]:
    """One for each number of a row, at full precision."""
    records = []
    for column in columns:
        value = ours.value(column)
        published, base_published = row.get(column.published or ""), base_row.get(column.published or "")
        records.append(
            {
                **about,
                "metric": column.title,
                "mean": value.mean if value else None,
                "std": value.std if value else None,
                "n": value.n if value else 0,
                "difference": difference(ours, base, column),
                "published": published,
                "published_difference": round(published - base_published, 6)
                if published is not None and base_published is not None
                else None,
                "baseline": base.experiment,
                "command": ours.command if not ours.used else None,
                "flags": "; ".join(flags),
            }
        )
    return records


def _flags(ours: OurRow, reference: tuple[str | None, str | None] | None) -> list[str]:
    flags = list(ours.flags)
    for run in ours.used:
        if run.fingerprints != reference:
            differs = [
                name for name, a, b in zip(("training", "validation"), run.fingerprints, reference or (), strict=True)
                if a != b
            ]  # fmt: skip
            flags.append(
                f"{run.run_id} has other {' and '.join(differs)} data than the table's baseline row or most of it"
            )
    if not ours.used:
        flags.append(f"no finished run; train it with `{ours.command}`")
    return flags


def _reference_data(own: Mapping[str, OurRow], baseline: str) -> tuple[str | None, str | None] | None:
    """The data of the baseline row, without one those of most runs."""
    runs = own[baseline].used or [run for row in own.values() for run in row.used]
    counts = Counter(run.fingerprints for run in runs)
    return min(counts, key=lambda prints: (-counts[prints], str(prints)), default=None)


def _remarks(own: Mapping[str, OurRow], baseline: str, columns: Sequence[MetricColumn], recipe: str) -> tuple[str, ...]:
    used = {run.run_id: run for row in own.values() for run in row.used}.values()
    remarks = [
        f"Recipe {recipe}. AP in percent; mean ± sample standard deviation over n seeds, in brackets the difference "
        f"to the row {baseline}; below each row what the paper reports for COCO val2017."
    ]
    if used:
        data = _listed({f"{run.data_name} {(run.fingerprints[1] or 'unknown')[:8]}" for run in used})
        sizes = _listed({str(run.num_val_images) for run in used if run.num_val_images is not None})
        shas = _listed({sha[:8] for run in used for sha in run.shas}) or "unknown"
        devices = _listed({device for run in used for device in run.devices}) or "unknown"
        remarks.append(f"Validation data {data} ({sizes or 'unknown'} images); code {shas}; trained on {devices}.")
        if not own[baseline].used:
            remarks.append(f"No differences of ours: the row {baseline} has no finished run.")
        if any(c.title == "FPS" and all(row.value(c) is None for row in own.values()) for c in columns):
            remarks.append("None of these runs has a measured FPS.")
        if any(c.is_clocked for c in columns):
            remarks.append(
                "FPS: of the device named, one validation image at a time, warm, without reading and resizing it. "
                "Training h: wall time over all resumes, evaluations during training included. GFLOPs: forward pass of "
                "one image, 2 x multiply-adds. Costs of different devices have no difference."
            )
    return tuple(remarks)


def epochs_remark(table: str, rows: Mapping[str, OurRow]) -> tuple[str, ...]:
    """That the rows of a table were trained for different numbers of epochs, in a sentence; nothing where not."""
    published = {float(row["epochs"]) for row in published_tables()[table]["rows"] if "epochs" in row}
    runs = [run for name in EXPERIMENTS[table] if name in rows for run in rows[name].used]
    ours = {round(run.epoch, 1) for run in runs if run.epoch is not None}
    sources = [
        f"{name} {min(found):g} to {max(found):g}"
        for name, found in (("published", published), ("here", ours))
        if len(found) > 1
    ]
    if not sources:
        return ()
    return (
        f"The rows of table {table.removeprefix('table')} differ in epochs ({', '.join(sources)}): it compares each at "
        "its own length of training, not at an equal one.",
    )


def _listed(values: set[str]) -> str:
    return ", ".join(sorted(values))


def _our_label(ours: OurRow, label: str, published: Any) -> str:
    """A label of our runs where their scale may change it, otherwise the paper's."""
    if label not in ("stages", "proposals", "epochs"):
        return _label(published)
    values = [run.epoch if label == "epochs" else run.axes.get(label) for run in ours.used]
    return "/".join(f"{value:.4g}" for value in sorted({value for value in values if value is not None})) or DASH


def _label(value: Any) -> str:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def _format(value: MeanOverSeeds, column: MetricColumn) -> str:
    spread = "" if value.std is None or column.is_counted else f" ± {value.std:.{column.digits}f}"
    return f"{value.mean:.{column.digits}f}{spread}"


def _signed(difference: float, digits: int) -> str:
    return f"{round(difference, digits) + 0.0:+.{digits}f}"
