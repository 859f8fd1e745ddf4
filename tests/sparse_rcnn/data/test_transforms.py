"""Resize, crop, flip and clipping against values worked out by hand."""

from __future__ import annotations

import pickle

import pytest
import torch
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F

from sparse_rcnn.data.transforms import (
    EvalTransform,
    RandomCropRecipe,
    ResizeShortestEdge,
    TrainTransform,
    clip_boxes,
    shortest_edge_size_hw,
)


def sample(height: int, width: int, boxes: list[list[float]]):
    """An image whose red is the column and whose green is the row, its boxes and labels 0, 1, 2 ..."""
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    image[0] = torch.arange(width)[None] % 256
    image[1] = torch.arange(height)[:, None] % 256
    return (
        tv_tensors.Image(image),
        tv_tensors.BoundingBoxes(
            torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
            format="XYXY",
            canvas_size=(height, width),
        ),
        torch.arange(len(boxes)),
    )


@pytest.mark.parametrize(
    ("size_hw", "short_side", "max_long_side", "expected"),
    [
        ((480, 640), 800, 1333, (800, 1067)),  # 1066.67: rounded, not truncated
        ((640, 480), 800, 1333, (1067, 800)),
        ((427, 640), 800, 1333, (800, 1199)),  # 1199.06
        ((333, 500), 800, 1333, (800, 1201)),  # 1201.2
        ((375, 500), 480, 1333, (480, 640)),
        ((300, 640), 800, 1333, (625, 1333)),  # 624.84 x 1333: the long side decides
        ((640, 300), 800, 1333, (1333, 625)),
        ((300, 640), 600, None, (600, 1280)),
        ((100, 100), 101, 101, (101, 101)),
        ((8, 20), 5, None, (5, 13)),  # 12.5 is rounded up
        ((1, 3000), 800, 1333, (1, 1333)),  # never to 0
    ],
)
def test_resized_size(size_hw, short_side, max_long_side, expected):
    assert shortest_edge_size_hw(size_hw, short_side, max_long_side) == expected


def test_the_chosen_side_comes_out_exactly_and_the_long_side_keeps_its_limit():
    for height in range(1, 700, 7):
        for width in range(3, 700, 11):
            for short_side in (480, 512, 800):
                free = shortest_edge_size_hw((height, width), short_side, None)
                assert min(free) == short_side
                limited = shortest_edge_size_hw((height, width), short_side, 1333)
                assert limited == free if max(free) <= 1333 else max(limited) == 1333


def test_resize_scales_boxes_by_the_exact_ratio_of_each_axis():
    image, boxes, labels = sample(100, 300, [[30, 10, 150, 90]])
    image, boxes, labels = ResizeShortestEdge([33], None)(image, boxes, labels)
    assert image.shape == (3, 33, 99)
    assert image.dtype == torch.uint8
    assert boxes.canvas_size == (33, 99)
    torch.testing.assert_close(
        boxes.as_subclass(torch.Tensor), torch.tensor([[9.9, 3.3, 49.5, 29.7]]), rtol=1e-6, atol=0
    )
    image, boxes, labels = sample(3, 8, [[0, 0, 8, 3]])
    _, boxes, _ = ResizeShortestEdge([5], None)(image, boxes, labels)
    assert boxes.tolist() == [[0, 0, 13, 5]]  # 8 * 5 / 3 = 13.33 pixels are 13: each axis by its own ratio


def test_resize_averages_when_it_shrinks():
    stripes = torch.zeros(3, 40, 40, dtype=torch.uint8)
    stripes[:, :, ::4] = 200
    small = ResizeShortestEdge([10], None)(tv_tensors.Image(stripes))
    inner = small[:, :, 1:-1].float()
    assert (inner - 50).abs().max() <= 2  # without antialiasing the stripes fall between the samples: 0


def test_every_short_side_is_drawn():
    torch.manual_seed(0)
    transform = ResizeShortestEdge([10, 20, 30], None)
    drawn = [transform(tv_tensors.Image(torch.zeros(3, 10, 15, dtype=torch.uint8))).shape[1] for _ in range(300)]
    assert sorted(set(drawn)) == [10, 20, 30]
    assert all(60 <= drawn.count(side) <= 140 for side in (10, 20, 30))


def test_flip_mirrors_boxes_and_pixels():
    image, boxes, labels = sample(50, 100, [[10, 5, 30, 45]])
    flipped, flipped_boxes, kept = TrainTransform([50], None, 1.0, None)(image, boxes, labels)
    assert flipped_boxes.tolist() == [[70, 5, 90, 45]]
    assert flipped[0, 0].tolist() == list(range(99, -1, -1))
    assert kept.tolist() == [0]
    same, same_boxes, _ = TrainTransform([50], None, 0.0, None)(image, boxes, labels)
    assert torch.equal(same, image)
    assert torch.equal(same_boxes, boxes)


def test_crop_moves_clips_and_drops_boxes():
    class Fixed(RandomCropRecipe):
        def make_params(self, flat_inputs):
            return {"size_hw": (100, 200), "crop": (10, 20, 60, 80)}

    boxes = [[15, 10, 30, 20], [0, 0, 30, 25], [60, 10, 90, 20]]
    image, boxes, labels = sample(50, 100, boxes)
    transform = TrainTransform([60], None, 0.0, Fixed(1.0, [100], 60, 80))
    cropped, kept_boxes, kept_labels = transform(image, boxes, labels)
    assert cropped.shape == (3, 60, 80)
    # Twice the size, then minus (20, 10), then clipped to 80 x 60; the third lies to the right of the crop.
    assert kept_boxes.tolist() == [[10, 10, 40, 30], [0, 0, 40, 40]]
    assert kept_labels.tolist() == [0, 1]
    assert torch.equal(cropped, F.resize(image, [100, 200])[:, 10:70, 20:100])


def test_crop_recipe_sizes_and_positions():
    torch.manual_seed(0)
    recipe = RandomCropRecipe(1.0, [40, 50, 60], 38, 60)
    image = tv_tensors.Image(torch.zeros(3, 50, 150, dtype=torch.uint8))
    resized, heights, widths, lefts = set(), set(), set(), set()
    furthest = -1000
    for _ in range(600):
        params = recipe.make_params([image])
        (full_h, full_w), (top, left, h, w) = params["size_hw"], params["crop"]
        assert full_w == 3 * full_h
        assert min(full_h, 38) <= h <= min(full_h, 60)
        assert 38 <= w <= 60
        assert 0 <= top <= full_h - h
        assert 0 <= left <= full_w - w
        resized.add(full_h)
        heights.add(h)
        widths.add(w)
        lefts.add(left)
        furthest = max(furthest, left + w - full_w)
        assert recipe.transform(image, params).shape == (3, h, w)
    assert resized == {40, 50, 60}
    assert heights == widths == set(range(38, 61))  # both ends are reached
    assert min(lefts) == 0
    assert furthest == 0  # the crop touches the left border and the right one
    small = RandomCropRecipe(1.0, [20], 38, 60).make_params([image])  # 20 x 60: smaller than min_size
    assert small["crop"][2] == 20


def test_crop_probability():
    torch.manual_seed(0)
    image, boxes, labels = sample(40, 60, [[1, 1, 5, 5]])
    done = [bool(RandomCropRecipe(0.5, [400], 384, 600).make_params([image])) for _ in range(400)]
    assert 160 <= sum(done) <= 240
    never = RandomCropRecipe(0.0, [400], 384, 600)(image, boxes, labels)
    assert torch.equal(never[0], image)
    assert torch.equal(never[1], boxes)
    assert all(RandomCropRecipe(1.0, [400], 384, 600).make_params([image]) for _ in range(50))


def test_clipping_keeps_labels_with_their_boxes():
    _, boxes, labels = sample(
        50,
        100,
        [
            [-10, -5, 20, 30],
            [90, 40, 130, 70],
            [100, 0, 120, 10],
            [5, 5, 5 + 5e-6, 9],
            [0, 0, 3e-5, 50],
            [-9, 1, -1, 9],
        ],
    )
    kept, kept_labels = clip_boxes(boxes, labels)
    torch.testing.assert_close(
        kept.as_subclass(torch.Tensor), torch.tensor([[0, 0, 20, 30], [90, 40, 100, 50], [0, 0, 3e-5, 50]])
    )
    assert kept_labels.tolist() == [0, 1, 4]
    assert isinstance(kept, tv_tensors.BoundingBoxes)
    assert kept.canvas_size == (50, 100)


def test_an_image_without_boxes_passes_through_everything():
    image, boxes, labels = sample(40, 60, [])
    crop = RandomCropRecipe(1.0, [30], 20, 30)
    image, boxes, labels = TrainTransform([64], 100, 1.0, crop)(image, boxes, labels)
    assert boxes.shape == (0, 4)
    assert labels.shape == (0,)
    assert labels.dtype == torch.int64
    assert min(image.shape[1:]) == 64 or max(image.shape[1:]) == 100


def test_eval_transform_with_and_without_boxes():
    image, boxes, labels = sample(30, 60, [[0, 0, 30, 15], [60, 0, 70, 10]])
    transform = EvalTransform(60, 90)
    alone = transform(image)
    assert isinstance(alone, tv_tensors.Image)
    assert alone.shape == (3, 45, 90)
    together, boxes, labels = transform(image, boxes, labels)
    assert torch.equal(alone, together)
    assert boxes.tolist() == [[0, 0, 45, 22.5]]
    assert labels.tolist() == [0]
    assert transform(torch.zeros(3, 30, 60, dtype=torch.uint8)).shape == (3, 45, 90)  # a plain tensor too


def test_the_same_seed_gives_the_same_result_and_another_another():
    transform = TrainTransform([32, 40, 48], 100, 0.5, RandomCropRecipe(0.5, [40, 50], 20, 30))

    def run(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return transform(*sample(60, 80, [[1, 2, 30, 40]]))[0]

    assert torch.equal(run(3), run(3))
    assert len({run(seed).sum().item() for seed in range(8)}) > 4


def test_transforms_can_be_sent_to_workers():
    transform = TrainTransform([32], None, 0.5, RandomCropRecipe(0.5, [40], 20, 30))
    again = pickle.loads(pickle.dumps(transform))
    assert again.short_sides == [32]
    assert again.crop.max_size == 30


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ResizeShortestEdge([], 1333), "short_sides must be a list of at least one"),
        (lambda: ResizeShortestEdge(480, 1333), "short_sides must be a list"),
        (lambda: ResizeShortestEdge([480, 0], 1333), "short_sides must be .* at least 1, got 0"),
        (lambda: ResizeShortestEdge([480.5], 1333), "short_sides must be a whole number"),
        (lambda: ResizeShortestEdge([480], 0), "max_long_side must be"),
        (lambda: EvalTransform(0, 1333), "short_side must be"),
        (lambda: EvalTransform(800, -1), "max_long_side must be"),
        (lambda: TrainTransform([480], 1333, 1.5, None), "flip_probability must be between 0 and 1, got 1.5"),
        (lambda: TrainTransform([480], 1333, float("nan"), None), "flip_probability must be"),
        (lambda: TrainTransform([], 1333, 0.5, None), "short_sides must be"),
        (lambda: RandomCropRecipe(-0.1, [400], 384, 600), "probability must be between 0 and 1"),
        (lambda: RandomCropRecipe(0.5, [], 384, 600), "short_sides must be"),
        (lambda: RandomCropRecipe(0.5, [400], 0, 600), "min_size must be"),
        (lambda: RandomCropRecipe(0.5, [400], 384, 0), "max_size must be"),
        (
            lambda: RandomCropRecipe(0.5, [400], 600, 384),
            "min_size must be at most max_size, got 600 and 384",
        ),
    ],
)
def test_bad_arguments_are_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()
