"""python -m experiments.export: a run's detector as an ONNX or torch.export file, checked against PyTorch."""

from __future__ import annotations

import argparse
from pathlib import Path

from experiments.cli.mistakes import run_cli
from experiments.cli.trust import add_trust_option, trusted_modules
from sparse_rcnn.errors import UserError

CHECKED_SIZES = ((2, 3, 1), (4, 4, 3), (5, 2, 2))  # height and width in units of the size divisor, number of images


def main() -> None:
    """Parse the command line, export and check."""
    parser = argparse.ArgumentParser(prog="python -m experiments.export", description=__doc__)
    parser.add_argument("path", type=Path, metavar="RUN", help="a run directory or weights file")
    parser.add_argument("out", type=Path, metavar="OUT", help="the file to write: NAME.onnx or NAME.pt2")
    parser.add_argument(
        "--outputs", choices=("detections", "stages"), default="detections",
        help="boxes, scores and labels, best first (default), or logits and boxes of every stage",
    )  # fmt: skip
    parser.add_argument("--no-check", action="store_true", help="do not run the file against PyTorch")
    add_trust_option(parser)
    args = parser.parse_args()
    run_cli(lambda: run(args))


def run(args: argparse.Namespace) -> None:
    """Export, check and print what was written."""
    from sparse_rcnn.detector_base import Detector
    from sparse_rcnn.export import TOLERANCE, check_suffix, export, largest_difference

    check_suffix(args.out)
    if not args.out.parent.is_dir():
        raise UserError(f"{args.out}: the folder {args.out.parent} does not exist")
    with trusted_modules(args) as trusted:
        model = Detector.from_pretrained(args.path, trusted)
    # Beside its place until it is checked: an older file of this name outlives an export that fails.
    unchecked = args.out.with_name(f"unchecked_{args.out.name}")
    try:
        graph = export(model, unchecked, args.outputs, {"source": args.path.name})
        worst = None if args.no_check else largest_difference(graph, unchecked, CHECKED_SIZES)
        if worst is not None and not worst <= TOLERANCE:  # or NaN
            raise UserError(
                f"{args.out}: outputs differ from PyTorch's by {worst:.1e} of the largest number, more than "
                f"{TOLERANCE:g}; nothing was written (--no-check writes it all the same)"
            )
        unchecked.replace(args.out)
    finally:
        unchecked.unlink(missing_ok=True)
    print(f"{args.out}: {', '.join(graph.output_names)}; docs/export.md has the inputs")
    if worst is not None:
        print(f"equal to PyTorch's outputs within {worst:.1e} of the largest number, in {len(CHECKED_SIZES)} batches")


if __name__ == "__main__":
    main()
