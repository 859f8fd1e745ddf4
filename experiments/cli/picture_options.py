"""Options of commands that read picture files: the range of their values, and how large they may be."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from experiments.cli.naming import naming
from sparse_rcnn.errors import UserError
from sparse_rcnn.pixel_range import PixelRange, checked_pixel_range

# What a user of these commands types for the arguments that messages advise.
PICTURE_OPTIONS = {
    "skip_unreadable": "--skip-unreadable",
    "pixel_range": "--pixel-range",
    "max_megapixels": "--max-megapixels",
}


def add_picture_options(parser: Any) -> None:
    """Add ``--skip-unreadable``, ``--pixel-range`` and ``--max-megapixels`` to a parser or a group of it."""
    parser.add_argument(
        "--skip-unreadable", action="store_true", help="leave out pictures that cannot be read, and name them"
    )
    parser.add_argument(
        "--pixel-range", metavar="RANGE",
        help="black and white in files of more than 8 bits: auto, uint8, uint12, uint16, float or LOW,HIGH "
        "(default: as in training)",
    )  # fmt: skip
    parser.add_argument("--max-megapixels", metavar="M", type=float, help="refuse larger pictures (500)")


def pixel_range_option(args: argparse.Namespace) -> PixelRange | None:
    """None where the option is absent.

    Raises: UserError, which names the option.
    """
    if args.pixel_range is None:
        return None
    value: Any = args.pixel_range
    if "," in value:
        with suppress(ValueError):  # else refused as it is
            value = [float(end) for end in value.strip("[]").split(",")]
    with naming("--pixel-range"):
        return checked_pixel_range(value)


def max_megapixels_option(args: argparse.Namespace, run_config: Mapping[str, Any] | None = None) -> float | None:
    """The option, else the value of the run whose configuration is given, else the library's.

    Raises: UserError, which names the option.
    """
    if args.max_megapixels is None:
        from sparse_rcnn.data.pillow_files import MAX_MEGAPIXELS

        of_run: float | None = (run_config or {}).get("input", {}).get("max_megapixels", MAX_MEGAPIXELS)
        return of_run
    if not args.max_megapixels > 0:
        raise UserError(f"--max-megapixels {args.max_megapixels:g}: give a number above 0")
    given: float = args.max_megapixels
    return given
