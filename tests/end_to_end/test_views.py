"""The views of a run, what they say of the detector, and the pictures made of them."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from analysis.__main__ import main
from analysis.commands.stages import learned_boxes
from experiments.run.views import view_images
from sparse_rcnn import SparseRCNN
from sparse_rcnn.data.coco import CocoDetection
from sparse_rcnn.data.image import read_image
from sparse_rcnn.responses import record_responses
from sparse_rcnn.rundir.reader import Run
from sparse_rcnn.rundir.views import read_view, view_ids
from tests.support import training


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished tiny run, evaluated twice."""
    return training.train(training.overrides(tmp_path_factory.mktemp("views"), "eval.every_epochs=1"))


def test_a_view_is_what_the_saved_detector_says_of_the_image(run):
    model = SparseRCNN.from_pretrained(run)
    ids = view_ids(Run(run))
    assert len(ids) == 2  # eval.num_pictures
    annotations = json.loads((training.data_root() / "instances_val.json").read_text())
    for image_id in ids:
        view = read_view(Run(run), image_id)
        image = read_image(training.data_root() / "val" / view.file_name)
        expected = model.predict_stages(image)
        assert view.step == training.NUM_STEPS
        assert view.size_hw == tuple(image.shape[-2:])
        np.testing.assert_allclose(view.proposals_xyxy_abs, expected.proposals_xyxy_abs, atol=0.051)
        np.testing.assert_allclose(view.boxes_xyxy_abs, expected.boxes_xyxy_abs, atol=0.051)
        np.testing.assert_allclose(view.scores, expected.scores, atol=5.1e-5)
        assert view.labels.tolist() == expected.labels.tolist()
        largest = expected.responses.flatten(1).amax(1)[:, None, None, None]
        np.testing.assert_allclose(view.responses, expected.responses / largest, atol=0.5 / 255 + 1e-6)
        truth = [a["bbox"] for a in annotations["annotations"] if a["image_id"] == image_id]
        np.testing.assert_allclose(
            view.truth_boxes_xyxy_abs, [[x, y, x + w, y + h] for x, y, w, h in truth], atol=0.051
        )
        with Image.open(view.picture) as picture:
            assert picture.size == (image.shape[-1], image.shape[-2])


def test_responses_are_the_norm_of_the_filtered_roi_feature(run):
    model = SparseRCNN.from_pretrained(run)
    images, sizes = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8), torch.tensor([[64, 64], [48, 64]])
    seen = []
    first = model.stages[0].interaction
    handle = first.register_forward_hook(lambda module, inputs, _: seen.append(inputs))
    with torch.no_grad(), record_responses(model.stages) as responses:
        with_recording = model(images, sizes)
    handle.remove()
    (inputs,) = seen
    filtered = first.filter_roi(*inputs)  # (N * P, S * S, C)
    assert responses[0].shape == (2, 6, 7, 7)
    torch.testing.assert_close(responses[0][1, 3].flatten(), filtered[9].square().sum(-1).sqrt().detach())
    with torch.no_grad():
        plain = model(images, sizes)
    assert len(responses) == 2  # the hooks are gone
    assert all(torch.equal(a.logits, b.logits) for a, b in zip(with_recording, plain, strict=True))


def test_views_leave_the_generator_and_the_modes_alone(run):
    model = SparseRCNN.from_pretrained(run).train()
    data = training.data_root()
    dataset = CocoDetection(data / "instances_val.json", data / "val", lambda *s: s, False, 0)
    before = torch.get_rng_state()
    assert len(view_images(model, dataset, 2, step=0)) == 2
    assert torch.equal(torch.get_rng_state(), before)
    assert all(module.training for module in model.modules())


def test_a_head_that_filters_nothing_has_no_responses(tmp_path):
    path = training.train(training.overrides(tmp_path, "experiment=head_none", "num_stages=2"))
    run = Run(path)
    view = read_view(run, view_ids(run)[0])
    assert view.responses is None
    assert main(["stages", "--run", str(path), "--out", str(tmp_path / "a.png")]) == 0
    assert main(["stages", "--run", str(path), "--look", "2", "--out", str(tmp_path / "b.png")]) == 2
    assert not (tmp_path / "b.png").exists()


def test_no_pictures_no_views(tmp_path, capsys):
    path = training.train(training.overrides(tmp_path, "eval.num_pictures=0"))
    assert view_ids(Run(path)) == []
    assert main(["stages", "--run", str(path)]) == 2
    assert "has no views: its evaluations write them" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (["--ground-truth", "--score-threshold", "0.01"], "a.png"),
        (["--look", "3"], "b.svg"),
        (["--proposals"], "c.pdf"),
        (["--proposals", "--step", "6"], "d.png"),
    ],
)
def test_pictures(run, tmp_path, capsys, arguments, name):
    out = tmp_path / "new" / name
    assert main(["stages", "--run", str(run), "--out", str(out), *arguments]) == 0
    assert capsys.readouterr().out == f"{out}\n"
    start = {".png": b"\x89PNG", ".pdf": b"%PDF", ".svg": b"<?xml"}[out.suffix]
    first = out.read_bytes()
    assert first.startswith(start)
    assert [p.name for p in out.parent.iterdir()] == [name]
    assert main(["stages", "--run", str(run), "--out", str(out), *arguments]) == 0
    assert out.read_bytes() == first, "the same view gives the same file"


def test_figure_4_is_the_first_view_of_the_baseline(run, tmp_path, capsys):
    arguments = ["figures", "--runs", str(run.parents[1]), "--out", str(tmp_path / "a"), "--score-threshold", "0.01"]
    assert main(arguments) == 0
    written = ["figure1.pdf", "figure1.png", "figure4.pdf", "figure4.png"]
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == written
    assert len(capsys.readouterr().out.split()) == 4
    alone = tmp_path / "alone.png"
    assert main(["stages", "--run", str(run), "--score-threshold", "0.01", "--out", str(alone)]) == 0
    assert (tmp_path / "a" / "figure4.png").read_bytes() == alone.read_bytes()  # and it has no date in it


def test_the_picture_shows_the_boxes_of_each_stage(run):
    from analysis.figures.stages import stages_figure

    loaded = Run(run)
    view = read_view(loaded, view_ids(loaded)[0])
    threshold = float(np.median(view.scores))
    figure = stages_figure(view, threshold, with_truth=False)
    shown = [{tuple(p.get_bbox().extents.round(1)) for p in axis.patches} for axis in figure.axes]
    expected = [
        view.proposals_xyxy_abs,
        *(b[s >= threshold] for b, s in zip(view.boxes_xyxy_abs, view.scores, strict=True)),
    ]
    for axis_boxes, boxes in zip(shown, expected, strict=True):
        ordered = {(min(a, c), min(b, d), max(a, c), max(b, d)) for a, b, c, d in boxes.round(1).tolist()}
        assert axis_boxes == ordered


def test_learned_boxes_are_those_of_the_weights(run):
    model = SparseRCNN.from_pretrained(run)
    np.testing.assert_array_equal(learned_boxes(Run(run), None), model.proposals.boxes_cxcywh_norm.detach().double())
    earlier = learned_boxes(Run(run), 4)
    assert earlier.shape == (6, 4)
    assert not np.array_equal(earlier, learned_boxes(Run(run), None))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--image", "999"], "has no view of image 999 .it has: "),
        (["--step", "4"], "--step chooses a checkpoint for --proposals"),
        (["--proposals", "--step", "5"], "does not exist; --step takes 4, 6"),
        (["--out", "x.jpeg"], r"--out x.jpeg: the name must end in one of .png, .pdf, .svg"),
        (["--score-threshold", "2"], "--score-threshold must be within 0 and 1, got 2"),
        (["--look", "0"], "--look must be at least 1, got 0"),
    ],
)
def test_mistakes_are_one_line(run, capsys, arguments, message):
    import re

    assert main(["stages", "--run", str(run), *arguments]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(message, error)


def test_damaged_views_are_named(run, tmp_path, capsys):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    image_id = view_ids(Run(copy))[0]
    path = copy / "views" / f"{image_id}.json"
    path.write_text('{"stages": []}')
    assert main(["stages", "--run", str(copy)]) == 2
    assert f"{path} is not a view of this program" in capsys.readouterr().err
    shutil.copy(run / "views" / path.name, path)
    path.with_suffix(".jpg").unlink()
    assert main(["stages", "--run", str(copy), "--out", str(tmp_path / "x.png")]) == 2
    assert f"image {image_id}" in capsys.readouterr().err
