"""Wrong annotations and images are one line that names the record, and leave nothing half-written behind."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf
from PIL import Image

from experiments.config.build import build_datasets
from sparse_rcnn.data.findings import DataWarning
from tests.support import training
from tests.support.train_command import TrainCommand, contents

Edit = Callable[[dict[str, Any]], None]


def first(section: str, **changes: Any) -> Edit:
    return lambda content: content[section][0].update(changes)


def clear(section: str) -> Edit:
    return lambda content: content[section].clear()


def all_of(section: str, **changes: Any) -> Edit:
    return lambda content: [record.update(changes) for record in content[section]]


def as_fractions(content: dict[str, Any]) -> None:
    for record in content["annotations"]:
        record["bbox"] = [value / 64 for value in record["bbox"]]


def as_corners(content: dict[str, Any]) -> None:
    for record in content["annotations"]:
        x, y, width, height = record["bbox"]
        record["bbox"] = [x, y, x + width, y + height]


# What is done to the content of instances_train.json, and what the message says after the file's name.
ANNOTATIONS: dict[str, tuple[Edit, str]] = {
    "nan": (
        first("annotations", bbox=[1, 2, math.nan, 4]),
        r"annotation id \d+ has a bbox that is not finite .*; correct it or set data.drop_degenerate_boxes=true",
    ),
    "infinite": (
        first("annotations", bbox=[1, 2, math.inf, 4]),
        r"annotation id \d+ has a bbox that is not finite",
    ),
    "negative": (
        first("annotations", bbox=[1, 2, -3, 4]),
        r"annotation id \d+ has a bbox of zero or negative size",
    ),
    "zero": (
        first("annotations", bbox=[1, 2, 3, 0]),
        r"annotation id \d+ has a bbox of zero or negative size",
    ),
    "three-numbers": (first("annotations", bbox=[1, 2, 3]), r"annotation id \d+ has bbox \[1, 2, 3\], four"),
    "fractions": (as_fractions, r"\d+ of \d+ boxes .* they look like fractions of the image size"),
    "corners": (as_corners, r"\d+ of \d+ boxes leave their image .* they look like x1, y1, x2, y2"),
    "unknown-category": (
        first("annotations", category_id=77),
        r"annotation id \d+ has category_id 77, .* categories",
    ),
    "no-images": (clear("images"), r"'images' is empty"),
    "no-categories": (clear("categories"), r"'categories' is empty"),
    "no-file-name": (
        lambda content: content["images"][0].pop("file_name"),
        r"image id \d+ has no 'file_name'",
    ),
    "no-section": (lambda content: content.pop("annotations"), r"no annotations: there is nothing to learn from"),
    "no-boxes": (clear("annotations"), r"no usable annotation: there is nothing to learn from"),
    "all-crowds": (all_of("annotations", iscrowd=1), r"crowd boxes alone \(\d+\): there is nothing to learn from"),
}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return training.copy_data(tmp_path / "data")


@pytest.mark.parametrize("case", ANNOTATIONS)
def test_a_mistake_in_the_annotations(command: TrainCommand, tmp_path: Path, data: Path, case: str) -> None:
    edit, message = ANNOTATIONS[case]
    training.edit_json(data / "instances_train.json", edit)
    before = contents(tmp_path)
    strict = "data.drop_degenerate_boxes=false"
    line = command.fails(training.coco_overrides(data, tmp_path / "runs", strict))
    assert re.match(re.escape(str(data / "instances_train.json")) + r":? (has )?" + message, line), line
    assert contents(tmp_path) == before


def test_a_mistake_in_the_validation_annotations_comes_before_any_training(
    command: TrainCommand, tmp_path: Path, data: Path
) -> None:
    training.edit_json(data / "instances_val.json", first("annotations", bbox=[1, 2, 3]))
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


def test_a_category_to_exclude_that_is_not_there(command: TrainCommand, tmp_path: Path, data: Path) -> None:
    line = command.fails(training.coco_overrides(data, tmp_path / "runs", "data.excluded_categories=[pear]"))
    assert line.startswith(
        f"data.excluded_categories: 'pear' is not a category of {data / 'instances_train.json'} (disc"
    )
    assert not (tmp_path / "runs").exists()


def test_classes_that_only_one_split_has(command: TrainCommand, tmp_path: Path, data: Path) -> None:
    def add(content: Any) -> None:
        content["categories"].append({"id": 99, "name": "horse"})
        content["annotations"][0]["category_id"] = 99

    training.edit_json(data / "instances_val.json", add)
    line = command.fails(training.coco_overrides(data, tmp_path / "runs"))
    assert line.endswith(
        "'horse' of the first is not in the second; data.excluded_categories=[horse] leaves classes out"
    )
    advised = training.coco_overrides(data, tmp_path / "runs", "data.excluded_categories=[horse]")
    with pytest.warns(UserWarning, match=r"1 category excluded as asked, with 1 box \(horse\)"):
        train_set, val_set = build_datasets(OmegaConf.to_container(training.composed(advised), resolve=True))
    assert train_set.class_names == val_set.class_names
    assert "horse" not in val_set.class_names

    def renumber(content: Any) -> None:
        content["categories"] = [{**record, "id": record["id"] + 1} for record in content["categories"]]
        for record in content["annotations"]:
            record["category_id"] += 1

    training.edit_json(data / "instances_val.json", renumber)
    with pytest.warns(UserWarning, match=r"classes are numbered otherwise than in .*; matched by name"):
        build_datasets(OmegaConf.to_container(training.composed(advised), resolve=True))


def test_missing_images(command: TrainCommand, tmp_path: Path, data: Path) -> None:
    record = json.loads((data / "instances_train.json").read_text())["images"][3]
    (data / "train" / record["file_name"]).unlink()
    line = command.fails(training.coco_overrides(data, tmp_path / "runs"))
    assert line == (
        f"{data / 'instances_train.json'}: 1 of 16 image files are missing in {data / 'train'}, the first is "
        f"{record['file_name']} (image id {record['id']}); restore them, or give data.skip_unreadable=true to leave "
        "such images out"
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
    assert re.fullmatch(
        f"{data / 'instances_val.json'} and {data / 'instances_train.json'} have different categories: "
        r"'another' of the first is not in the second \(which has '\w+' in their place\)",
        line,
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


@pytest.mark.parametrize(
    ("split", "damage", "message"),
    [
        ("train", truncate, r"cannot be read as an image: .*; .* data.skip_unreadable=true to leave such pictures"),
        ("train", resize, r"is 48 x 80 pixels \(height x width\), its record says 64 x 64"),
        ("val", truncate, r"cannot be read as an image: "),
        ("val", resize, r"is 48 x 80 pixels \(height x width\), its record says 64 x 64"),
    ],
)
def test_a_picture_that_cannot_be_used_is_found_before_the_run_exists(
    command: TrainCommand, tmp_path: Path, data: Path, split: str, damage: Any, message: str
) -> None:
    file, image_id = damage_first_image(data, split, damage)
    line = command.fails(training.coco_overrides(data, tmp_path / "runs"))
    assert re.match(re.escape(f"{file} (image id {image_id}) ") + message, line), line
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("num_workers", [0, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("split", ["train", "val"])
def test_an_image_found_wrong_while_training(
    command: TrainCommand, tmp_path: Path, data: Path, split: str, num_workers: int
) -> None:
    original = training.data_root() / split
    file, image_id = damage_first_image(data, split, training.break_pixels)
    arguments = training.coco_overrides(data, tmp_path / "runs", f"data.num_workers={num_workers}")
    line = command.fails(arguments)
    assert re.match(re.escape(f"{file} (image id {image_id}) ") + "cannot be read as an image: ", line), line
    run = training.only_run(tmp_path / "runs")
    status = training.status(run)
    assert (status["state"], status["error"]) == ("failed", f"DataError: {line}")
    assert not (run / "results.json").exists()
    assert training.leftovers(tmp_path) == []

    file.write_bytes((original / file.name).read_bytes())
    assert training.train(arguments) == run  # mended, it goes on
    assert training.status(run)["state"] == "finished"
    assert training.status(run)["error"] is None


def test_pictures_that_cannot_be_read_are_left_out_by_name(tmp_path: Path, data: Path) -> None:
    """One that is cut off, one that is not there, and one whose broken pixels are found late."""
    cut_off, first_id = damage_first_image(data, "train", truncate)
    records = json.loads((data / "instances_train.json").read_text())["images"]
    (data / "train" / records[1]["file_name"]).unlink()
    training.break_pixels(data / "train" / records[2]["file_name"])
    arguments = training.coco_overrides(data, tmp_path / "runs", "data.skip_unreadable=true")
    with pytest.warns(DataWarning) as warned:
        run = training.train(arguments)
    lines = [str(warning.message) for warning in warned]
    assert any("1 picture left out, the first because it cannot be read" in line for line in lines)
    assert any(f"1 image left out: no such file in {data / 'train'}" in line for line in lines)
    assert any("an empty picture without objects takes its place" in line for line in lines)
    assert training.status(run)["state"] == "finished"
    record = json.loads((run / "data.json").read_text())["train"]
    assert record["num_images"] == len(records) - 2
    assert record["left_out_image_ids"] == [first_id, records[1]["id"]]
    left_out = {finding["kind"]: finding["items"] for finding in record["findings"]}
    assert left_out == {
        "missing files": [f"{records[1]['file_name']} (image id {records[1]['id']})"],
        "unreadable pictures": [f"{cut_off.name} (image id {first_id})"],
    }


def test_repairs_are_said_and_kept(tmp_path: Path, data: Path) -> None:
    def untidy(content: dict[str, Any]) -> None:
        content["categories"] *= 3
        for record in content["images"]:
            record["file_name"] = "somewhere\\else\\" + record["file_name"]
            del record["width"]
        for record in content["annotations"]:
            record |= {"id": 0, "image_id": str(record["image_id"]), "iscrowd": None, "area": None}

    plain = training.train(training.coco_overrides(data, tmp_path / "plain"))
    for split in ("train", "val"):
        training.edit_json(data / f"instances_{split}.json", untidy)
    with pytest.warns(DataWarning, match="16 files found with slashes"):
        run = training.train(training.coco_overrides(data, tmp_path / "untidy"))
    kinds = [finding["kind"] for finding in json.loads((run / "data.json").read_text())["val"]["findings"]]
    assert kinds == ["category records repeated", "file names", "sizes of images"]
    assert training.equal(*(training.weights(path / "model.safetensors") for path in (run, plain)))
    assert training.results(run)["val/bbox/AP"] == training.results(plain)["val/bbox/AP"]


def test_the_real_command_ends_with_one_line_and_code_1(tmp_path: Path) -> None:
    data = training.copy_data(tmp_path / "data")
    file, image_id = damage_first_image(data, "train", truncate)
    arguments = training.coco_overrides(data, tmp_path / "runs", "data.num_workers=1")
    code, out, err = training.finish(training.start(arguments))
    assert (code, out) == (1, "")
    assert err.startswith(f"error: {file} (image id {image_id}) cannot be read as an image")
    assert err.count("\n") == 1
