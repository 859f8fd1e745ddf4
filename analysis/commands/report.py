"""python -m analysis report: tables, tests, order and figure of a suite as one Markdown page."""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from analysis.arguments import add_bootstrap_arguments, add_run_arguments, check_bootstrap_arguments
from analysis.comments import Comments, read_comments
from analysis.figures.convergence import curves, write_figure1
from analysis.figures.figure4 import write_figure4
from analysis.our_rows import COLUMNS, OurRow, baseline_of, missing_row, on_same_data, our_rows
from analysis.paper.rows import EXPERIMENTS, experiments_of, published_rows, published_tables
from analysis.statistics.coco_columns import load_detections, load_ground_truth
from analysis.statistics.comparison import compare
from analysis.statistics.measured_suite import MeasuredSuite, measure_suite
from analysis.statistics.suppression import NMS_IOU
from analysis.summaries import choose_recipe, load_summaries
from analysis.tables.agreement_table import agreements, pair_lines
from analysis.tables.comparison_table import comparison_grid
from analysis.tables.error_tables import MIN_SCORE, error_grids
from analysis.tables.formats import DASH, Grid, grid, render
from analysis.tables.paper_tables import build_table
from analysis.tables.suppression_table import NamedDetections, suppression_grid
from sparse_rcnn.atomic import write_bytes_atomic
from sparse_rcnn.errors import UserError
from sparse_rcnn.places import user_path
from sparse_rcnn.rundir import layout, metric_keys
from sparse_rcnn.rundir.summary import RunSummary

COMMENTS = "comments.md"
PAGE = "README.md"
FIGURE4_SCORE = 0.3
PAPER_RECIPE = "paper"  # under which the published numbers were trained
SECTIONS = ("overview", "figure1", "figure4", "order", *EXPERIMENTS, "beside", "nms", "errors")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_run_arguments(parser)
    add_bootstrap_arguments(parser)
    parser.add_argument(
        "--out",
        type=user_path,
        default=Path("docs/results"),
        metavar="DIR",
        help=f"folder for {PAGE} and the figures (default docs/results); a {COMMENTS} there is taken into the page",
    )


def run(args: argparse.Namespace) -> None:
    check_bootstrap_arguments(args)
    summaries = load_summaries(args.runs)
    recipe = choose_recipe(summaries, args.recipe)
    comments = read_comments(args.out / COMMENTS, SECTIONS)
    rows = our_rows(summaries, recipe)
    tests = measure_suite(rows, args.annotations, args.resamples, args.seed)
    figure, figure4 = _figure(summaries, recipe, args.out), _figure4(summaries, recipe, args.out)
    nms, errors = _suppression(rows, args.annotations), _errors(rows, args.annotations)
    page = build_page(rows, recipe, comments, tests, args.confidence, figure, figure4, nms, errors)
    if recipe != PAPER_RECIPE:
        page += f"\n{_paper_scale(our_rows(summaries, PAPER_RECIPE))}\n"
    write_bytes_atomic(args.out / PAGE, page.encode())
    print(args.out / PAGE)


def fingerprint(rows: Mapping[str, OurRow]) -> str:
    """Twelve hex digits of which runs are used and of the AP of each."""
    used = {run.run_id: run.values.get(metric_keys.AP) for row in rows.values() for run in row.used}
    return hashlib.sha256(json.dumps(used, sort_keys=True).encode()).hexdigest()[:12]


def build_page(
    rows: Mapping[str, OurRow],
    recipe: str,
    comments: Comments,
    tests: MeasuredSuite,
    confidence: float,
    figure: str,
    figure4: str,
    nms: str,
    errors: str,
) -> str:
    """The whole page."""
    wanted = set(experiments_of(*EXPERIMENTS))
    done = sorted(name for name in wanted if name in rows and rows[name].used)
    num_runs = len({run.run_id for name in done for run in rows[name].used})
    order, by_table = agreements(rows, recipe)
    prose, numbers = comments.sections, fingerprint(rows)
    stale = comments.written_for not in (None, numbers)
    parts = [
        f"# Results, recipe {recipe}",
        f"Written by `python -m analysis report --recipe {recipe}`; prose comes from a hand-written `{COMMENTS}` "
        "beside this page, which stays when the page is written anew.",
        f"{len(done)} of the {len(wanted)} rows have finished runs, {num_runs} runs in all"
        + (
            f"; missing: {', '.join(f'`{name}`' for name in sorted(wanted - set(done)))}."
            if done != sorted(wanted)
            else "."
        ),
        f"Numbers `{numbers}`."
        + (f" **The prose was written for `{comments.written_for}`: it may not fit these numbers.**" if stale else ""),
        prose.get("overview", ""),
        "## Figure 1: convergence",
        figure,
        prose.get("figure1", ""),
        "## Figure 4: one image, stage by stage",
        figure4,
        prose.get("figure4", ""),
        "## Does the order of rows agree?",
        render([replace(order, title="")], "markdown").strip(),
        prose.get("order", ""),
    ]
    if tests.reason is not None:
        parts.append(f"No tests of differences: {tests.reason}.")
    if tests.left_out:
        parts.append(f"Left out of the tests of differences: {', '.join(tests.left_out)}.")
    for table in EXPERIMENTS:
        parts.append(f"## Table {table.removeprefix('table')}: {published_tables()[table]['title']}")
        # The section's heading is the table's title.
        grids = [replace(build_table(table, rows, recipe), title=""), *_tests_of(table, tests, confidence)]
        parts += [render([item], "markdown").strip() for item in grids]
        parts += ["\n".join(f"- {line}" for line in pair_lines(by_table[table])), prose.get(table, "")]
    if beside := _beside(rows):
        parts += ["## Rows that are in no table", beside, prose.get("beside", "")]
    parts += ["## Duplicates before and after NMS", nms, prose.get("nms", "")]
    parts += ["## Where the baseline's AP comes from", errors, prose.get("errors", "")]
    return "\n\n".join(part for part in parts if part) + "\n"


def _tests_of(table: str, tests: MeasuredSuite, confidence: float) -> list[Grid]:
    base = baseline_of(table)
    if tests.measured is None or base not in tests.index:
        return []
    names = [name for name in experiments_of(table) if name in tests.index]
    others = [index for index in dict.fromkeys(tests.index[name] for name in names) if index != tests.index[base]]
    if not others:
        return []
    # A configuration that is several rows goes by this table's name.
    labels = list(tests.measured.names)
    for name in (*names, base):
        labels[tests.index[name]] = name
    measured = replace(tests.measured, names=tuple(labels))
    comparisons = compare(measured, tests.index[base], others, confidence)
    return [comparison_grid(measured, tests.index[base], comparisons, confidence, f"Differences to {base}, tested")]


def _beside(rows: Mapping[str, OurRow]) -> str:
    """AP of the rows that the paper has in its text alone, or not at all."""
    (ap,) = (column for column in COLUMNS if column.title == "AP")
    lines = []
    _, on_other_data = on_same_data(rows)
    for name in sorted(rows.keys() - set(experiments_of(*EXPERIMENTS))):
        value = rows[name].value(ap)
        if value is not None:
            spread = "" if value.std is None else f" ± {value.std:.1f}"
            flags = [*rows[name].flags, *(["trained or evaluated on other data"] if name in on_other_data else [])]
            lines.append([name, str(value.n), f"{value.mean:.1f}{spread}", "; ".join(flags)])
    return render([grid("", ["row", "n", "AP", "flags"], lines)], "markdown").strip() if lines else ""


def _paper_scale(rows: Mapping[str, OurRow]) -> str:
    """The rows at the scale of the published numbers: a dash and a command until someone has trained them."""
    (ap,) = (column for column in COLUMNS if column.title == "AP")
    published = {row.experiment: row.ap for table in EXPERIMENTS for row in published_rows(table)}
    lines = []
    for name in experiments_of(*EXPERIMENTS):
        row = rows.get(name, missing_row(name, PAPER_RECIPE))
        value = row.value(ap)
        lines.append(
            [
                name,
                f"{published[name]:.1f}",
                DASH if value is None else f"{value.mean:.1f}",
                row.command if value is None else "; ".join(row.flags),
            ]
        )
    table = render(
        [grid("", ["row", "published AP", "ours", "flags, or the command that trains it"], lines)], "markdown"
    ).strip()
    return f"## At the paper's own scale, recipe {PAPER_RECIPE}\n\n{table}"


def _figure(summaries: Sequence[RunSummary], recipe: str, out: Path) -> str:
    try:
        write_figure1(summaries, recipe, out)
    except UserError as error:
        return f"No figure: {error}."
    text = "![AP over epochs and over time of work](figure1.png)\n\nAlso as [PDF](figure1.pdf)."
    if all(len(curve.epochs) == 1 for curve in curves(summaries, recipe)):
        text += " These runs were evaluated once, at their end: a curve needs `eval.every_epochs`."
    return text


def _figure4(summaries: Sequence[RunSummary], recipe: str, out: Path) -> str:
    _, reason = write_figure4(summaries, recipe, out, FIGURE4_SCORE)
    if reason:
        return f"No figure: {reason}."
    return (
        "![The baseline's proposals and stages](figure4.png)\n\nThe baseline's learned proposals, then the boxes that "
        f"each stage scores {FIGURE4_SCORE:g} or more, one colour per proposal. Also as [PDF](figure4.pdf)."
    )


def _suppression(rows: Mapping[str, OurRow], annotations: Path | None) -> str:
    """The effect of NMS on the first seed of each row of table 1, on the data that most are on."""
    done = {name: rows[name] for name in EXPERIMENTS["table1"] if name in rows and rows[name].used}
    same, _ = on_same_data(done)
    runs = {name: row.used[0].directory for name, row in same.items()}
    runs = {name: run for name, run in runs.items() if (run.path / layout.DETECTIONS).is_file()}
    if not runs:
        return "No row of table 1 has a finished run with detections."
    try:
        truth = load_ground_truth(next(iter(runs.values())), annotations)
        named = [NamedDetections(name, run, {"detections": load_detections(run, truth)}) for name, run in runs.items()]
    except UserError as error:
        return f"No table: {error}."
    table = suppression_grid(truth, named, MIN_SCORE, NMS_IOU)
    return "Of the first seed of each row of table 1.\n\n" + render([replace(table, title="")], "markdown").strip()


def _errors(rows: Mapping[str, OurRow], annotations: Path | None) -> str:
    used = rows["baseline"].used if "baseline" in rows else ()
    if not used:
        return "The row `baseline` has no finished run."
    try:
        grids = error_grids([used[0].directory], annotations)
    except UserError as error:
        return f"No breakdown: {error}."
    return f"Of {used[0].run_id}.\n\n" + render(grids, "markdown").strip()
