"""python -m experiments.rows: record which rows of conf/experiment runs are, such as runs older than a row."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from experiments.cli.mistakes import run_cli
from experiments.config import schema
from sparse_rcnn.errors import UserError
from sparse_rcnn.places import user_path
from sparse_rcnn.rundir.find import find_places
from sparse_rcnn.rundir.writer import RunDirectory

schema.register()


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line and record the rows."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.rows",
        description="Compare each run with the rows of conf/experiment under its recipe, and record in its "
        "experiments.json which of them it is. A run records that itself when it is created; this adds it to runs that "
        "are older than a row or than this record. Nothing else of a run changes.",
    )
    parser.add_argument(
        "runs", nargs="*", type=user_path, default=[Path("runs")], help="folders of runs (default: runs)"
    )
    parser.add_argument(
        "--config-dir", type=user_path, action="append", default=[], metavar="DIR",
        help="a folder with rows of your own, as for experiments.train; may be given again",
    )  # fmt: skip
    args = parser.parse_args(arguments)
    run_cli(lambda: record_rows(args.runs, args.config_dir))


def record_rows(roots: Sequence[Path], config_dirs: Sequence[Path] = ()) -> None:
    """Record the rows of all runs under some folders.

    Raises:
        UserError: a root or one of ``config_dirs`` is not a folder; or a run cannot be read or written, the others are
            done.
    """
    from tqdm import tqdm

    from experiments.config.rows import added_folders, compare_with_rows

    search_path = added_folders(config_dirs)
    paths = [path for root in roots for path in find_places(root).runs]
    num_changed, failures = 0, []
    for path in tqdm(paths, desc="rows", unit="run", disable=None):
        try:
            directory = RunDirectory(path)
            before = directory.experiments
            if compare_with_rows(directory, search_path):
                num_changed += 1
                print(f"{path}: {', '.join(before)} -> {', '.join(directory.experiments)}")
        except UserError as error:
            failures.append(path)
            print(f"error: {error}", file=sys.stderr)
    print(f"updated {num_changed} of {len(paths)} runs")
    if failures:
        raise UserError(f"{len(failures)} of {len(paths)} runs could not be compared, see above")


if __name__ == "__main__":
    main()
