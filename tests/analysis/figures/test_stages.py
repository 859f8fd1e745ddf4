"""Figures of the cascade with class names as data sets have them."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from analysis.figures.stages import response_figure, save, stages_figure
from sparse_rcnn.rundir.views import View


def view_of(folder: Path, class_names: list[str]) -> View:
    Image.new("RGB", (60, 40)).save(folder / "1.jpg")
    count = len(class_names)
    boxes = np.tile([5.0, 5.0, 40.0, 30.0], (count, 1))
    return View(
        image_id=1,
        file_name="фото_$1$\\frac{.jpg",
        step=3,
        size_hw=(40, 60),
        class_names=class_names,
        picture=folder / "1.jpg",
        has_stages=True,
        proposals_xyxy_abs=boxes,
        boxes_xyxy_abs=boxes[None],
        scores=np.full((1, count), 0.9),
        labels=np.arange(count)[None],
        responses=np.ones((1, count, 7, 7)),
        truth_boxes_xyxy_abs=np.zeros((0, 4)),
        truth_labels=np.zeros(0, np.int64),
    )


def test_names_are_text_in_any_writing_and_no_formulas(tmp_path: Path) -> None:
    names = ["$\\frac{$", "café", "кошка", "two\nlines"]
    view = view_of(tmp_path, names)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figures = [stages_figure(view, 0.5, with_truth=False), response_figure(view, len(names))]
        for number, figure in enumerate(figures):
            save(figure, tmp_path / f"{number}.png")
    texts = {text.get_text() for text in figures[0].axes[1].texts}
    assert texts == {"$\\frac{$ 0.90", "café 0.90", "кошка 0.90", "two lines 0.90"}
    titles = [axis.get_title() for axis in figures[1].axes]
    assert titles[0] == "proposal 0, stage 0: $\\frac{$ 0.90"


def test_characters_without_a_font_are_named_in_one_warning(tmp_path: Path) -> None:
    view = view_of(tmp_path, ["dog", "\U0001fb95\U0001fb96 2"])  # patterns for old terminals: rarely in a font
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        save(stages_figure(view, 0.5, with_truth=False), tmp_path / "0.png")
    messages = [str(warning.message) for warning in caught]
    if not messages:
        pytest.skip("a font of this machine has them")
    assert len(messages) == 1
    assert "no font here has the characters" in messages[0]
