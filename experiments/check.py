"""python -m experiments.check: every row composed and built, against the baseline, with what it would cost."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.cli.hydra_entry import CONF_DIR
from experiments.cli.mistakes import TRACEBACK_VARIABLE, describe_mistake, run_cli
from experiments.cli.overrides import readable_overrides
from experiments.config import schema
from experiments.config.row_files import detector_of_row
from experiments.config.rows import added_folders, compose_row
from experiments.sweep import hydra_plugins
from sparse_rcnn.data.findings import counted
from sparse_rcnn.errors import UserError
from sparse_rcnn.places import user_path
from sparse_rcnn.rundir.changes import Change, changes, shorten, texts, value_text
from sparse_rcnn.rundir.identity import compared_config

if TYPE_CHECKING:
    from experiments.run.cost import Cost

BASELINE = "baseline"
RECIPES = ("paper", "mini")
SUSTAINED_TFLOPS = 6.1
COLUMNS = ("row", "changes", "parameters", "trainable", "GFLOPs", "images", "GPU-hours")
WIDTH = 140  # of the table where stdout is no terminal
DESCRIPTION = f"""\
Compose, validate and build (on the meta device) every row of conf/experiment/, and print what each changes from the
baseline, which rows are equal, and what each costs:

  GFLOPs     forward pass of one image at the evaluation size of the recipe, 2 x multiply-adds, those of RoI
             pooling included; norms and elementwise operations are not counted.
  images     of the whole training, repetitions counted.
  GPU-hours  an estimate, not a measurement: 3 x forward FLOPs x images of the training / sustained FLOP/s.
             The default of --sustained-tflops, {SUSTAINED_TFLOPS} for each of 8 V100, follows by the same formula from
             the training time that the paper states for its R50 baseline.
             Heads are slower than their FLOPs say: expect too few hours for 12 stages or 500 proposals, too many for
             one stage. For other GPUs and for small models give another rate.

Exit code 1 where a row does not compose or build; the others are shown. With detector=NAME the rows are those of that
detector.

With data=... or data.KEY=... among the overrides, the data are checked in place of the rows: all annotations are read,
all pictures decoded, and everything found is listed: missing and broken pictures, pictures of another size than their
record, boxes in another format, dropped or clipped, classes without boxes, crowds, pictures in train and in val.

  python -m experiments.check recipe=photos data.train.annotations=JSON data.train.images=DIR data.val...

Exit code 1 where there is a fault that a training would end with."""

schema.register()
hydra_plugins.register()


@dataclass
class CheckedRow:
    """One row under one recipe.

    Attributes:
        name: of its file in conf/experiment, or the override that makes it, where none does.
        compared: the part of its configuration that is compared; empty where it failed.
        cost: None where it failed.
        changes: from the baseline, all of them.
        equals: an earlier row with the same configuration, or None.
        error: why it does not compose or build, in one line, or None.
    """

    name: str
    compared: dict[str, Any] = field(default_factory=dict)
    cost: Cost | None = None
    changes: list[Change] = field(default_factory=list)
    equals: str | None = None
    error: str | None = None


def main(arguments: Sequence[str] | None = None, conf_dir: Path = CONF_DIR) -> None:
    """Parse the command line and check the rows.

    Raises:
        SystemExit: with code 1 where a row fails or an override is wrong, 2 for an unreadable command line.
    """
    parser = argparse.ArgumentParser(
        prog="python -m experiments.check", description=DESCRIPTION, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="as for experiments.train, on every row")
    parser.add_argument(
        "--config-dir", "-cd", type=user_path, action="append", default=[], metavar="DIR",
        help="a folder with rows, detectors or parts of your own, as for experiments.train; may be given again",
    )  # fmt: skip
    parser.add_argument("--recipe", metavar="NAME", help="paper, mini, ... (default: paper, then mini)")
    parser.add_argument(
        "--sustained-tflops", type=float, default=SUSTAINED_TFLOPS, metavar="X",
        help=f"what a GPU sustains in training, 1e12 FLOP/s (default {SUSTAINED_TFLOPS}, see above)",
    )  # fmt: skip
    parser.add_argument("--markdown", action="store_true", help="print Markdown tables")
    parser.add_argument(
        "--write-rows", type=user_path, metavar="FILE",
        help="instead, write every row's full differences under paper and mini (tests/golden/rows.txt)",
    )  # fmt: skip
    parser.add_argument(
        "--add-identities", type=user_path, metavar="FILE",
        help="instead, add the identities of rows and recipes that are not in the file (tests/golden/identities.json)",
    )  # fmt: skip
    args = parser.parse_intermixed_args(arguments)
    if not 0 < args.sustained_tflops < float("inf"):
        parser.error("--sustained-tflops must be above 0")
    if (args.write_rows or args.add_identities) and (args.recipe is not None or args.overrides or args.config_dir):
        option = "--write-rows" if args.write_rows else "--add-identities"
        parser.error(
            f"{option} takes neither a recipe nor overrides nor --config-dir: the file is that of the suite's rows as "
            "they are"
        )
    if args.write_rows:
        run_cli(lambda: _write_rows(args.write_rows, conf_dir))
    elif args.add_identities:
        run_cli(lambda: _add_identities(args.add_identities, conf_dir))
    else:
        run_cli(lambda: _check(args, conf_dir))


def _check(args: argparse.Namespace, conf_dir: Path) -> None:
    search_path = added_folders(args.config_dir)
    recipes, overrides = list(RECIPES) if args.recipe is None else [args.recipe], []
    experiment = None
    for override in readable_overrides(args.overrides, schema.is_text, multirun=False):
        key, _, value = override.partition("=")
        if key == "experiment":
            experiment = value
        elif key == "recipe":  # as experiments.train spells it
            recipes = [value]
        else:
            overrides.append(override)
    if any(is_data_override(override) for override in overrides):
        recipe = recipes[0] if args.recipe or len(recipes) == 1 else "mini"
        _check_data(recipe, experiment, overrides, conf_dir, search_path)
        return
    if experiment is not None:
        raise UserError("experiment: every row is checked; leave it out")
    failed = []
    for recipe in recipes:
        rows = check_rows(recipe, overrides, conf_dir, search_path=search_path)
        print_rows(rows, recipe, args.sustained_tflops, args.markdown)
        failed += [f"{row.name} (recipe={recipe})" for row in rows if row.error is not None]
    if failed:
        raise UserError(f"{len(failed)} rows do not compose or build, see above: {', '.join(failed)}")


def is_data_override(override: str) -> bool:
    """Whether an override is of the data."""
    return override.lstrip("+").partition("=")[0].split(".")[0] == "data"


def _check_data(
    recipe: str, experiment: str | None, overrides: Sequence[str], conf_dir: Path, search_path: Sequence[str]
) -> None:
    config = compose_row(recipe, experiment or BASELINE, overrides, conf_dir, False, search_path)
    from experiments.run.data_report import check_data, num_faults, print_report
    from experiments.run.embedded_data import ensure_data

    ensure_data(config)
    reports = check_data(config)
    print_report(reports)
    if number := num_faults(reports):
        raise UserError(f"{counted(number, 'kind')} of fault in the data, see above")


def check_rows(
    recipe: str,
    overrides: Sequence[str] = (),
    conf_dir: Path = CONF_DIR,
    with_cost: bool = True,
    search_path: Sequence[str] = (),
) -> list[CheckedRow]:
    """Every row under a recipe, the baseline first; without cost they are composed and validated only.

    Where the overrides choose a detector, the rows are its own and the first is the one of its name; where no file has
    that, it is the detector as it stands.

    Args:
        search_path: more configuration folders, as ``--config-dir`` of the train command.

    Raises:
        UserError, Hydra's errors: of the first row, which is what the others are compared with.
    """
    folders = (str(conf_dir), *search_path)
    names = sorted({path.stem for folder in folders for path in (Path(folder) / "experiment").glob("*.yaml")})
    if BASELINE not in names:
        raise UserError(f"{conf_dir / 'experiment'}: there is no {BASELINE}.yaml to compare the rows with")
    rows: list[CheckedRow] = []
    chosen = [override.partition("=")[2] for override in overrides if override.partition("=")[0] == "detector"]
    if chosen:
        default = compose_row(recipe, BASELINE, (), conf_dir)["detector"]["name"]
        names = [name for name in names if detector_of_row(name, folders, default) == chosen[-1]]
    first = chosen[-1] if chosen and BASELINE not in names and chosen[-1] in names else BASELINE
    for name in [first, *(name for name in names if name != first)]:
        row = CheckedRow(name if name in names else f"detector={chosen[-1]}")
        try:
            config = compose_row(recipe, name, overrides, conf_dir, search_path=search_path)
            row.cost = _built_cost(config) if with_cost else None
            row.compared = compared_config(config)
        except Exception as error:
            row.error = _describe(error)
            if row.error is None or name == first or os.environ.get(TRACEBACK_VARIABLE) == "1":
                raise
        else:
            row.changes = changes((rows[0] if rows else row).compared, row.compared)
            same = [r.name for r in rows if r.error is None and not changes(r.compared, row.compared)]
            row.equals = same[0] if same else None
        rows.append(row)
    return rows


def print_rows(rows: Sequence[CheckedRow], recipe: str, sustained_tflops: float, markdown: bool) -> None:
    """Print the matrix of one recipe and what its numbers mean; the first row is the baseline."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from experiments.run.cost import footnote

    note = footnote([row.cost for row in rows if row.cost is not None], sustained_tflops)
    title = f"recipe={recipe}: {counted(len(rows), 'row')} against {rows[0].name}"
    lines = [_cells(row, sustained_tflops) for row in rows]
    if markdown:
        print(f"### {title}\n")
        for line in (COLUMNS, ("---", "---", *["---:"] * (len(COLUMNS) - 2)), *lines):
            print("| " + " | ".join(cell.replace("|", "\\|").replace("\n", "<br>") for cell in line) + " |")
        print(f"\n{note}\n")
        return
    table = Table(title=Text(title), caption=Text(note), caption_justify="left")
    for i, name in enumerate(COLUMNS):
        table.add_column(name, justify="right" if i > 1 else "left", overflow="fold", no_wrap=i > 1)
    for row, line in zip(rows, lines, strict=True):
        style = "red" if row.error is not None else "dim" if row.equals is not None else None
        table.add_row(*map(Text, line), style=style)
    Console(width=None if sys.stdout.isatty() else WIDTH).print(table)


def _cells(row: CheckedRow, sustained_tflops: float) -> tuple[str, ...]:
    """The texts of one row, in the order of the columns; changes are one to a line."""
    if row.cost is None:
        return row.name, f"ERROR {row.error}", *["-"] * (len(COLUMNS) - 2)
    equal = [f"= {row.equals}"] if row.equals is not None else []
    return row.name, "\n".join([*equal, *texts(shorten(row.changes))]), *row.cost.cells(sustained_tflops)


def rows_text(conf_dir: Path = CONF_DIR) -> str:
    """Every row's full differences from the baseline under paper and mini, and the baselines themselves.

    Sections begin with `[recipe row]`; a line is `key: value` of the baseline, `key: old -> new` of others.

    Raises:
        UserError: a row does not compose.
    """
    lines = ["# Written by: python -m experiments.check --write-rows tests/golden/rows.txt"]
    for recipe in RECIPES:
        for row in check_rows(recipe, conf_dir=conf_dir, with_cost=False):
            if row.error is not None:
                raise UserError(f"{row.name} (recipe={recipe}): {row.error}")
            content = texts(row.changes)
            if row.name == BASELINE:
                content = [f"{change.key}: {value_text(change.new)}" for change in changes({}, row.compared)]
            lines += ["", f"[{recipe} {row.name}]", *(content or [f"= {BASELINE}"])]
    return "\n".join(lines) + "\n"


def _write_rows(path: Path, conf_dir: Path) -> None:
    from sparse_rcnn.atomic import write_bytes_atomic

    write_bytes_atomic(path, rows_text(conf_dir).encode())
    print(path)


def _add_identities(path: Path, conf_dir: Path) -> None:
    """Identities that are in the file stay: they are those of runs that people have."""
    from experiments.run.fingerprints import stand_in_identity
    from sparse_rcnn.rundir.json_files import read_object, write_json_atomic

    known = read_object(path) if path.exists() else {}
    recipes, names = (sorted(p.stem for p in (conf_dir / group).glob("*.yaml")) for group in ("recipe", "experiment"))
    for recipe in recipes:
        own = known.setdefault(recipe, {})
        for name in names:
            if name not in own:
                own[name] = stand_in_identity(compose_row(recipe, name, (), conf_dir))
                print(f"{recipe} {name}: {own[name]}")
    write_json_atomic(path, {recipe: dict(sorted(own.items())) for recipe, own in sorted(known.items())})


def _built_cost(config: dict[str, Any]) -> Cost:
    from experiments.config.build import dry_build
    from experiments.run.cost import cost_of

    # Which weights a backbone starts from is compared; whether this machine has them is not asked.
    dry_build({**config, "weights": {**config["weights"], "backbone": None}})
    return cost_of(config)


def _describe(error: Exception) -> str | None:
    from yaml import YAMLError

    if isinstance(error, YAMLError):
        return f"not YAML: {' '.join(str(error).split())}"
    return describe_mistake(error)


if __name__ == "__main__":
    main()
