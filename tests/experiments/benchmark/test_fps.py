"""Frames per second: which images, which detectors, what counts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from PIL import Image

from experiments.benchmark import pictures
from experiments.benchmark.fps import Measured, fps_rows, row_fps, summary, weights_fps
from experiments.benchmark.pictures import Pictures
from experiments.benchmark.report import Row
from experiments.benchmark.workload import Setting, Workload
from sparse_rcnn.architecture import TRUSTED_MODULES
from sparse_rcnn.data.coco import Sample
from sparse_rcnn.errors import UserError
from sparse_rcnn.weights import save_detector
from tests.support.detectors import small_card, small_detector
from tests.support.training import GENERATOR, data_root, overrides, train

CPU = torch.device("cpu")
FLOAT32, BFLOAT16 = Setting("float32"), Setting("bfloat16", ("train.precision=bf16",))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i in range(4):
        Image.new("RGB", (90 + i, 60)).save(tmp_path / f"{i}.png")
    return tmp_path


def test_images_go_through_all_sides_in_turn_and_those_that_warm_up_do_not_count(folder: Path) -> None:
    model, read = small_detector(card=small_card()), []
    files = pictures.of_folder(folder, small_card(), max_images=100)

    def counted(index: int) -> Sample:
        read.append(index)
        return files.read(index)

    sides = {"a": Measured(model, "fp32"), "b": Measured(model, "bf16")}
    rows = fps_rows(sides, Pictures(files.num_images, counted), CPU)
    assert [(r.setting, r.part, r.dtype) for r in rows] == [
        (name, part, dtype) for name, dtype in (("a", "fp32"), ("b", "bf16")) for part in ("read", "detect", "total")
    ]
    assert read == [index for index in (0, 1, 2, 0, 1, 2, 3) for _ in sides]
    reading, detecting, total = rows[:3]
    assert len(total.seconds) == 4
    assert total.seconds == [a + b for a, b in zip(reading.seconds, detecting.seconds, strict=True)]


def test_lines_by_hand() -> None:
    rows = [
        Row("fps", "a", "read", [0.3] * 2),
        Row("fps", "a", "detect", [0.2] * 2),
        Row("fps", "a", "total", [0.5] * 2),
    ]
    assert summary(rows) == [
        "a: 5.00 frames per second from the padded image to its detections, 2.00 with reading and resizing "
        "(2 images, one at a time)"
    ]


def test_a_folders_images_have_the_size_of_evaluation_and_are_the_first(folder: Path) -> None:
    chosen = pictures.of_folder(folder, small_card(), max_images=2)
    assert chosen.num_images == 2
    sample = chosen.read(1)
    assert tuple(sample.image.shape[1:]) == (63, 96), "64 pixels would make the long side 97"
    assert sample.original_size_hw == (60, 91)


def test_a_row_is_measured_on_its_own_validation_images() -> None:
    workload = Workload("mini", "baseline", (*GENERATOR, f"data.root={data_root()}"), (1, 1), 1)
    rows = row_fps(workload, [FLOAT32, BFLOAT16], CPU, images=None, max_images=3)
    assert {len(row.seconds) for row in rows} == {3}
    assert {row.setting for row in rows} == {"float32", "bfloat16"}


def weights_of(tmp_path: Path) -> Path:
    model = small_detector(card=small_card())
    save_detector(model, small_card(), tmp_path / "m.safetensors")
    return tmp_path / "m.safetensors"


def measure(path: Path, images: Path | None, settings: Sequence[Setting] = (FLOAT32,)) -> list[Row]:
    return weights_fps(path, TRUSTED_MODULES, settings, CPU, images, max_images=2)


def test_a_weights_file_on_a_folder(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    rows = measure(weights_of(tmp_path_factory.mktemp("weights")), folder, [FLOAT32, BFLOAT16])
    assert [len(row.seconds) for row in rows] == [2] * 6


def test_a_run_on_its_own_validation_images(tmp_path: Path) -> None:
    run = train(overrides(tmp_path))
    rows = measure(run, None)
    assert [(row.part, len(row.seconds)) for row in rows] == [("read", 2), ("detect", 2), ("total", 2)]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ([FLOAT32], "m.safetensors is not a run directory, so it has no images: give --images FOLDER"),
        (
            [Setting("few", ("model.num_proposals=20",))],
            "--setting few: model.num_proposals=20 is of a row; of a detector that is read from a file a setting "
            "changes train.precision and train.channels_last alone",
        ),
    ],
)
def test_mistakes(tmp_path: Path, settings: list[Setting], message: str) -> None:
    with pytest.raises(UserError, match=message.replace(".", r"\.")):
        measure(weights_of(tmp_path), None, settings)


def test_no_image_is_an_error() -> None:
    with pytest.raises(UserError, match="there is no image to measure on"):
        fps_rows({"a": Measured(small_detector(card=small_card()), "fp32")}, Pictures(0, lambda _: None), CPU)  # type: ignore[arg-type,return-value]
