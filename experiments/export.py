"""python -m experiments.export: a run's detector as an ONNX or torch.export file, checked against PyTorch."""

from __future__ import annotations

import argparse
from pathlib import Path

from experiments.cli.mistakes import run_cli
from experiments.cli.trust import add_trust_option, trusted_modules
from sparse_rcnn.errors import UserError

CHECKED_SIZES = ((2, 3), (4, 4), (5, 2))  # of images, in units of the size divisor


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
    graph = export(model, args.out, args.outputs, {"source": args.path.name})
    print(f"{args.out}: {', '.join(graph.output_names)}; docs/export.md has the inputs")
    if args.no_check:
        return
    worst = largest_difference(graph, args.out, CHECKED_SIZES)
    if not worst <= TOLERANCE:  # or NaN
        args.out.unlink()
        raise UserError(
            f"{args.out}: outputs differ from PyTorch's by {worst:.1e} of the largest number, more than {TOLERANCE:g}; "
            "the file was removed (--no-check keeps it)"
        )
    print(f"equal to PyTorch's outputs within {worst:.1e} of the largest number, at {len(CHECKED_SIZES)} image sizes")


if __name__ == "__main__":
    main()
