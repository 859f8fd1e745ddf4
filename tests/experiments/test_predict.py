"""python -m experiments.predict: pictures, one JSON, and what it refuses."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from experiments import predict as command
from sparse_rcnn import SparseRCNN
from sparse_rcnn.architecture import build
from sparse_rcnn.errors import DataError, UserError
from sparse_rcnn.weights import save_detector
from tests.support.detectors import small_card, small_detector
from tests.support.other_detectors import OneShotDetector, StagedWithoutBoxes, other_card
from tests.support.pictures import picture, to_pil


@pytest.fixture(scope="module")
def model() -> SparseRCNN:
    return small_detector(card=small_card()).eval()


@pytest.fixture
def weights(model: SparseRCNN, tmp_path: Path) -> str:
    save_detector(model, model.card, tmp_path / "m.safetensors")
    return str(tmp_path / "m.safetensors")


def save(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    to_pil(picture(seed=seed)).save(path)
    return path


def written(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_folders_give_pictures_at_the_same_places_and_one_json(
    model: SparseRCNN, weights: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = tmp_path / "in"
    for i, name in enumerate(("a.png", "a.bmp", "deep/er/a.PNG", "b.gif", ".hidden.png", "notes.txt")):
        if name.endswith("txt"):
            (images / name).write_text("no image")
        else:
            save(images / name, seed=i)
    out = images / "out"  # below the folder that is read: the pictures of one call are no input of the next
    for _ in range(2):
        command.main([weights, str(images), "--out", str(out), "--score-threshold", "0"])
        assert written(out) == ["a.bmp", "a.png", "b.gif.png", "deep/er/a.PNG", "detections.json"]
    printed = capsys.readouterr()
    left_aside = "left aside 1 file that Pillow does not know (1 .txt; the first is notes.txt) and 1 hidden "
    assert f"note: {images}: {left_aside}file or folder (the first is .hidden.png)" in printed.err
    content = json.loads((out / "detections.json").read_text())
    num_detections = sum(len(record["scores"]) for record in content["images"])
    assert f"{num_detections} detections of at least 0 in 4 images" in printed.out
    assert 18 <= num_detections <= 24  # six proposals an image; one without area is dropped
    assert content["score_threshold"] == 0
    assert content["categories"] == model.card.categories
    record = next(r for r in content["images"] if r["picture"] == "deep/er/a.PNG")
    assert (record["width"], record["height"]) == (60, 40)
    expected = model.predict(record["file"])
    assert record["scores"] == pytest.approx(expected.scores.tolist(), abs=1e-5)
    np.testing.assert_allclose(record["boxes_xyxy_abs"], expected.boxes_xyxy_abs, atol=1e-3)
    assert record["labels"] == expected.labels.tolist()
    assert record["class_names"] == [model.card.class_names[label] for label in record["labels"]]
    with Image.open(out / "a.bmp") as picture_:
        assert picture_.format == "BMP"
        assert picture_.size[0] >= 60


def test_stages_are_drawn_beside_and_the_threshold_counts(weights: str, tmp_path: Path) -> None:
    image = save(tmp_path / "in" / "a.png")
    out = tmp_path / "out"
    command.main([weights, str(image), "--out", str(out), "--stages", "--score-threshold", "1"])
    assert written(out) == ["a.png", "a.stages.png", "detections.json"]
    assert json.loads((out / "detections.json").read_text())["images"][0]["scores"] == []
    with Image.open(out / "a.png") as one, Image.open(out / "a.stages.png") as all_stages:
        assert all_stages.width > 2.5 * one.width  # the proposals and two stages


def test_equal_names_in_two_inputs_keep_their_folders(weights: str, tmp_path: Path) -> None:
    inputs = [save(tmp_path / "x" / "a.png"), save(tmp_path / "y" / "z" / "A.png")]
    out = tmp_path / "out"
    # The same file twice is one picture.
    command.main([weights, *map(str, inputs), str(inputs[0].parent), "--out", str(out)])
    assert written(out) == ["detections.json", "x/a.png", "y/z/A.png"]


def test_names_that_would_meet_with_png_added(weights: str, tmp_path: Path) -> None:
    images = tmp_path / "in"
    for name in ("a.gif", "a.gif.png", "a.webp", "a.stages.webp"):
        save(images / name)
    out = tmp_path / "out"
    command.main([weights, str(images), "--out", str(out), "--stages", "--score-threshold", "1"])
    pictures = {record["picture"] for record in json.loads((out / "detections.json").read_text())["images"]}
    assert len(pictures) == 4
    assert len(written(out)) == 9


def test_the_range_of_deep_pictures_and_the_limit_of_size(
    weights: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    deep = np.linspace(0, 4095, 2400).reshape(40, 60).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    arguments = [weights, str(tmp_path / "deep.png"), "--out", str(tmp_path / "out"), "--score-threshold", "1"]
    for options, message in (
        ([], "deep.png has 16-bit values from 0 to 4095, and which value is white cannot be known"),
        (["--pixel-range", "0,100"], r"outside pixel_range \[0,100\]"),
        (["--max-megapixels", "0.002"], "deep.png is 40 x 60 pixels"),
    ):
        with pytest.raises(UserError, match="none of the 1 images could be read"):
            command.main([*arguments, *options])
        assert re.search(message, capsys.readouterr().err)
    for text in ("uint12", "0,4095", "[0, 4095]"):
        command.main([*arguments, "--pixel-range", text])
        with Image.open(tmp_path / "out" / "deep.png") as picture_:
            assert picture_.convert("L").getextrema()[1] >= 250
    for options, message in (
        (["--pixel-range", "uint7"], "--pixel-range: pixel_range must be .*, got uint7"),
        (["--pixel-range", "a,b"], "--pixel-range: pixel_range must be .*, got a,b"),
        (["--max-megapixels", "0"], "--max-megapixels 0: give a number above 0"),
    ):
        with pytest.raises(UserError, match=message):
            command.main([*arguments, *options])


def test_an_unreadable_image_is_named_and_the_others_are_done(
    weights: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad = save(tmp_path / "in" / "a.png"), tmp_path / "in" / "b.png"
    bad.write_bytes(good.read_bytes()[:1000])
    out = tmp_path / "out"
    with pytest.raises(UserError, match="1 of 2 images could not be read"):
        command.main([weights, str(tmp_path / "in"), "--out", str(out)])
    assert f"warning: {bad} cannot be read as an image" in capsys.readouterr().err
    assert written(out) == ["a.png", "detections.json"]
    with pytest.raises(UserError, match="none of the 1 images could be read"):
        command.main([weights, str(bad), "--out", str(tmp_path / "out2")])
    assert not (tmp_path / "out2").exists()


def test_what_the_command_refuses_before_it_writes(weights: str, tmp_path: Path) -> None:
    image = save(tmp_path / "in" / "a.png")
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    out = str(tmp_path / "out")
    for arguments, message in (
        ([weights, str(tmp_path / "nope"), "--out", out], "nope: there is no such image or folder"),
        ([weights, str(tmp_path / "empty"), "--out", out], "empty holds no picture: it is empty"),
        ([weights, str(image), "--out", str(image.parent)], "a.png would replace an input"),
        ([weights, str(image), "--out", str(tmp_path / "file")], "file is a file: give a folder"),
        ([str(tmp_path / "no.safetensors"), str(image), "--out", out], "no.safetensors: there is no such"),
        ([str(image), str(image), "--out", out], "a.png is corrupt or not a safetensors file"),
        ([weights, str(image), "--out", out, "--score-threshold", "2"], "--score-threshold 2"),
        ([weights, str(image), "--out", out, "--batch-size", "0"], "--batch-size 0"),
        ([weights, str(image), "--out", out, "--device", "foo"], "--device: device 'foo' does not exist"),
    ):
        with pytest.raises(UserError, match=message):
            command.main(arguments)
    assert not Path(out).exists()
    assert written(tmp_path / "in") == ["a.png"]


def listed(folder: Path, **changes: Any) -> list[str]:
    """Two pictures that a file without annotations lists, as COCO's of test-dev does; the options that name it."""
    content = {
        "images": [{"id": f"img_{i}", "file_name": f"{i}.png"} for i in range(2)],
        "categories": small_card().categories,
        **changes,
    }
    folder.mkdir(exist_ok=True)
    for i in range(2):
        save(folder / f"{i}.png", seed=i)
    (folder / "image_info.json").write_text(json.dumps(content))
    return ["--annotations", str(folder / "image_info.json"), "--images", str(folder)]


@pytest.mark.filterwarnings("ignore::sparse_rcnn.data.findings.DataWarning")
def test_images_of_a_file_give_results_to_submit(
    model: SparseRCNN, weights: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command.main([weights, *listed(tmp_path / "in"), "--out", str(tmp_path / "out")])
    assert written(tmp_path / "out") == ["results.json"]
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert f"{len(results)} detections as COCO results" in capsys.readouterr().out
    assert {record["image_id"] for record in results} == {"img_0", "img_1"}
    assert {record["category_id"] for record in results} <= {category["id"] for category in small_card().categories}
    found = model.predict(str(tmp_path / "in" / "0.png"), score_threshold=0)
    scores = [record["score"] for record in results if record["image_id"] == "img_0"]
    assert scores == pytest.approx(found.scores.tolist(), abs=1e-5)
    command.main([weights, *listed(tmp_path / "in"), "--out", str(tmp_path / "out"), "--score-threshold", "1"])
    assert json.loads((tmp_path / "out" / "results.json").read_text()) == []


def test_mistakes_with_a_file_of_images(weights: str, tmp_path: Path) -> None:
    options = listed(tmp_path / "in", categories=[{"id": 1, "name": "wolf"}])
    out = ["--out", str(tmp_path / "out")]
    with pytest.raises(DataError, match=r"image_info.json and the detector have different categories: 'wolf'"):
        command.main([weights, *options, *out])
    with pytest.raises(UserError, match="--annotations and --images belong together"):
        command.main([weights, *options[:2], *out])
    with pytest.raises(UserError, match="the file lists the images; leave INPUT and --stages out"):
        command.main([weights, str(tmp_path), *options, *out])
    with pytest.raises(UserError, match="there is nothing to detect in: give images or folders"):
        command.main([weights, *out])
    assert not (tmp_path / "out").exists()


def test_stages_of_other_detectors(tmp_path: Path) -> None:
    image, out = save(tmp_path / "in" / "a.png"), tmp_path / "out"
    for kind in (StagedWithoutBoxes, OneShotDetector):
        card = other_card(kind)
        save_detector(
            build(card.architecture, ("sparse_rcnn", "tests")), card, tmp_path / f"{kind.__name__}.safetensors"
        )
    arguments = [str(image), "--out", str(out), "--trust", "tests", "--stages", "--score-threshold", "1"]
    command.main([str(tmp_path / "StagedWithoutBoxes.safetensors"), *arguments])
    with Image.open(out / "a.png") as one, Image.open(out / "a.stages.png") as stages:
        assert 2 * one.width <= stages.width < 2.5 * one.width  # two stages, and no proposals before them
    shutil.rmtree(out)
    with pytest.raises(
        UserError, match=r"^--stages: .*OneShotDetector.safetensors is a .*, which has no stages; leave"
    ):
        command.main([str(tmp_path / "OneShotDetector.safetensors"), *arguments])
    assert not out.exists()
