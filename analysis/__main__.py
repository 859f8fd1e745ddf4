"""python -m analysis COMMAND: what finished runs say. Reads run directories; `--help` lists the commands."""

from __future__ import annotations

import argparse
import importlib
import io
import sys
from collections.abc import Sequence

from sparse_rcnn.errors import UserError

# Each module has a docstring of one sentence, `add_arguments(parser)` and `run(args)`, and is imported when it is asked
# for: pandas or a plotting library cost seconds.
COMMANDS = {
    "dashboard": ("analysis.commands.dashboard", "one HTML page to compare runs on, without network"),
    "stages": ("analysis.commands.stages", "one image stage by stage, the learned boxes, where the dynamic head looks"),
    "tables": (
        "analysis.commands.tables",
        "the paper's tables 1 to 9 from finished runs, published numbers beside them",
    ),
    "figures": (
        "analysis.commands.figures",
        "figure 1, AP over epochs and time, and figure 4, an image stage by stage",
    ),
    "compare": (
        "analysis.commands.compare",
        "whether rows really differ: bootstrap over images, Welch over seeds, Holm",
    ),
    "agreement": ("analysis.commands.agreement", "whether rows come out in the paper's order: Kendall's tau and pairs"),
    "errors": (
        "analysis.commands.error_breakdown",
        "where AP, or a difference, comes from: size, class, crowding, stage, duplicates",
    ),
    "report": ("analysis.commands.report", "tables, tests, order and figure of a suite as one Markdown page"),
    "wandb-report": ("analysis.commands.wandb_report", "a Weights & Biases report of a project's runs"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    replace_unencodable_characters()
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(prog="python -m analysis", description=__doc__)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    chosen = next((argument for argument in arguments if argument in COMMANDS), None)
    for name, (module, summary) in COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
        if name == chosen:
            loaded = importlib.import_module(module)
            loaded.add_arguments(command)
    args = parser.parse_args(arguments)
    try:
        return int(importlib.import_module(COMMANDS[args.command][0]).run(args) or 0)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def replace_unencodable_characters() -> None:
    """Print ? for what the encoding of stdout lacks, such as ± in ASCII, instead of ending in a traceback."""
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":  # anything else was chosen
        sys.stdout.reconfigure(errors="replace")


if __name__ == "__main__":
    sys.exit(main())
