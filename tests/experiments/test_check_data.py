"""python -m experiments.check data=...: every fault of a data set at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from experiments.check import main
from tests.support.coco_files import box_record, image_record


def write_split(folder: Path, split: str, ids: range, boxes: list[dict[str, Any]], names: list[str]) -> list[str]:
    """A split of pictures with pixels of their own; returns the overrides that name it."""
    images = folder / split
    images.mkdir(parents=True)
    for i in ids:
        pixels = np.random.default_rng(i).integers(0, 256, (40, 60, 3), np.uint8)
        Image.fromarray(pixels).save(images / f"{i}.png")
    content = {
        "images": [image_record(i) for i in ids],
        "annotations": boxes,
        "categories": [{"id": i, "name": name} for i, name in enumerate(names, 1)],
    }
    (folder / f"{split}.json").write_text(json.dumps(content))
    return [f"data.{split}.annotations={folder / f'{split}.json'}", f"data.{split}.images={images}"]


def box(number: int, image_id: int, bbox: list[float] | None = None, category_id: int = 1) -> dict[str, Any]:
    return box_record(number, image_id, category_id, bbox or [5, 5, 20, 20])


def printed(capsys: pytest.CaptureFixture[str], *overrides: str) -> tuple[int, list[str], str]:
    """The exit code, the lines on stdout, and stderr."""
    code: Any = 0
    try:
        main(["data=coco_format", "recipe=mini", *overrides])
    except SystemExit as error:
        code = error.code
    out, err = capsys.readouterr()
    return code, out.splitlines(), err


def test_a_good_data_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train = write_split(tmp_path, "train", range(1, 4), [box(i, i) for i in range(1, 4)], ["cat"])
    val = write_split(tmp_path, "val", range(11, 13), [box(i, i) for i in range(11, 13)], ["cat"])
    code, lines, err = printed(capsys, *train, *val)
    assert (code, lines) == (0, [
        f"train: {tmp_path}/train.json: 3 images, 3 boxes, 1 class (cat)",
        f"val: {tmp_path}/val.json: 2 images, 2 boxes, 1 class (cat)",
        "nothing to remark",
    ])  # fmt: skip
    assert "pictures of train: 100%" in err


def test_everything_is_found_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    boxes = [
        *(box(i, i) for i in range(1, 8)),
        box(20, 3, [50, 30, 30, 30]),  # reaches out
        box(21, 3, [70, 0, 5, 5]),  # lies outside
        box(22, 3, [5, 5, 0, 5]),  # has no area
        *(box(100 + i, 4, [i, i + 1, 20, 20]) for i in range(12)),  # more than proposals
    ]
    train = write_split(tmp_path, "train", range(1, 10), boxes, ["cat", "dog"])
    val = write_split(tmp_path, "val", range(11, 13), [box(11, 11)], ["dog", "cat"])
    images = tmp_path / "train"
    (images / "5.png").write_bytes((images / "5.png").read_bytes()[:1000])
    Image.new("RGB", (60, 41)).save(images / "6.png")
    (images / "7.png").unlink()
    (tmp_path / "val" / "12.png").write_bytes((images / "1.png").read_bytes())
    code, lines, err = printed(capsys, *train, *val, "num_proposals=10")
    assert code == 1
    assert err.strip().endswith("error: 2 kinds of fault in the data, see above")
    name = f"{tmp_path}/train.json"
    expected = [
        f"train: {name}: 8 images, ",
        f"  error     {name}: 1 of 9 image files are missing in {images}, the first is 7.png (image id 7); "
        "restore them, or give data.skip_unreadable=true to leave such images out",
        f"  error     {images}/5.png (image id 5) cannot be read as an image: ",
        f"  left out  {name}: 1 box of zero or negative size left out (annotation ids: 22)",
        f"  left out  {name}: 1 box wholly outside of the image left out of training and evaluation (annotation",
        f"  note      {name}: 1 box reaching out of the image, clipped at its border for training (annotation ids: 20)",
        f"  note      {name}: no box of 1 of 2 classes: dog",
        f"  note      {name}: 2 images without objects, taken as background (8.png (image id 8), 9.png (image id 9))",
        f"  note      {name}: 1 image of 8 with more objects than num_proposals=10 (up to 13; the first is 4.png",
        f"val: {tmp_path}/val.json: 2 images, 1 box, 2 classes (dog, cat)",
        f"  repaired  {tmp_path}/val.json: classes are numbered otherwise than in {name}; matched by name",
        f"  note      {tmp_path}/val.json: no box of 1 of 2 classes: cat",
        f"  note      {tmp_path}/val.json: 1 image without objects",
        f"  note      {tmp_path}/val.json: 1 picture of {name} too, as equal files: what is evaluated on is trained on",
    ]
    assert len(lines) == len(expected)
    for line, start in zip(lines, expected, strict=True):
        assert line.startswith(start)
    assert "(and 1 more like it)" in lines[2]
    assert "data.skip_unreadable=true" in lines[2]

    code, lines, err = printed(capsys, *train, *val, "num_proposals=10", "data.skip_unreadable=true")
    assert code == 0
    left_out = [line for line in lines if line.startswith("  left out")]
    assert any("2 pictures left out, the first because it cannot be read" in line for line in left_out)
    assert any("1 image left out: no such file" in line for line in left_out)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not valid JSON"),
        (json.dumps({"images": [], "annotations": [], "categories": []}), "'images' is empty"),
    ],
)
def test_a_file_that_cannot_be_read_does_not_hide_the_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str, message: str
) -> None:
    train = write_split(tmp_path, "train", range(1, 3), [box(1, 1)], ["cat"])
    val = write_split(tmp_path, "val", range(11, 13), [], ["cat"])
    (tmp_path / "train.json").write_text(content)
    code, lines, _ = printed(capsys, *train, *val)
    assert code == 1
    assert lines[0] == "train"
    assert lines[1].startswith("  error")
    assert message in lines[1]
    assert f"  error     {tmp_path}/val.json has no usable annotation: there is nothing to score" in lines


def test_paths_that_are_not_given_are_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    code, lines, err = printed(capsys)
    assert (code, lines) == (1, [])
    assert err.startswith("error: data.train.annotations: has no value; set it on the command line")
