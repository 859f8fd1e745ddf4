"""python -m analysis stages: one image stage by stage, the learned boxes, where the dynamic head looks."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from analysis.output import UNDATED
from sparse_rcnn.errors import UserError
from sparse_rcnn.places import user_path
from sparse_rcnn.rundir import layout, metric_keys
from sparse_rcnn.rundir.own_digest import weights_problem
from sparse_rcnn.rundir.reader import Run
from sparse_rcnn.rundir.views import read_view, view_ids

FORMATS = tuple(UNDATED)
BOXES = "proposals.boxes_cxcywh_norm"  # of a weights file


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--run", required=True, type=user_path, help="run directory")
    parser.add_argument("--image", type=int, help="id of an image that the run has a view of (default: its first)")
    parser.add_argument(
        "--out", type=user_path, help="PNG, PDF or SVG (default: stages_<image>.png, or as the kind says)"
    )
    parser.add_argument("--score-threshold", type=float, default=0.3, help="boxes of a stage to show (default 0.3)")
    parser.add_argument("--ground-truth", action="store_true", help="draw it too, dashed")
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument("--look", type=int, metavar="N", help="where the dynamic head looks, for the N surest proposals")
    kinds.add_argument("--proposals", action="store_true", help="the learned boxes, without an image")
    parser.add_argument("--step", type=int, help="with --proposals: those of this checkpoint (default: the final ones)")


def run(args: argparse.Namespace) -> int:
    """Draw the figure and print its path.

    Raises:
        UserError: the run, the view, the checkpoint or the format is wrong.
    """
    if args.step is not None and not args.proposals:
        raise UserError("--step chooses a checkpoint for --proposals; views exist of the newest evaluation alone")
    if not 0 <= args.score_threshold <= 1:
        raise UserError(f"--score-threshold must be within 0 and 1, got {args.score_threshold:g}")
    if args.look is not None and args.look < 1:
        raise UserError(f"--look must be at least 1, got {args.look}")
    if args.out is not None and args.out.suffix.lower() not in FORMATS:
        raise UserError(f"--out {args.out}: the name must end in one of {', '.join(FORMATS)}")
    found = Run(args.run)
    if args.proposals:
        figure, name = _proposals(found, args.step), "proposals"
    else:
        if _has_stages(found) is False:  # before a word on its views
            raise _without_stages(found)
        image_id = _image_id(found, args.image)
        figure, name = _view(found, image_id, args), f"{'stages' if args.look is None else 'look'}_{image_id}"
    from analysis.figures.stages import save

    out = args.out or Path(f"{name}.png")
    save(figure, out)
    print(out)
    return 0


def learned_boxes(run: Run, step: int | None) -> npt.NDArray[np.float64]:
    """The learned boxes (P, 4), cxcywh in 0..1, of a checkpoint; of the final weights for None.

    Raises:
        UserError: the weights do not exist, and names the checkpoints that do; or they are damaged.
    """
    from safetensors import SafetensorError, safe_open

    folder = run.path if step is None else run.path / layout.CHECKPOINTS / f"step_{step:08d}"
    path = folder / layout.WEIGHTS
    if not path.is_file():
        steps = sorted(int(p.parent.name[5:]) for p in run.path.glob(f"{layout.CHECKPOINTS}/step_*/{layout.WEIGHTS}"))
        known = f"--step takes {', '.join(map(str, steps))}" if steps else "it has no checkpoint either"
        raise UserError(f"{path} does not exist; {known}")
    try:
        if (problem := weights_problem(path)) is not None:
            raise UserError(f"{path} {problem}; restore it from a copy")
        with safe_open(path, framework="numpy") as file:
            if BOXES not in file.keys():  # noqa: SIM118, a file of safetensors is not a mapping
                raise UserError(f"--proposals needs learned boxes; {path} has none")
            return np.asarray(file.get_tensor(BOXES), dtype=np.float64)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error


def _has_stages(run: Run) -> bool | None:
    """Whether the numbers of a run, its evaluations' or else its training's, are of stages; None while there are none.

    A detector of one's own may have stages that its criterion does not tell apart; its evaluations do.
    """
    for event in ("eval", "train"):
        if events := run.events(event):
            return any(metric_keys.is_of_stage(key) for each in events for key in each.get("metrics", ()))
    return None


def _without_stages(run: Run) -> UserError:
    return UserError(
        f"{run.path}: its detector has no stages to draw; its detections are shown by python -m analysis dashboard"
    )


def _image_id(run: Run, asked: int | None) -> int:
    ids = view_ids(run)
    hint = f"for any image: python -m experiments.predict {run.path} IMAGE --stages --out FOLDER"
    if not ids:
        raise UserError(f"{run.path} has no views: its evaluations write them (eval.num_pictures above 0); {hint}")
    if asked is not None and asked not in ids:
        raise UserError(f"{run.path} has no view of image {asked} (it has: {', '.join(map(str, ids))}); {hint}")
    return ids[0] if asked is None else asked


def _view(run: Run, image_id: int, args: argparse.Namespace) -> Any:
    from analysis.figures.stages import response_figure, stages_figure

    view = read_view(run, image_id)
    if not view.has_stages:
        raise _without_stages(run)
    if args.look is not None and (view.responses is None or view.proposals_xyxy_abs is None):
        raise UserError(
            f"--look shows the RoI features that a dynamic head filters, and the detector of {run.path} filters none: "
            "leave it out to draw its stages"
        )
    try:
        if args.look is not None:
            return response_figure(view, args.look)
        return stages_figure(view, args.score_threshold, args.ground_truth)
    except (ValueError, OSError) as error:  # the picture's file is missing or damaged
        raise UserError(f"{run.path}, image {image_id}: {error}") from error


def _proposals(run: Run, step: int | None) -> Any:
    from analysis.figures.stages import proposals_figure

    boxes = learned_boxes(run, step)
    when = "at the end" if step is None else f"after {step} steps"
    return proposals_figure(boxes, f"{len(boxes)} learned boxes {when}: {run.meta['experiment']}")
