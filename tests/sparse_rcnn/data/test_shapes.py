"""The generated data set: shapes, scenes, annotations, and the set on disk under failures and races."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from sparse_rcnn.data import shapes
from sparse_rcnn.data.shapes import CATEGORY_IDS, CLASS_NAMES, ShapesGenerator
from sparse_rcnn.errors import DataError, UserError
from tests.support.paths import ROOT

TINY: dict[str, Any] = {
    "image_size": 64,
    "num_train_images": 12,
    "num_val_images": 8,
    "num_classes": 8,
    "max_objects_usual": 4,
    "max_objects": 9,
    "crowded_fraction": 0.25,
    "empty_fraction": 0.15,
    "min_object_size": 8.0,
    "max_object_size": 60.0,
    "max_aspect_ratio": 1.6,
    "min_visibility": 0.5,
    "clustered_fraction": 0.4,
    "textured_fraction": 0.5,
    "low_contrast_fraction": 0.1,
    "max_distractors": 4,
    "class_hue_fraction": 0.7,
    "background_saturation": 0.3,
    "max_noise": 6.0,
    "seed": 0,
}


def tiny(**changed: Any) -> ShapesGenerator:
    return ShapesGenerator(**{**TINY, **changed})


def files_in(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


# --- scenes -----------------------------------------------------------------------------------------------


def test_scene_depends_on_seed_split_and_index_alone() -> None:
    first = tiny().scene("train", 3)
    longer_set = tiny(num_train_images=500).scene("train", 3)
    assert np.array_equal(first.image, longer_set.image)
    assert np.array_equal(first.visible_masks, longer_set.visible_masks)
    for other in (tiny(seed=1).scene("train", 3), tiny().scene("val", 3), tiny().scene("train", 4)):
        assert not np.array_equal(first.image, other.image)


@pytest.mark.parametrize("min_visibility", [0.4, 0.8])
def test_every_object_stays_visible_and_masks_are_disjoint(min_visibility: float) -> None:
    generator = tiny(min_visibility=min_visibility, crowded_fraction=0.85)
    scenes = [generator.scene("train", i) for i in range(20)]
    visibility = np.concatenate([s.visibility for s in scenes])
    assert visibility.min() >= min_visibility
    assert visibility.max() == 1.0
    assert (visibility < 0.95).any()  # there is occlusion to speak of
    for scene in scenes:
        assert scene.visible_masks.sum(axis=0).max(initial=0) <= 1
        assert len(scene.labels) == len(scene.visible_masks) == len(scene.visibility)


def test_empty_and_crowded_images_come_in_the_fractions_asked_for() -> None:
    generator = tiny(crowded_fraction=0.3, empty_fraction=0.1)
    counts = np.array([generator.num_objects(generator.rng("train", i)) for i in range(3000)])
    assert (counts == 0).mean() == pytest.approx(0.1, abs=0.025)
    assert (counts > 4).mean() == pytest.approx(0.3, abs=0.035)
    assert set(counts) == set(range(10))
    assert all(len(tiny(crowded_fraction=0, empty_fraction=1).scene("val", i).labels) == 0 for i in range(5))
    crowded = tiny(crowded_fraction=1, empty_fraction=0)
    for i in range(10):  # the wished number finds its place
        assert len(crowded.scene("val", i).labels) == crowded.num_objects(crowded.rng("val", i)) > 4


def test_classes_and_sizes_spread_as_asked() -> None:
    scenes = [tiny(num_classes=5).scene("train", i) for i in range(60)]
    assert set(np.concatenate([s.labels for s in scenes]).tolist()) == set(range(5))
    small = [tiny(min_object_size=8.0, max_object_size=8.0).scene("train", i) for i in range(10)]
    assert max(s.visible_masks.sum(axis=(1, 2)).max(initial=0) for s in small) <= 8 * 8 + 8


# --- arguments --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"image_size": 16}, "image_size must be 32 to"),
        ({"image_size": 64.0}, "image_size must be an integer"),
        ({"num_train_images": 0}, "num_train_images must be at least 1"),
        ({"num_val_images": True}, "num_val_images must be an integer"),
        ({"num_classes": len(CLASS_NAMES) + 1}, "num_classes must be 1 to 10, not 11"),
        ({"max_objects_usual": 0}, "max_objects_usual"),
        ({"max_objects": 4}, "max_objects must be above max_objects_usual"),
        ({"crowded_fraction": 1.2}, "crowded_fraction must be 0 to 1"),
        ({"crowded_fraction": 0.6, "empty_fraction": 0.6}, r"crowded_fraction \+ empty_fraction"),
        ({"empty_fraction": "0.1"}, "empty_fraction must be a number"),
        ({"min_object_size": 2}, "min_object_size must be 6 to 64"),
        ({"min_object_size": 30, "max_object_size": 20}, "max_object_size must be 30 to 64"),
        ({"max_object_size": 65}, "max_object_size"),
        ({"max_aspect_ratio": 0.5}, "max_aspect_ratio"),
        ({"min_visibility": 0}, "min_visibility"),
        ({"min_visibility": math.nan}, "min_visibility"),
        ({"clustered_fraction": -0.1}, "clustered_fraction"),
        ({"textured_fraction": 2}, "textured_fraction"),
        ({"low_contrast_fraction": None}, "low_contrast_fraction"),
        ({"max_distractors": -1}, "max_distractors"),
        ({"max_noise": -1}, "max_noise"),
        ({"class_hue_fraction": 1.2}, "class_hue_fraction"),
        ({"background_saturation": -0.1}, "background_saturation"),
        ({"seed": -1}, "seed must be at least 0"),
    ],
)
def test_wrong_argument_is_named(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        tiny(**changed)


def test_key_holds_every_argument_and_the_version() -> None:
    key = tiny().key()
    assert key == {"generator": "shapes", "version": shapes.GENERATOR_VERSION, **TINY}
    assert json.loads(json.dumps(key)) == key


# --- the set on disk --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "shapes"
    tiny().ensure(root)
    return root


@pytest.mark.parametrize("split", ["train", "val"])
def test_annotations_are_tight_around_the_visible_masks(made: Path, split: str) -> None:
    content = json.loads((made / f"instances_{split}.json").read_text())
    names = {c["id"]: c["name"] for c in content["categories"]}
    by_image: dict[int, list[dict[str, Any]]] = {i["id"]: [] for i in content["images"]}
    for annotation in content["annotations"]:
        by_image[annotation["image_id"]].append(annotation)
    for index, image in enumerate(content["images"]):
        scene = tiny().scene(split, index)
        assert np.array_equal(np.asarray(Image.open(made / split / image["file_name"])), scene.image)
        assert (image["width"], image["height"]) == (64, 64)
        annotations = by_image[image["id"]]
        assert [names[a["category_id"]] for a in annotations] == [CLASS_NAMES[k] for k in scene.labels]
        for annotation, mask in zip(annotations, scene.visible_masks, strict=True):
            x, y, w, h = annotation["bbox"]
            inside = np.zeros_like(mask)
            inside[int(y) : int(y + h), int(x) : int(x + w)] = True
            assert not mask[~inside].any()
            for side in (mask[int(y)], mask[int(y + h) - 1], mask[:, int(x)], mask[:, int(x + w) - 1]):
                assert side.any()
            assert annotation["area"] == mask.sum() <= w * h
            assert annotation["iscrowd"] == 0
            assert 0.5 <= annotation["visibility"] <= 1


def test_set_loads_with_pycocotools(made: Path) -> None:
    train, val = (COCO(made / f"instances_{split}.json") for split in ("train", "val"))
    assert (len(train.imgs), len(val.imgs)) == (12, 8)
    assert not set(train.imgs) & set(val.imgs)
    assert sorted(train.cats) == list(CATEGORY_IDS[:8])
    assert sorted(train.cats) != list(range(1, 9))  # the ids have gaps
    assert min(train.anns) == 1  # pycocotools takes the id 0 for no match
    for index, image_id in enumerate(sorted(val.imgs)):
        assert len(val.getAnnIds(imgIds=[image_id])) == len(tiny().scene("val", index).labels)


def test_same_files_for_any_number_of_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = tiny(num_train_images=70, num_val_images=30)
    for num_workers in (1, 2):
        counts: list[int] = []
        generator.ensure(tmp_path / str(num_workers), num_workers, counts.append)
        assert counts == list(range(1, 101))
    one = files_in(tmp_path / "1")
    assert len(one) == 103
    assert files_in(tmp_path / "2") == one
    main = sys.modules["__main__"]  # as in an interactive session: its workers cannot start, and it goes on alone
    monkeypatch.setattr(main, "__spec__", None)
    monkeypatch.setattr(main, "__file__", str(tmp_path / "stdin"), raising=False)
    generator.ensure(tmp_path / "alone", num_workers=2)
    assert files_in(tmp_path / "alone") == one


def test_ensure_again_does_nothing(made: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in made.rglob("*")}
    tiny().ensure(made, progress=lambda _: pytest.fail("made again"))
    assert {p: p.stat().st_mtime_ns for p in made.rglob("*")} == before


def test_ensure_refuses_another_set(made: Path) -> None:
    with pytest.raises(DataError, match=r"seed: 0 there, 1 asked for\): choose another folder or delete"):
        tiny(seed=1).ensure(made)
    with pytest.raises(DataError, match=r"num_val_images: 8 there, 9 asked for"):
        tiny(num_val_images=9).ensure(made)


def test_ensure_leaves_foreign_folders_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    (tmp_path / "file").write_text("x")
    for name in ("mine", "file"):
        with pytest.raises(DataError, match=f"{name} is in use and holds no generated set: choose another"):
            tiny().ensure(tmp_path / name)
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "x"
    with pytest.raises(DataError, match=r"file/below: the generated set cannot be made there"):
        tiny().ensure(tmp_path / "file" / "below")
    (tmp_path / "empty").mkdir()
    tiny().ensure(tmp_path / "empty")
    assert (tmp_path / "empty" / "generator.json").exists()


def test_ensure_notices_missing_files(tmp_path: Path) -> None:
    tiny().ensure(tmp_path / "set")
    next((tmp_path / "set" / "val").iterdir()).unlink()
    with pytest.raises(DataError, match=r"files of the generated set in .* are gone"):
        tiny().ensure(tmp_path / "set")


def test_interrupted_set_leaves_nothing(tmp_path: Path) -> None:
    def interrupt(num_done: int) -> None:
        if num_done == 20:
            raise KeyboardInterrupt

    for num_workers in (1, 2):
        with pytest.raises(KeyboardInterrupt):
            tiny(num_train_images=200).ensure(tmp_path / "set", num_workers, interrupt)
        assert list(tmp_path.iterdir()) == []


def test_later_one_of_two_drops_its_own(tmp_path: Path) -> None:
    def overtake(num_done: int) -> None:
        if num_done == 20:
            tiny().ensure(tmp_path / "set")
            (tmp_path / "set" / "mark").write_text("the first one's")

    tiny().ensure(tmp_path / "set", progress=overtake)
    assert (tmp_path / "set" / "mark").exists()
    assert [p.name for p in tmp_path.iterdir()] == ["set"]

    def overtake_with_another(num_done: int) -> None:
        if num_done == 20:
            tiny(seed=7).ensure(tmp_path / "other")

    with pytest.raises(DataError, match="seed: 7 there, 0 asked for"):
        tiny().ensure(tmp_path / "other", progress=overtake_with_another)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["other", "set"]


def test_recovers_from_a_killed_process(tmp_path: Path) -> None:
    code = (
        "import json, pathlib, sys; from sparse_rcnn.data.shapes import ShapesGenerator;"
        "ShapesGenerator(**json.loads(sys.argv[1])).ensure(pathlib.Path(sys.argv[2]), num_workers=2)"
    )
    arguments = json.dumps({**TINY, "num_train_images": 5000})
    process = subprocess.Popen([sys.executable, "-c", code, arguments, str(tmp_path / "set")], cwd=ROOT)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(".set.*.unfinished/train/*.png")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.kill()
    process.wait()
    assert not (tmp_path / "set").exists()
    (unfinished,) = tmp_path.glob(".set.*.unfinished")

    num_written = [-1]
    while len(list(unfinished.rglob("*.png"))) != num_written[-1]:
        num_written.append(len(list(unfinished.rglob("*.png"))))
        time.sleep(0.5)
    assert num_written[-1] < 5000  # its workers went with it

    tiny().ensure(tmp_path / "set")  # the leftover may belong to a process at work: left alone
    assert len(files_in(tmp_path / "set")) == 23
    assert unfinished.exists()
    for path in (unfinished, *unfinished.iterdir()):
        os.utime(path, (0, 0))
    tiny(seed=3).ensure(tmp_path / "another")
    assert unfinished.exists()  # not that set's
    (tmp_path / "set").rename(tmp_path / "moved")
    tiny().ensure(tmp_path / "set")
    assert not unfinished.exists()
