"""python -m experiments.verify: whether the files of runs are what was written."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.cli.mistakes import run_cli
from sparse_rcnn.errors import UserError
from sparse_rcnn.places import user_path
from sparse_rcnn.rundir import layout
from sparse_rcnn.rundir.checkpoints import checkpoint_path, damaged, problem_of, set_aside
from sparse_rcnn.rundir.find import find_places
from sparse_rcnn.rundir.verification import RunVerification, verify_run
from sparse_rcnn.rundir.writer import RunDirectory

PIPE_WIDTH = 1000  # no cell is cut in a file or pipe
DESCRIPTION = """\
Compare all files of runs with the digests that were taken when they were written: checkpoints, weights, evaluations,
views, results, detections, configuration (docs/run_directory.md, "Digests"). Files of older programs have none; they
are counted, and read as far as their format shows damage. Runs may be in training.

Exit code 1 where anything is damaged or missing. Nothing is changed without --set-aside, and nothing is ever deleted.
A run that goes on sets a damaged newest checkpoint aside itself, and one with damaged results writes them anew when it
is started again; all else is restored from a copy."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line, verify, print."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.verify",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "runs", nargs="*", type=user_path, default=[Path("runs")], help="runs, or folders of runs (default: runs)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object and no table")
    parser.add_argument(
        "--set-aside",
        action="store_true",
        help="rename damaged checkpoints to damaged-..., so that none is loaded; not of a run in training",
    )
    args = parser.parse_args(arguments)
    run_cli(lambda: verify(args))


def verify(args: argparse.Namespace) -> None:
    """Verify all runs under the given folders.

    Raises:
        UserError: there are faults, or a folder does not exist.
    """
    from tqdm import tqdm

    places = [find_places(root) for root in args.runs]
    paths = list({path.resolve(): path for place in places for path in place.runs}.values())
    foreign = sorted({str(path) for place in places for path in place.foreign})
    found = []
    for path in tqdm(paths, desc="verify", unit="run", disable=None):
        run = verify_run(path)
        if args.set_aside and run.damaged_steps and set_damaged_aside(path, run.damaged_steps):
            run = verify_run(path)
        found.append(run)
    if args.json:
        print(json.dumps({"runs": [_fields(run) for run in found], "foreign": foreign}, indent=2))
    else:
        _print(found, foreign)
    num_faults = sum(len(run.faults) for run in found)
    if num_faults:
        faulty = sum(bool(run.faults) for run in found)
        raise UserError(f"{_counted(num_faults, 'fault')} in {faulty} of {_counted(len(found), 'run')}, see above")


def set_damaged_aside(path: Path, steps: Sequence[int]) -> bool:
    """Set damaged checkpoints of a run aside; False, and a line on stderr, where another process holds the run."""
    try:
        directory = RunDirectory(path)
        with directory.lock():
            for step in steps:
                checkpoint = checkpoint_path(path / layout.CHECKPOINTS, step)
                if (problem := problem_of(checkpoint)) is not None:
                    found = damaged(checkpoint, problem)
                    directory.record_set_aside(found.aside.name, problem)
                    set_aside(found)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return False
    return True


def _print(found: Sequence[RunVerification], foreign: Sequence[str]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    if not console.is_terminal:
        console = Console(width=PIPE_WIDTH)
    table = Table(box=None, pad_edge=False, collapse_padding=True)
    for name in ("run", "state", "as written", "no digest", "MB", "faults"):
        left = name in ("run", "state")
        table.add_column(name, justify="left" if left else "right", no_wrap=name != "run")
    for run in found:
        numbers = (run.num_whole, run.num_without_digest, f"{run.num_bytes / 1e6:.1f}", len(run.faults) or "none")
        style = "red" if run.faults else "yellow" if run.notes else "green"
        table.add_row(*(Text(str(cell)) for cell in (run.name, run.state or "-", *numbers)), style=style)
    if found:
        console.print(table)
    for run in found:
        for line in run.faults:
            console.print(Text(f"fault: {run.path}/{line}", "red"), soft_wrap=True)
        for line in run.notes:
            console.print(Text(f"note: {run.path}/{line}", "yellow"), soft_wrap=True)
    if foreign:
        console.print(Text(f"no runs: {', '.join(foreign)}", "dim"), soft_wrap=True)
    num_whole = sum(run.num_whole for run in found)
    num_without = sum(run.num_without_digest for run in found)
    text = f"{_counted(len(found), 'run')}: {_counted(num_whole, 'file')} as written"
    console.print(f"{text}, {num_without} without a digest, of older programs" if num_without else text)


def _fields(run: RunVerification) -> dict[str, Any]:
    return {**vars(run), "path": str(run.path)}


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


if __name__ == "__main__":
    main()
