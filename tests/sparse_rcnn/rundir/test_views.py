"""Views written and read again; their files have the form of those of earlier runs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sparse_rcnn.errors import RunError
from sparse_rcnn.rundir.reader import Run
from sparse_rcnn.rundir.views import View, picture_path, read_view, view_ids, write_view
from tests.support.paths import ROOT, names
from tests.support.runs import make_bare_run

EARLIER = ROOT / "tests" / "golden" / "runs_before_rooms" / "baseline" / "dd8822b29dd2-seed0"


def some_view(image_id: int = 7, num_stages: int = 2, num_proposals: int = 3, num_boxes: int = 2) -> View:
    rng = np.random.default_rng(image_id)
    return View(
        image_id=image_id,
        file_name="folder/7.png",
        step=12,
        size_hw=(40, 60),
        class_names=["cat", "dog"],
        picture=rng.integers(0, 256, (40, 60, 3), np.uint8),
        has_stages=True,
        proposals_xyxy_abs=rng.uniform(-5, 60, (num_proposals, 4)).astype(np.float32),
        boxes_xyxy_abs=rng.uniform(-5, 60, (num_stages, num_proposals, 4)).astype(np.float32),
        scores=rng.uniform(0, 1, (num_stages, num_proposals)).astype(np.float32),
        labels=rng.integers(0, 2, (num_stages, num_proposals)),
        responses=rng.uniform(0, 9, (num_stages, num_proposals, 7, 7)).astype(np.float32),
        truth_boxes_xyxy_abs=rng.uniform(0, 60, (num_boxes, 4)),
        truth_labels=rng.integers(0, 2, num_boxes),
    )


def written(tmp_path: Path, *views: View) -> Run:
    run = Run(make_bare_run(tmp_path))
    for view in views:
        write_view(run.path / "views", view)
    return run


def test_a_view_is_read_as_it_was_written_up_to_its_digits(tmp_path: Path) -> None:
    view = some_view()
    run = written(tmp_path, view)
    found = read_view(run, 7)
    for name in ("image_id", "file_name", "step", "size_hw", "class_names"):
        assert getattr(found, name) == getattr(view, name)
    for name in ("proposals_xyxy_abs", "boxes_xyxy_abs", "truth_boxes_xyxy_abs"):
        np.testing.assert_allclose(getattr(found, name), getattr(view, name), atol=0.051)
    np.testing.assert_allclose(found.scores, view.scores, atol=5.1e-5)
    np.testing.assert_array_equal(found.labels, view.labels)
    np.testing.assert_array_equal(found.truth_labels, view.truth_labels)
    largest = view.responses.reshape(2, -1).max(axis=1)[:, None, None, None]
    np.testing.assert_allclose(found.responses, view.responses / largest, atol=0.5 / 255 + 1e-6)
    assert found.picture == picture_path(run.path / "views", 7)
    assert names(run.path / "views") == ["7.json"]


def test_what_was_read_is_written_again_to_the_same_file(tmp_path: Path) -> None:
    first = written(tmp_path / "first", some_view())
    second = written(tmp_path / "second", read_view(first, 7))
    assert (first.path / "views" / "7.json").read_bytes() == (second.path / "views" / "7.json").read_bytes()


def test_a_view_of_an_earlier_run_is_written_as_it_was(tmp_path: Path) -> None:
    run = written(tmp_path, read_view(Run(EARLIER), 17))
    text, earlier = (folder / "views" / "17.json" for folder in (run.path, EARLIER))
    digest = json.loads(text.read_text())["sha256"]
    assert text.read_text() == earlier.read_text().removesuffix("}") + f',"sha256":"{digest}"}}\n'


def form(value: Any) -> Any:
    """Keys in their order and types; of a list its first item's."""
    if isinstance(value, dict):
        return [(key, form(item)) for key, item in value.items()]
    return [form(item) for item in value[:1]] if isinstance(value, list) else type(value)


def test_a_file_has_the_form_of_those_of_earlier_runs(tmp_path: Path) -> None:
    text = (written(tmp_path, some_view()).path / "views" / "7.json").read_text()
    earlier = (EARLIER / "views" / "17.json").read_text()
    assert form(json.loads(text)) == [*form(json.loads(earlier)), ("sha256", str)]
    assert " " not in text  # compact, as they are read by the page as a whole
    content = json.loads(text)
    for stage in content["stages"]:
        assert stage["boxes_xyxy_abs"] == [[round(value, 1) for value in box] for box in stage["boxes_xyxy_abs"]]
        assert stage["scores"] == [round(value, 4) for value in stage["scores"]]


def test_nothing_there_and_no_responses(tmp_path: Path) -> None:
    run = written(tmp_path, replace(some_view(num_boxes=0), responses=None))
    found = read_view(run, 7)
    assert found.truth_boxes_xyxy_abs.shape == (0, 4)
    assert found.truth_labels.tolist() == []
    assert found.responses is None


def test_numbers_that_are_none_are_written_as_zero(tmp_path: Path) -> None:
    view = some_view()
    view.boxes_xyxy_abs[0, 0, 0] = np.nan
    assert read_view(written(tmp_path, view), 7).boxes_xyxy_abs[0, 0, 0] == 0


def test_a_view_that_is_absent_or_damaged_is_named(tmp_path: Path) -> None:
    run = written(tmp_path, some_view(12), some_view(7))
    (run.path / "views" / "7.jpg").write_bytes(b"")
    (run.path / "views" / "notes.json").write_text("{}")
    assert view_ids(run) == [7, 12]
    with pytest.raises(RunError, match=r"has no view of image 8 \(it has: 7, 12\)"):
        read_view(run, 8)
    file = run.path / "views" / "7.json"
    kept = {key: value for key, value in json.loads(file.read_text()).items() if key not in ("stages", "sha256")}
    file.write_text(json.dumps(kept))
    with pytest.raises(RunError, match=r"7\.json is not a view of this program: KeyError: 'stages'"):
        read_view(run, 7)
    file.write_text("{")
    with pytest.raises(RunError, match=r"7\.json is not valid JSON"):
        read_view(run, 7)
    with pytest.raises(RunError, match=r"has no view of image 1 \(it has: none\)"):
        read_view(Run(make_bare_run(tmp_path / "other")), 1)


def test_a_detector_without_stages_or_learned_boxes(tmp_path: Path) -> None:
    stages = replace(some_view(1), proposals_xyxy_abs=None, responses=None)
    one = replace(some_view(2, num_stages=1), proposals_xyxy_abs=None, responses=None, has_stages=False)
    nothing = replace(some_view(3, num_stages=1, num_proposals=0), proposals_xyxy_abs=None, has_stages=False)
    run = written(tmp_path, stages, one, replace(nothing, responses=None))
    found = [read_view(run, image_id) for image_id in (1, 2, 3)]
    assert [view.proposals_xyxy_abs for view in found] == [None] * 3
    assert [view.has_stages for view in found] == [True, False, False]
    assert [view.boxes_xyxy_abs.shape for view in found] == [(2, 3, 4), (1, 3, 4), (1, 0, 4)]
    assert read_view(Run(EARLIER), 17).has_stages
