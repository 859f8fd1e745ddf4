"""Padding of batches, and which images the samplers put together."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
import torch
from torchvision import tv_tensors

from sparse_rcnn.data.batching import AspectRatioBatchSampler, EvalBatchSampler, collate
from sparse_rcnn.data.coco import Sample


def sample(image_id: int, height: int, width: int, num_boxes: int) -> Sample:
    return Sample(
        image=tv_tensors.Image(torch.full((3, height, width), image_id, dtype=torch.uint8)),
        boxes_xyxy_abs=torch.arange(num_boxes * 4, dtype=torch.float32).reshape(-1, 4),
        labels=torch.arange(num_boxes),
        image_id=image_id,
        original_size_hw=(height * 2, width * 2),
    )


def test_collate_pads_with_zeros_to_multiples_of_32():
    batch = collate([sample(7, 33, 40, 2), sample(8, 20, 64, 0)], 32)
    assert batch.images.shape == (2, 3, 64, 64)
    assert batch.images.dtype == torch.uint8
    assert type(batch.images) is torch.Tensor
    assert (batch.images[0, :, :33, :40] == 7).all()
    assert (batch.images[1, :, :20, :64] == 8).all()
    assert int((batch.images[0] != 0).sum()) == 3 * 33 * 40
    assert int((batch.images[1] != 0).sum()) == 3 * 20 * 64
    assert batch.image_sizes_hw.tolist() == [[33, 40], [20, 64]]
    assert batch.image_sizes_hw.dtype == torch.int64
    assert batch.original_sizes_hw.tolist() == [[66, 80], [40, 128]]
    assert batch.image_ids == (7, 8)
    assert batch.targets.num_per_image == (2, 0)
    assert batch.targets.boxes_xyxy_abs[0].tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert batch.targets.labels.tolist() == [[0, 1], [0, 0]]


def test_collate_of_one_image_and_other_divisors():
    assert collate([sample(1, 32, 96, 0)], 32).images.shape == (1, 3, 32, 96)  # nothing to pad
    assert collate([sample(1, 33, 95, 1)], size_divisor=1).images.shape == (1, 3, 33, 95)
    assert collate([sample(1, 33, 95, 0)], 32).targets.boxes_xyxy_abs.shape == (1, 0, 4)


def sizes(num_portrait: int, num_landscape: int) -> np.ndarray:
    """Portrait first; a square counts as landscape."""
    landscape = [[480, 640], [500, 500]] * num_landscape
    return np.array([[640, 480]] * num_portrait + landscape[:num_landscape])


def sampler(image_sizes_hw, batch_size, seed=0, num_replicas=1, rank=0, num_micro_batches=1) -> AspectRatioBatchSampler:
    return AspectRatioBatchSampler(image_sizes_hw, batch_size, seed, num_replicas, rank, num_micro_batches)


@pytest.mark.parametrize(
    ("num_portrait", "num_landscape", "num_mixed"),
    [(8, 12, 0), (9, 13, 0), (10, 14, 1), (11, 15, 1), (0, 9, 0), (3, 1, 1), (2, 2, 1), (7, 0, 0)],
)
def test_an_epoch_is_made_of_pure_batches_and_at_most_one_mixed(num_portrait, num_landscape, num_mixed):
    stream = sampler(sizes(num_portrait, num_landscape), 4)
    num_steps = (num_portrait + num_landscape) // 4
    assert stream.steps_per_epoch == num_steps
    for epoch in range(5):
        batches = stream.epoch_batches(epoch)
        assert len(batches) == num_steps
        assert all(len(batch) == 4 for batch in batches)
        assert {e for batch in batches for e, _ in batch} == {epoch}
        indices = [i for batch in batches for _, i in batch]
        assert len(set(indices)) == len(indices)  # no image twice in an epoch
        kinds = [{i < num_portrait for _, i in batch} for batch in batches]
        assert sum(len(kind) == 2 for kind in kinds) == num_mixed


def test_epochs_and_seeds_differ_and_repeat():
    a = sampler(sizes(20, 40), 4)
    assert a.epoch_batches(0) == sampler(sizes(20, 40), 4).epoch_batches(0)
    orders = [[i for batch in a.epoch_batches(epoch) for _, i in batch] for epoch in range(6)]
    orders += [[i for batch in sampler(sizes(20, 40), 4, seed=1).epoch_batches(0) for _, i in batch]]
    assert len({tuple(order) for order in orders}) == 7


def test_batches_of_both_groups_come_in_random_order():
    firsts = [sampler(sizes(40, 40), 4).epoch_batches(epoch)[0][0][1] < 40 for epoch in range(40)]
    assert 8 <= sum(firsts) <= 32


def test_whoever_sits_out_does_not_depend_on_the_aspect():
    stream = sampler(sizes(11, 11), 10)  # remainders 1 and 1: two images sit out, one of each group
    stream_mixed = sampler(sizes(16, 17), 10)  # remainders 6 and 7: a mixed batch, three sit out
    out = np.zeros(33)
    for epoch in range(200):
        assert len({i for batch in stream.epoch_batches(epoch) for _, i in batch}) == 20
        used = {i for batch in stream_mixed.epoch_batches(epoch) for _, i in batch}
        out[list(set(range(33)) - used)] += 1
    assert out.sum() == 600
    assert 200 < out[:16].sum() < 400  # about half of them portrait


def test_a_data_set_smaller_than_a_batch_is_repeated():
    stream = sampler(sizes(1, 2), 8)
    assert stream.steps_per_epoch == 1
    first, second = islice(iter(stream), 2)
    assert len(first) == len(second) == 8
    indices = [i for _, i in first]
    assert sorted(indices[:3]) == [0, 1, 2]
    assert indices[3:6] == indices[:3]
    assert indices[6:] == indices[:2]
    # Every pass is an epoch of its own: the copies of an image are augmented differently, and never again.
    assert [e for e, _ in first] == [0] * 3 + [1] * 3 + [2] * 2
    assert [e for e, _ in second] == [3] * 3 + [4] * 3 + [5] * 2


@pytest.mark.parametrize(("num_replicas", "num_micro_batches"), [(1, 4), (2, 1), (4, 1), (2, 2), (4, 2)])
@pytest.mark.parametrize("image_sizes_hw", [sizes(13, 30), sizes(1, 2)], ids=["large", "small"])
def test_ranks_and_micro_batches_together_are_the_single_process_batch(image_sizes_hw, num_replicas, num_micro_batches):
    num_steps = 12
    single = list(islice(iter(sampler(image_sizes_hw, 8)), num_steps))
    streams = [
        list(
            islice(
                iter(sampler(image_sizes_hw, 8, 0, num_replicas, rank, num_micro_batches)),
                num_steps * num_micro_batches,
            )
        )
        for rank in range(num_replicas)
    ]
    for step in range(num_steps):
        parts = [stream[step * num_micro_batches + micro] for stream in streams for micro in range(num_micro_batches)]
        assert {len(part) for part in parts} == {8 // (num_replicas * num_micro_batches)}
        assert [key for part in parts for key in part] == single[step]


@pytest.mark.parametrize("num_micro_batches", [1, 2])
def test_a_resumed_stream_goes_on_where_it_stopped(num_micro_batches):
    def stream() -> AspectRatioBatchSampler:
        return sampler(sizes(13, 30), 8, 3, 2, 1, num_micro_batches)

    whole = list(islice(iter(stream()), 20 * num_micro_batches))
    for step in (0, 1, 4, 5, 6, 13):  # 5 steps make an epoch
        resumed = stream()
        resumed.start_at(step)
        rest = whole[step * num_micro_batches :]
        assert list(islice(iter(resumed), len(rest))) == rest


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"batch_size": 10, "num_replicas": 2, "num_micro_batches": 2},
            "batch_size 10 must be divisible by .* = 4",
        ),
        ({"batch_size": 0}, "must be at least 1, got 0, 1 and 1"),
        ({"batch_size": 4, "num_micro_batches": 0}, "must be at least 1, got 4, 1 and 0"),
        ({"batch_size": 4, "num_replicas": 2, "rank": 2}, "rank must be within 0 and 1, got 2"),
        ({"batch_size": 4, "seed": -1}, "seed must be at least 0, got -1"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        sampler(sizes(5, 5), **arguments)


def test_no_images_and_a_negative_step():
    with pytest.raises(ValueError, match="image_sizes_hw is empty"):
        sampler(np.zeros((0, 2), np.int64), 4)
    with pytest.raises(ValueError, match="step must be at least 0, got -1"):
        sampler(sizes(5, 5), 4).start_at(-1)


@pytest.mark.parametrize("num_replicas", [1, 2, 3, 8])
@pytest.mark.parametrize("group_by_aspect", [True, False])
def test_evaluation_sees_every_image_once(num_replicas, group_by_aspect):
    image_sizes_hw = np.random.default_rng(0).integers(100, 600, (23, 2))
    shares = []
    for rank in range(num_replicas):
        share = EvalBatchSampler(image_sizes_hw, 4, num_replicas, rank, group_by_aspect)
        batches = list(share)
        assert len(batches) == len(share)
        assert all(len(batch) == 4 for batch in batches[:-1])
        assert batches == list(share)
        shares.append([i for batch in batches for i in batch])
    assert sorted(i for share in shares for i in share) == list(range(23))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_evaluation_batches_are_alike_in_aspect():
    portrait, landscape = [640, 480], [480, 640]
    image_sizes_hw = np.array([portrait, landscape] * 8)
    for batch in EvalBatchSampler(image_sizes_hw, 4, 1, 0):
        assert len({i % 2 for i in batch}) == 1
    assert next(iter(EvalBatchSampler(image_sizes_hw, 4, 1, 0, group_by_aspect=False))) == [0, 1, 2, 3]


def test_more_ranks_than_evaluation_images():
    share = EvalBatchSampler(sizes(1, 1), 4, 3, 2)
    assert len(share) == 0
    assert list(share) == []
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        EvalBatchSampler(sizes(1, 1), 0, 1, 0)
    with pytest.raises(ValueError, match="rank must be within 0 and num_replicas - 1 = 0, got 1"):
        EvalBatchSampler(sizes(1, 1), 4, 1, 1)
