"""Figure 4 of the paper: the proposals and stages of a finished baseline run on a validation image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from analysis.our_rows import our_rows
from sparse_rcnn.errors import UserError
from sparse_rcnn.rundir.reader import Run
from sparse_rcnn.rundir.summary import RunSummary
from sparse_rcnn.rundir.views import read_view, view_ids

BASELINE = "baseline"


def write_figure4(
    summaries: Sequence[RunSummary], recipe: str, out: Path, score_threshold: float
) -> tuple[list[Path], str]:
    """Draw the baseline's proposals and stages on a validation image, the first that can be read.

    Returns:
        The files, and why there are none.
    """
    from analysis.figures.stages import save, stages_figure  # here, so that --help needs no matplotlib

    rows = our_rows(summaries, recipe)
    used = rows[BASELINE].used if BASELINE in rows else ()
    problems = []
    for run in (summary.source for summary in used if isinstance(summary.source, Run)):
        for view_id in view_ids(run):
            try:
                view = read_view(run, view_id)
                if not view.has_stages:  # a run that overrides made into another detector
                    raise UserError(f"figure 4 needs stages; {run.path} has none")
                figure = stages_figure(view, score_threshold, with_truth=False)
            except (UserError, OSError) as error:  # damaged, or without its picture: the next one will do
                problems.append(str(error))
                continue
            paths = [out / f"figure4.{suffix}" for suffix in ("png", "pdf")]
            for path in paths:
                save(figure, path)
            return paths, ""
    reason = f"no directory of a finished run of {BASELINE} has views (eval.num_pictures)"
    return [], problems[0] if problems else reason
