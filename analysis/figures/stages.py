"""Pictures of the cascade with matplotlib: an image stage by stage, the learned boxes, where the dynamic head looks."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt

matplotlib.use("Agg")  # before pyplot: no display is needed, and none is opened

from matplotlib import font_manager
from matplotlib import pyplot as plt
from matplotlib.patches import Rectangle

from analysis.output import write_figure
from sparse_rcnn import fonts
from sparse_rcnn.rundir.views import View

# Okabe and Ito's palette, distinct under the common colour blindnesses, without its black.
PALETTE = ("#e69f00", "#56b4e9", "#f0e442", "#009e73", "#cc79a7", "#d55e00", "#0072b2")
PANEL_INCHES = 2.6
MAX_COLUMNS = 4


def stages_figure(view: View, score_threshold: float, with_truth: bool) -> Any:
    """The learned boxes in white, if any, then each stage's boxes, one colour per proposal (the paper's figure 4).

    A stage shows the boxes that it gives at least ``score_threshold`` itself; ``with_truth`` adds the ground truth,
    dashed.
    """
    fonts.warn_of_missing(view.class_names)
    num_stages, num_proposals = view.scores.shape
    proposals = view.proposals_xyxy_abs
    first_stage = -1 if proposals is not None else 0
    figure, axes = _panels(num_stages - first_stage, view.size_hw)
    picture = _picture(view)
    colours = _colours(view)
    for stage, axis in enumerate(axes, first_stage):
        _show(axis, picture, view.size_hw)
        if stage < 0 and proposals is not None:
            axis.set_title(f"{num_proposals} learned proposals", fontsize=8)
            for box in proposals:
                _box(axis, box, "white", width=0.8)
            continue
        shown = np.flatnonzero(view.scores[stage] >= score_threshold)
        axis.set_title(f"stage {stage}: {len(shown)} of {num_proposals}", fontsize=8)
        if with_truth:
            for box in view.truth_boxes_xyxy_abs:
                _box(axis, box, "white", width=1.0, style="--")
        for p in shown[np.argsort(view.scores[stage, shown], kind="stable")]:  # the surest on top
            _box(axis, view.boxes_xyxy_abs[stage, p], colours[p])
            _label(axis, view, stage, int(p), colours[p])
    title = f"{fonts.one_line(view.file_name)}, score at least {score_threshold:g}, step {view.step}"
    figure.suptitle(title, fontsize=9, family=_families([title]), parse_math=False)
    return figure


def response_figure(view: View, num_proposals: int) -> Any:
    """Where the dynamic head looks: its filtered 7 x 7 RoI feature over the box it was pooled from, at every stage.

    Rows are the proposals that the last stage scores best, columns the stages. A stage pools from the boxes of the one
    before it, the first from the learned proposals. Brightness is relative to the largest response of the stage.
    The view has responses.
    """
    assert view.responses is not None
    assert view.proposals_xyxy_abs is not None
    fonts.warn_of_missing(view.class_names)
    chosen = np.argsort(-view.scores[-1], kind="stable")[:num_proposals]
    num_stages = len(view.scores)
    pooled_from = np.concatenate((view.proposals_xyxy_abs[None], view.boxes_xyxy_abs[:-1]))
    picture = _picture(view)
    figure, axes = plt.subplots(
        len(chosen),
        num_stages,
        squeeze=False,
        figsize=(PANEL_INCHES * num_stages, PANEL_INCHES * len(chosen) + 0.4),
        layout="constrained",
    )
    for row, p in enumerate(chosen):
        for stage in range(num_stages):
            axis = axes[row][stage]
            _show(axis, picture, view.size_hw)
            x1, y1, x2, y2 = pooled_from[stage, p]
            axis.imshow(
                view.responses[stage, p], extent=(x1, x2, y2, y1), cmap="inferno", alpha=0.65, vmin=0, vmax=1,
                interpolation="bilinear",
            )  # fmt: skip
            _box(axis, pooled_from[stage, p], "white", width=1.0)
            title = f"proposal {p}, stage {stage}: {_name_and_score(view, stage, int(p))}"
            axis.set_title(title, fontsize=7, family=_families(view.class_names), parse_math=False)
            axis.set_xlim(0, view.size_hw[1])  # imshow would zoom into the box
            axis.set_ylim(view.size_hw[0], 0)
    return figure


def proposals_figure(boxes_cxcywh_norm: npt.NDArray[np.float64], title: str) -> Any:
    """Learned boxes (P, 4) in a picture of unit size: their outlines, and their centres coloured by area."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(2 * 3.4, 3.6), layout="constrained")
    cx, cy, w, h = boxes_cxcywh_norm.T
    for axis in (left, right):
        axis.set_xlim(0, 1)
        axis.set_ylim(1, 0)
        axis.set_aspect("equal")
    left.set_title("boxes")
    for x, y, bw, bh in boxes_cxcywh_norm:
        left.add_patch(Rectangle((x - bw / 2, y - bh / 2), bw, bh, fill=False, edgecolor="#0072b2", linewidth=0.7))
    right.set_title("centres")
    points = right.scatter(cx, cy, c=np.abs(w * h), cmap="viridis", vmin=0, vmax=1, s=14)
    figure.colorbar(points, ax=right, label="area / image area")
    figure.suptitle(title, fontsize=9)
    return figure


def save(figure: Any, out: Path) -> None:
    """Write a figure whole or not at all, and close it."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing")  # a line for each; `fonts` has warned of all
            write_figure(out, figure, dpi=200)
    finally:
        plt.close(figure)


def _panels(num_panels: int, size_hw: tuple[int, int]) -> tuple[Any, Sequence[Any]]:
    num_columns = min(num_panels, MAX_COLUMNS)
    num_rows = -(-num_panels // num_columns)
    height = PANEL_INCHES * size_hw[0] / size_hw[1] + 0.35
    figure, axes = plt.subplots(
        num_rows,
        num_columns,
        squeeze=False,
        figsize=(PANEL_INCHES * num_columns, height * num_rows + 0.3),
        layout="constrained",
    )
    flat = axes.ravel()
    for axis in flat[num_panels:]:
        axis.set_visible(False)
    return figure, list(flat[:num_panels])


def _picture(view: View) -> Any:
    assert isinstance(view.picture, Path)  # of a view that is read
    return plt.imread(view.picture)


def _colours(view: View) -> list[str]:
    """One for each proposal; they go round by the last stage's order, so that its surest boxes differ."""
    colours = [""] * view.scores.shape[1]
    for rank, p in enumerate(np.argsort(-view.scores[-1], kind="stable")):
        colours[p] = PALETTE[rank % len(PALETTE)]
    return colours


def _show(axis: Any, picture: Any, size_hw: tuple[int, int]) -> None:
    height, width = size_hw
    axis.imshow(picture, extent=(0, width, height, 0))  # the picture may be scaled down, the boxes are not
    axis.set_xlim(0, width)
    axis.set_ylim(height, 0)
    axis.set_xticks([])
    axis.set_yticks([])


def _box(axis: Any, box_xyxy_abs: Any, colour: str, width: float = 1.6, style: str = "-") -> None:
    x1, y1, x2, y2 = box_xyxy_abs
    for edge, line in (("black", width + 0.8), (colour, width)):  # a dark edge, to be seen on any background
        axis.add_patch(
            Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=edge, linewidth=line, linestyle=style)
        )


def _name_and_score(view: View, stage: int, p: int) -> str:
    return f"{fonts.one_line(view.class_names[view.labels[stage, p]])} {view.scores[stage, p]:.2f}"


def _families(texts: Iterable[str]) -> list[str]:
    """matplotlib's own fonts, then those of the system that have what these lack of some texts."""
    return _families_of(tuple(map(fonts.one_line, texts)))


@functools.cache
def _families_of(texts: tuple[str, ...]) -> list[str]:
    families = list(matplotlib.rcParams["font.family"])
    for file in fonts.font_files("".join(texts)):
        if file is not None:
            font_manager.fontManager.addfont(file)
            families.append(font_manager.FontProperties(fname=file).get_name())
    return families


def _label(axis: Any, view: View, stage: int, p: int, colour: str) -> None:
    height, width = view.size_hw
    x1, y1 = view.boxes_xyxy_abs[stage, p, :2]
    at_top = y1 < height / 15  # no room above the box
    axis.text(
        min(max(x1, 0), width), min(max(y1, 0), height), _name_and_score(view, stage, p), fontsize=5, color="black",
        va="top" if at_top else "bottom", clip_on=True, family=_families(view.class_names),
        parse_math=False,  # class names are data: a $ in one must not begin a formula
        bbox={"facecolor": colour, "edgecolor": "none", "pad": 0.6},
    )  # fmt: skip
