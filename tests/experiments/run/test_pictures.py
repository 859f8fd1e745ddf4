"""Words on data sets before a training: crowds, pictures of both splits, pictures left out and their record."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from experiments.run.pictures import (
    as_recorded,
    read_record,
    readable_pictures,
    record_of,
    warn_of_crowds,
    warn_of_empty_classes,
    warn_of_shared_pictures,
)
from sparse_rcnn.data.coco import CocoDetection
from sparse_rcnn.data.findings import DataWarning
from sparse_rcnn.distributed import World, init_world
from sparse_rcnn.errors import DataError
from tests.support.coco_files import AS_IS, box_record, dataset, image_record, small_set, write_annotations


@pytest.fixture(scope="module")
def world() -> World:
    return init_world("cpu")


def crowd(number: int, category_ids: tuple[int, ...] = (1,)) -> dict[str, Any]:
    boxes = [box_record(i, 1, category_ids[i % len(category_ids)], [i / 100, 1, 5, 5]) for i in range(number)]
    return {
        "images": [image_record(1), image_record(2)],
        "annotations": boxes,
        "categories": [{"id": i, "name": str(i)} for i in category_ids],
    }


def words(recwarn: pytest.WarningsRecorder) -> list[str]:
    return [str(warning.message) for warning in recwarn if warning.category is DataWarning]


def test_more_objects_than_proposals(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    crowded = dataset(tmp_path, crowd(12))
    warn_of_crowds({"train": crowded, "val": crowded}, num_proposals=12, max_dets=[100, 300])
    assert words(recwarn) == []
    warn_of_crowds({"train": crowded, "val": crowded}, num_proposals=11, max_dets=[100, 300])
    assert words(recwarn)[0].endswith(
        "1 image of 2 with more objects than num_proposals=11 (up to 12; the first is 1.png (image id 1)): "
        "not all can be found; raise num_proposals"
    )


@pytest.mark.parametrize(
    ("number", "category_ids", "max_dets", "expected"),
    [
        (100, (1,), [100, 300], None),
        (150, (1, 2), [100, 300], None),  # 75 of each
        (150, (1,), [100, 300], "the numbers at 300 are under val/bbox_maxdets300"),
        (400, (1,), [100, 300], "eval.max_dets=[100,300,400] adds the numbers at 400"),
        (400, (1,), [500], "the numbers at 500 are under val/bbox_maxdets500"),
    ],
)
def test_more_objects_of_a_class_than_are_counted(
    tmp_path: Path,
    recwarn: pytest.WarningsRecorder,
    number: int,
    category_ids: tuple[int, ...],
    max_dets: list[int],
    expected: str | None,
) -> None:
    crowded = dataset(tmp_path, crowd(number, category_ids))
    warn_of_crowds({"train": crowded, "val": crowded}, num_proposals=1000, max_dets=max_dets)
    assert [line.split("; ")[-1] for line in words(recwarn)] == ([] if expected is None else [expected])


def test_classes_without_a_box_to_learn_from(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    warn_of_empty_classes(dataset(tmp_path, small_set()))
    assert words(recwarn) == []
    content = small_set()
    content["categories"] += [{"id": 0, "name": "DontCare"}, {"id": 99, "name": "fruit"}]
    content["categories"][1]["supercategory"] = "fruit"
    data = dataset(tmp_path, content)
    recwarn.clear()
    warn_of_empty_classes(data)
    (line,) = words(recwarn)  # that on the root category came with the file
    assert line.endswith("instances.json: no box of 1 class of 4: DontCare; excluded_categories=[0] leaves classes out")


def test_pictures_of_both_splits(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    train = dataset(tmp_path, small_set())
    warn_of_shared_pictures({"train": train, "val": train})  # as recipe=overfit does, on purpose
    assert words(recwarn) == []
    (tmp_path / "other").mkdir()
    content = {**small_set(), "images": small_set()["images"][:1], "annotations": small_set()["annotations"][:1]}
    val = CocoDetection(write_annotations(tmp_path / "other", content), train.images_path, AS_IS, False, 0)
    warn_of_shared_pictures({"train": train, "val": val})
    (line,) = words(recwarn)
    assert line.startswith(f"1 picture of {val.annotations_path} is in {train.annotations_path} too (")
    assert line.endswith("70.png): what is evaluated on was trained on")


def test_what_a_run_was_begun_without_stays_out(tmp_path: Path, world: World) -> None:
    begun = dataset(tmp_path, small_set(), skip_unreadable=True)
    file = tmp_path / "images" / "9.png"
    content = file.read_bytes()
    file.write_bytes(content[:100])
    with pytest.warns(DataWarning, match="1 picture left out"):
        sets = readable_pictures({"train": begun}, world)
    assert sets["train"].image_ids == [5, 70]
    record = record_of(sets)
    assert record["train"]["left_out_image_ids"] == [9]
    assert (record["train"]["num_images"], record["train"]["num_objects"]) == (2, 3)
    assert record["train"]["categories"] == [{"id": 7, "name": "apple"}, {"id": 44, "name": "zebra"}]
    assert [finding["level"] for finding in record["train"]["findings"]] == ["left out"]

    file.write_bytes(content)  # repaired: the run goes on as it was begun
    again = dataset_of_files(tmp_path, skip_unreadable=True)
    assert as_recorded({"train": again}, record)["train"].image_ids == [5, 70]
    assert as_recorded({"train": again}, {})["train"].image_ids == [5, 9, 70]  # a run of before the record

    file.unlink()  # one that is missing is as one that is broken
    with pytest.warns(DataWarning, match="1 image left out"):
        without = dataset_of_files(tmp_path, skip_unreadable=True)
    assert record_of({"train": without})["train"]["left_out_image_ids"] == [9]
    assert as_recorded({"train": without}, record)["train"].image_ids == [5, 70]
    begun_with_all = record_of({"train": begun})
    with pytest.raises(DataError, match=r"1 picture that the run was begun with cannot .* image id 9; restore it"):
        as_recorded({"train": without}, begun_with_all)
    assert as_recorded({"train": without}, {})["train"].image_ids == [5, 70]

    file.write_bytes(content[:100])
    with pytest.raises(DataError, match="skip_unreadable=True to leave such pictures out"):
        readable_pictures({"train": dataset_of_files(tmp_path, skip_unreadable=False)}, world)


def dataset_of_files(folder: Path, skip_unreadable: bool) -> CocoDetection:
    """The small set with the pictures that are there."""
    annotations = write_annotations(folder, small_set())
    return CocoDetection(annotations, folder / "images", AS_IS, False, 0, skip_unreadable=skip_unreadable)


def test_only_a_run_with_a_checkpoint_is_one_from_before_the_record(tmp_path: Path) -> None:
    assert read_record(tmp_path) is None  # killed before it was written
    (tmp_path / "checkpoints").mkdir()
    assert read_record(tmp_path) == {}
    (tmp_path / "data.json").write_text('{"train": {"left_out_image_ids": [9]}}')
    assert read_record(tmp_path) == {"train": {"left_out_image_ids": [9]}}
