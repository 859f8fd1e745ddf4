"""Wrong annotations and images are one line that names the record, and leave nothing half-written behind."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.support import training
from tests.support.train_command import TrainCommand, contents

Edit = Callable[[dict[str, Any]], None]


def first(section: str, **changes: Any) -> Edit:
    return lambda content: content[section][0].update(changes)


def repeat(section: str) -> Edit:
    return lambda content: content[section].append(content[section][0])


def clear(section: str) -> Edit:
    return lambda content: content[section].clear()


# What is done to the content of instances_train.json, and what the message says after the file's name.
ANNOTATIONS: dict[str, tuple[Edit, str]] = {
    "nan": (first("annotations", bbox=[1, 2, math.nan, 4]), r"annotation id \d+ has bbox \[1, 2, nan, 4\]"),
    "infinite": (first("annotations", bbox=[1, 2, math.inf, 4]), r"annotation id \d+ has bbox"),
    "negative": (
        first("annotations", bbox=[1, 2, -3, 4]),
        r"annotation id \d+ has a bbox of zero or negative size",
    ),
    "zero": (
        first("annotations", bbox=[1, 2, 3, 0]),
        r"annotation id \d+ has a bbox of zero or negative size",
    ),
    "three-numbers": (first("annotations", bbox=[1, 2, 3]), r"annotation id \d+ has bbox \[1, 2, 3\], four"),
    "unknown-image": (
        first("annotations", image_id=10**6),
        r"annotation id \d+ has image_id 1000000, .* images",
    ),
    "unknown-category": (
        first("annotations", category_id=77),
        r"annotation id \d+ has category_id 77, .* categories",
    ),
    "repeated-image": (repeat("images"), r"image id \d+ occurs 2 times"),
    "repeated-annotation": (repeat("annotations"), r"annotation id \d+ occurs 2 times"),
    "repeated-category": (repeat("categories"), r"category id \d+ occurs 2 times"),
    "no-images": (clear("images"), r"'images' is empty"),
    "no-categories": (clear("categories"), r"'categories' is empty"),
    "no-file-name": (
        lambda content: content["images"][0].pop("file_name"),
        r"image id \d+ has no 'file_name'",
    ),
    "no-section": (lambda content: content.pop("annotations"), r"no 'annotations'"),
}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return training.copy_data(tmp_path / "data")


@pytest.mark.parametrize("case", ANNOTATIONS)
def test_a_mistake_in_the_annotations(command: TrainCommand, tmp_path: Path, data: Path, case: str) -> None:
    edit, message = ANNOTATIONS[case]
    training.edit_json(data / "instances_train.json", edit)
    before = contents(tmp_path)
    line = command.fails(training.coco_overrides(data, tmp_path / "runs"))
    assert re.match(re.escape(str(data / "instances_train.json")) + r":? (has )?" + message, line), line
    assert contents(tmp_path) == before


def test_a_mistake_in_the_validation_annotations_comes_before_any_training(
    command: TrainCommand, tmp_path: Path, data: Path
) -> None:
    training.edit_json(data / "instances_val.json", first("annotations", bbox=[1, 2, 3, -4]))
    line = command.fails(training.coco_overrides(data, tmp_path / "runs"))
    assert line.startswith(f"{data / 'instances_val.json'}: annotation id ")
    assert not (tmp_path / "runs").exists()


def test_malformed_json(command: TrainCommand, tmp_path: Path, data: Path) -> None:
    file = data / "instances_train.json"
    file.write_text(file.read_text()[:1000])
    line = command.fails(training.coco_overrides(data, tmp_path / "runs"))
    assert re.match(re.escape(f"{file} is not valid JSON: ") + r".* at line \d+, column \d+", line)
    file.unlink()
    line = command.fails(training.coco_overrides(data, tmp_path / "runs"))
    assert line == f"{file}: cannot be read: No such file or directory"
    assert not (tmp_path / "runs").exists()


def test_missing_images(command: TrainCommand, tmp_path: Path, data: Path) -> None:
    record = json.loads((data / "instances_train.json").read_text())["images"][3]
    (data / "train" / record["file_name"]).unlink()
    line = command.fails(training.coco_overrides(data, tmp_path / "runs"))
    assert line == (
        f"1 of 16 image files are missing in {data / 'train'}, the first is {record['file_name']} "
        f"(image id {record['id']})"
    )
    line = command.fails(training.coco_overrides(data, tmp_path / "runs", f"data.train.images={tmp_path / 'nowhere'}"))
    assert line == f"image folder {tmp_path / 'nowhere'} does not exist"
    assert not (tmp_path / "runs").exists()


def test_the_number_of_classes_and_the_categories_have_to_agree(
    command: TrainCommand, tmp_path: Path, data: Path
) -> None:
    line = command.fails(training.coco_overrides(data, tmp_path / "runs", "data.num_classes=80"))
    assert line == (
        f"data.num_classes is 80, {data / 'instances_train.json'} has 3 categories; "
        "set data.num_classes=null to take the file's"
    )
    training.edit_json(data / "instances_val.json", first("categories", name="another"))
    line = command.fails(training.coco_overrides(data, tmp_path / "runs"))
    assert line.startswith(
        f"{data / 'instances_train.json'} and {data / 'instances_val.json'} have different categories"
    )
    assert not (tmp_path / "runs").exists()


def damage_first_image(data: Path, split: str, damage: Callable[[Path], None]) -> tuple[Path, int]:
    record = json.loads((data / f"instances_{split}.json").read_text())["images"][0]
    file = data / split / record["file_name"]
    damage(file)
    return file, record["id"]


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def resize(file: Path) -> None:
    with Image.open(file) as image:
        image.resize((80, 48)).save(file)


@pytest.mark.parametrize("num_workers", [0, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("split", "damage", "message"),
    [
        ("train", truncate, r"cannot be read as an image: .*; replace or remove the file"),
        ("train", resize, r"is 48 x 80 pixels \(height x width\), its record says 64 x 64"),
        ("val", truncate, r"cannot be read as an image: "),
    ],
    ids=["truncated", "other-size", "truncated-val"],
)
def test_an_image_found_wrong_while_training(
    command: TrainCommand, tmp_path: Path, data: Path, split: str, damage: Any, message: str, num_workers: int
) -> None:
    original = training.data_root() / split
    file, image_id = damage_first_image(data, split, damage)
    arguments = training.coco_overrides(data, tmp_path / "runs", f"data.num_workers={num_workers}")
    line = command.fails(arguments)
    assert re.match(re.escape(f"{file} (image id {image_id}) ") + message, line), line
    run = training.only_run(tmp_path / "runs")
    status = training.status(run)
    assert (status["state"], status["error"]) == ("failed", f"DataError: {line}")
    assert not (run / "results.json").exists()
    assert training.leftovers(tmp_path) == []

    file.write_bytes((original / file.name).read_bytes())
    assert training.train(arguments) == run  # mended, it goes on
    assert training.status(run)["state"] == "finished"
    assert training.status(run)["error"] is None


def test_the_real_command_ends_with_one_line_and_code_1(tmp_path: Path) -> None:
    data = training.copy_data(tmp_path / "data")
    file, image_id = damage_first_image(data, "train", truncate)
    arguments = training.coco_overrides(data, tmp_path / "runs", "data.num_workers=1")
    code, out, err = training.finish(training.start(arguments))
    assert (code, out) == (1, "")
    assert err.startswith(f"error: {file} (image id {image_id}) cannot be read as an image")
    assert err.count("\n") == 1
