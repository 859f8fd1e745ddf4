"""The batches of a training from any step on, and those of an evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

from sparse_rcnn.data.coco import CocoDetection
from sparse_rcnn.data.loading import TrainBatches, eval_batches
from sparse_rcnn.data.transforms import EvalTransform, RandomCropRecipe, TrainTransform
from sparse_rcnn.distributed import World
from sparse_rcnn.structures import Batch
from tests.support.coco_files import box_record, dataset, image_record

CPU = torch.device("cpu")
ALONE = World(0, 1, CPU)
NUM_IMAGES = 10


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> CocoDetection:
    """Ten images with a box each, cropped and scaled at random; every other one is upright."""
    tall = {"height": 60, "width": 40}
    content: dict[str, Any] = {
        "images": [image_record(i, **(tall if i % 2 else {})) for i in range(NUM_IMAGES)],
        "annotations": [box_record(i, i, 7, [2, 3, 30, 20]) for i in range(NUM_IMAGES)],
        "categories": [{"id": 7, "name": "apple"}],
    }
    transform = TrainTransform([32, 40, 48], 100, 0.5, RandomCropRecipe(0.5, [40, 50], 20, 40))
    return dataset(tmp_path_factory.mktemp("images"), content, transform)


def batches_of(images: CocoDetection, world: World = ALONE, **changes: Any) -> TrainBatches:
    options = {"batch_size": 4, "num_micro_batches": 1, "num_workers": 0, "seed": 3}
    return TrainBatches(images, world=world, size_divisor=32, **(options | changes))


def first(batches: TrainBatches, count: int, step: int = 0) -> list[Batch]:
    return list(islice(batches.from_step(step), count))


def ids(batches: Sequence[Batch]) -> list[tuple[int, ...]]:
    return [batch.image_ids for batch in batches]


def assert_equal(a: Batch, b: Batch) -> None:
    assert a.image_ids == b.image_ids
    assert torch.equal(a.images, b.images)
    assert torch.equal(a.image_sizes_hw, b.image_sizes_hw)
    assert torch.equal(a.targets.boxes_xyxy_abs, b.targets.boxes_xyxy_abs)


@pytest.mark.parametrize(("batch_size", "steps"), [(1, 10), (4, 2), (10, 1), (16, 1)])
def test_an_epoch_is_as_many_whole_batches_as_there_are(images: CocoDetection, batch_size: int, steps: int) -> None:
    batches = batches_of(images, batch_size=batch_size)
    assert batches.num_steps_per_epoch == steps
    (batch,) = first(batches, 1)
    assert len(batch) == batch_size


@pytest.mark.parametrize(("num_micro_batches", "num_workers"), [(1, 0), (2, 0), (2, 2)])
def test_a_stream_from_a_step_is_the_rest_of_one_from_the_start(
    images: CocoDetection, num_micro_batches: int, num_workers: int
) -> None:
    options = {"num_micro_batches": num_micro_batches, "num_workers": num_workers}
    whole = first(batches_of(images, **options), 5 * num_micro_batches)
    rest = first(batches_of(images, **options), 2 * num_micro_batches, step=3)
    for a, b in zip(whole[3 * num_micro_batches :], rest, strict=True):
        assert_equal(a, b)  # to the pixel: augmented alike


def test_asked_twice_it_begins_anew(images: CocoDetection) -> None:
    batches = batches_of(images)
    late = first(batches, 1, step=4)
    early = first(batches, 5)
    assert_equal(early[4], late[0])
    assert len(set(ids(early))) > 1


def test_the_seed_decides_the_order(images: CocoDetection) -> None:
    assert ids(first(batches_of(images), 6)) == ids(first(batches_of(images), 6))
    assert ids(first(batches_of(images), 6)) != ids(first(batches_of(images, seed=4), 6))


def test_ranks_and_micro_batches_share_the_batch_of_one_process(images: CocoDetection) -> None:
    steps = 3
    alone = ids(first(batches_of(images, batch_size=8), steps))
    shares = [
        ids(first(batches_of(images, World(rank, 2, CPU), batch_size=8, num_micro_batches=2), 2 * steps))
        for rank in (0, 1)
    ]
    for step in range(steps):
        parts = [part for share in shares for part in share[2 * step : 2 * step + 2]]
        assert sum(parts, ()) == alone[step]


def test_loading_draws_nothing_from_the_global_generator(images: CocoDetection) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first(batches_of(images), 3)
    list(eval_batches(images, 4, 0, ALONE, 32))
    assert torch.equal(torch.get_rng_state(), before)


def test_an_evaluation_sees_each_image_once_over_all_processes(images: CocoDetection, tmp_path: Path) -> None:
    data = CocoDetection(images.annotations_path, images.images_path, EvalTransform(40, None), False, 0)
    for size in (1, 2, 3):
        shares = [ids(list(eval_batches(data, 3, 0, World(rank, size, CPU), 32))) for rank in range(size)]
        assert sorted(i for share in shares for batch in share for i in batch) == list(range(NUM_IMAGES))
        assert max(len(batch) for share in shares for batch in share) <= 3
