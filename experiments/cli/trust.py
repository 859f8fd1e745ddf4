"""The option ``--trust``: whose classes the commands may build that read a run or a weights file."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager

from sparse_rcnn.architecture import TRUSTED_MODULES, UntrustedClassError


def add_trust_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--trust", metavar="MODULE", action="append", default=[],
        help="also build classes of this module, one of your own that PATH names; may be given again. "
        "Building a class runs its code: a file from elsewhere may name any",
    )  # fmt: skip


@contextmanager
def trusted_modules(args: argparse.Namespace) -> Iterator[tuple[str, ...]]:
    """The library and the top-level modules that the user names; errors in the block mention --trust."""
    try:
        yield (*TRUSTED_MODULES, *(name.split(".")[0] for name in args.trust))
    except UntrustedClassError as error:
        raise UntrustedClassError(f"{error}; on the command line: --trust MODULE") from error
