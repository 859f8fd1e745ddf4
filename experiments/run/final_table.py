"""What a finished run says at its end."""

from __future__ import annotations

import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from sparse_rcnn.rundir import layout, metric_keys
from sparse_rcnn.rundir.reader import Run

COLUMNS = ("AP", "AP50", "AP75", "APs", "APm", "APl")


def print_final_table(path: Path) -> None:
    """A short table of a finished run, its directory and its picture."""
    run = Run(path)
    results = run.results
    assert results is not None, "not finished"
    table = Table(title=f"{run.name} ({run.meta['recipe']}), seed {run.meta['seed']}")
    table.add_column("output")
    for name in (*COLUMNS, "time"):
        table.add_column(name, justify="right")
    for s in metric_keys.stages_in(results)[:-1]:
        table.add_row(f"stage {s}", *(percent(results[metric_keys.stage(s, c)]) for c in COLUMNS), "", style="dim")
    elapsed = time.strftime("%H:%M:%S", time.gmtime(results[metric_keys.TRAIN_SECONDS]))
    table.add_row("detector", *(percent(results[metric_keys.bbox(c)]) for c in COLUMNS), elapsed)
    Console(soft_wrap=True).print(table)
    print(f"run directory: {path}")
    picture = path / layout.PICTURE
    if picture.exists():
        print(f"detections:    {picture}")


def percent(value: float | None) -> str:
    """A fraction in percent; a dash for COCO's -1, which is no ground truth, and for null, which is no number."""
    return "-" if value is None or value < 0 else f"{100 * value:.1f}"
