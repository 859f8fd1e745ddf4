"""python -m experiments.status: the progress of a sweep, from another terminal; reads only, holds nothing up."""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from experiments.cli.mistakes import run_cli
from experiments.run.final_table import percent
from sparse_rcnn.errors import UserError
from sparse_rcnn.rundir import layout
from sparse_rcnn.rundir.run_progress import DEAD, SILENT, UNREADABLE, Overview, RunProgress, read_overview

STYLES = {
    layout.FINISHED: "green", layout.RUNNING: "bold", layout.FAILED: "red", layout.INTERRUPTED: "yellow", DEAD: "red",
    SILENT: "yellow", layout.CREATED: "dim", UNREADABLE: "yellow",
}  # fmt: skip
MAX_NOTES = 5
PIPE_WIDTH = 1000  # no cell is cut in a file or pipe


def main() -> None:
    """Parse the command line and show the table once, or until Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m experiments.status", description=__doc__)
    parser.add_argument(
        "runs_root", nargs="*", type=os.path.expanduser, default=["runs"], help="folders of runs (default: runs)"
    )
    parser.add_argument("--state", help=f"only runs in these states, with commas: {', '.join(STYLES)}")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--watch", type=float, metavar="SECONDS", help="refresh until Ctrl-C")
    form.add_argument("--json", action="store_true", help="print one JSON object and no table")
    arguments = parser.parse_args()
    if arguments.watch is not None and not 0 < arguments.watch < math.inf:
        parser.error("--watch must be a positive number of seconds")
    run_cli(lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> None:
    states = _parse_states(arguments.state)
    console = Console()
    if not console.is_terminal:
        console = Console(width=PIPE_WIDTH)
    if arguments.json:
        print(json.dumps(_as_json(read_overview(arguments.runs_root), states), indent=2))
    elif arguments.watch is None:
        console.print(render(read_overview(arguments.runs_root), states, arguments.runs_root))
    else:
        _watch(arguments, states, console)


def _watch(arguments: argparse.Namespace, states: set[str] | None, console: Console) -> None:
    def show() -> Group:
        rows = max(3, console.height - MAX_NOTES - 8) if console.is_terminal else None
        return render(read_overview(arguments.runs_root), states, arguments.runs_root, rows)

    # The first one outside: an absent folder is told before the screen is touched.
    with contextlib.suppress(KeyboardInterrupt), Live(show(), console=console, auto_refresh=False) as live:
        while True:
            live.refresh()
            time.sleep(arguments.watch)
            live.update(show())


def _parse_states(text: str | None) -> set[str] | None:
    if text is None:
        return None
    states = {name.strip() for name in text.split(",") if name.strip()}
    wrong = ", ".join(sorted(states - set(STYLES)))
    if wrong or not states:
        raise UserError(f"--state: there is no state {wrong or text!r} (states: {', '.join(STYLES)})")
    return states


def render(overview: Overview, states: set[str] | None, roots: Sequence[str], rows: int | None = None) -> Group:
    """The table, the errors, the damaged checkpoints and the summary.

    Args:
        states: show only these; all are counted.
        roots: named where there is no run under them.
        rows: the most that fit; finished runs are left out first.
    """
    chosen = [run for run in overview.runs if states is None or run.state in states]
    first = sorted(chosen, key=lambda run: (run.state == layout.FINISHED, run.state != layout.RUNNING))[:rows]
    shown = [run for run in chosen if run in first]
    parts: list[Any] = [_table(shown)] if shown else []
    notes = [Text(f"{run.state}: {_who(run)}: {run.error}", "red") for run in chosen if run.error]
    notes += [
        Text(f"checkpoint set aside: {_who(run)}: {line}", "yellow") for run in chosen for line in run.summary.set_aside
    ]
    parts += notes[: None if rows is None else MAX_NOTES]
    if len(shown) < len(chosen):
        parts.append(Text(f"and {len(chosen) - len(shown)} more runs: see --state, or leave out --watch", "dim"))
    for paths, what in ((overview.foreign, "no runs"), (overview.newer, "of a newer schema, update this program")):
        if paths:
            more = f" and {len(paths) - MAX_NOTES} more" if len(paths) > MAX_NOTES else ""
            parts.append(Text(f"{what}: {', '.join(paths[:MAX_NOTES])}{more}", "dim"))
    parts.append(Text(summary(overview.runs) if overview.runs else f"no runs yet in {', '.join(map(str, roots))}"))
    return Group(*parts)


def summary(runs: Sequence[RunProgress]) -> str:
    """How many runs are in which state, and when the last of the running ones is through its steps."""
    counts = Counter(run.state for run in runs)
    text = f"{len(runs)} run{'s' if len(runs) > 1 else ''}: "
    text += ", ".join(f"{counts[state]} {state}" for state in {**STYLES, **counts} if counts[state])
    etas = [run.eta for run in runs if run.eta is not None]
    if etas:
        text += f"; the running ones end in {_duration(max(etas))}"
    unknown = counts[layout.RUNNING] - len(etas)
    return text + (f" ({unknown} without an ETA)" if etas and unknown else "")


def _table(runs: Sequence[RunProgress]) -> Table:
    table = Table(box=None, pad_edge=False, collapse_padding=True)
    for name in ("experiment", "seed", "recipe", "state", "epoch", "step", "AP", "img/s", "ETA", "age", "on"):
        left = name in ("experiment", "recipe", "state", "on")
        # On a narrow screen the names give way, never the numbers.
        table.add_column(name, justify="left" if left else "right", no_wrap=name not in ("experiment", "on"))
    for run in runs:
        step, total = run.step, run.num_steps
        progress = f"{step}/{total} {100 * step / total:3.0f}%" if step is not None and total else step
        where = "/".join(str(part) for part in (run.host, run.device) if part)
        ap, epoch = _form(percent, run.ap), _form("{:.1f}".format, run.epoch)
        speed = _form("{:.1f}".format, run.images_per_second)
        eta, age = _form(_duration, run.eta), _form(_age, run.age)
        cells = (run.summary.name, run.summary.seed, run.recipe, run.state, epoch, progress, ap, speed, eta, age, where)
        # As Text, because markup in it is meant literally.
        row = (Text("-" if cell is None else str(cell), no_wrap=True, overflow="ellipsis") for cell in cells)
        table.add_row(*row, style=STYLES.get(run.state, "yellow"))
    return table


def _who(run: RunProgress) -> str:
    return f"{run.summary.name} seed {run.summary.seed}"


def _fields(run: RunProgress) -> dict[str, Any]:
    own = {name: value for name, value in vars(run).items() if name not in ("summary", "path")}
    summary = run.summary
    about = {"path": str(run.path), "run_id": summary.run_id, "experiment": summary.name, "seed": summary.seed}
    return {**about, "experiments": list(summary.experiments), "set_aside": list(summary.set_aside), **own}


def _form(form: Callable[[Any], str], value: Any) -> str | None:
    return None if value is None else form(value)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours < 48 else f"{hours // 24} days"


def _age(seconds: float) -> str:
    units = ((86400, "d"), (3600, "h"), (60, "m"), (1, "s"))
    return next((f"{seconds // size:.0f}{unit}" for size, unit in units if seconds >= size), "0s")


def _as_json(overview: Overview, states: set[str] | None) -> dict[str, Any]:
    runs = [_fields(run) for run in overview.runs if states is None or run.state in states]
    counts = Counter(run.state for run in overview.runs)
    return {"runs": runs, "counts": counts, "foreign": overview.foreign, "newer": overview.newer}


if __name__ == "__main__":
    main()
