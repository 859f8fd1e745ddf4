from __future__ import annotations

import pytest
import torch
from PIL import Image

from sparse_rcnn.errors import UserError
from sparse_rcnn.structures import Detections
from sparse_rcnn.visualize import PALETTE, draw_detections, draw_stages, grid

GREY = torch.full((3, 400, 600), 128, dtype=torch.uint8)
NONE = Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64))
NAMES = ("circle", "square")
WHITE = (255, 255, 255)


def detections(boxes: list[list[float]], scores: list[float], labels: list[int]) -> Detections:
    return Detections(torch.tensor(boxes), torch.tensor(scores), torch.tensor(labels))


def colours(picture: Image.Image) -> set[tuple[int, ...]]:
    return {colour for _, colour in picture.getcolors(maxcolors=2**24)}


def num_pixels(picture: Image.Image, colour: tuple[int, ...]) -> int:
    return {c: n for n, c in picture.getcolors(maxcolors=2**24)}.get(colour, 0)


def test_box_lies_where_it_is_and_has_the_colour_of_its_class() -> None:
    picture = draw_detections(GREY, detections([[100, 150, 300, 350]], [0.9], [1]), NAMES, 0.5)
    assert picture.size == (600, 400)
    assert picture.getpixel((100, 250)) == picture.getpixel((200, 350)) == PALETTE[1]
    assert picture.getpixel((300, 250)) == PALETTE[1]
    assert picture.getpixel((200, 250)) == (128, 128, 128)
    assert PALETTE[0] not in colours(picture)


def test_threshold_decides_what_is_shown() -> None:
    boxes = [[10.0, 50.0, 100.0, 200.0], [200.0, 50.0, 300.0, 200.0]]
    found = detections(boxes, [0.5, 0.4], [0, 1])
    assert {PALETTE[0]} == colours(draw_detections(GREY, found, NAMES, 0.5)) & set(PALETTE)
    assert {PALETTE[0], PALETTE[1]} == colours(draw_detections(GREY, found, NAMES, 0.4)) & set(PALETTE)


def test_image_itself_stays_as_it_is() -> None:
    image = GREY.clone()
    given = Image.new("RGB", (600, 400), (128, 128, 128))
    found = detections([[10, 10, 100, 100]], [0.9], [0])
    assert draw_detections(given, found, NAMES, 0.5).tobytes() == draw_detections(image, found, NAMES, 0.5).tobytes()
    assert torch.equal(image, GREY)
    assert colours(given) == {(128, 128, 128)}


def test_no_detections_leave_the_image_alone() -> None:
    assert colours(draw_detections(GREY, NONE, NAMES, 0.0)) == {(128, 128, 128)}


def test_ground_truth_is_dashed_and_named_where_it_is_missed() -> None:
    boxes = torch.tensor([[100.0, 100.0, 300.0, 300.0]])
    truth = (boxes, torch.tensor([1]))
    missed = draw_detections(GREY, NONE, NAMES, 0.5, truth)
    assert num_pixels(missed, WHITE) > 400
    left_edge = {missed.getpixel((100, y)) for y in range(100, 300)}
    assert left_edge >= {WHITE, (0, 0, 0)}
    found = draw_detections(GREY, Detections(boxes, torch.ones(1), torch.tensor([1])), NAMES, 0.5, truth)
    other_class = draw_detections(GREY, Detections(boxes, torch.ones(1), torch.tensor([0])), NAMES, 0.5, truth)
    # The filled strip of the name is what is black inside the box.
    strip = (110, 275, 150, 297)
    assert (0, 0, 0) in colours(missed.crop(strip))
    assert (0, 0, 0) in colours(other_class.crop(strip))
    assert (0, 0, 0) not in colours(found.crop(strip))


@pytest.mark.parametrize(
    ("size_hw", "expected_wh"), [((128, 128), (384, 384)), ((1, 1), (384, 384)), ((100, 150), (450, 300))]
)
def test_small_images_are_enlarged(size_hw: tuple[int, int], expected_wh: tuple[int, int]) -> None:
    image = torch.zeros(3, *size_hw, dtype=torch.uint8)
    found = detections([[0.0, 0.0, size_hw[1] / 2, size_hw[0] / 2]], [0.9], [0])
    picture = draw_detections(image, found, NAMES, 0.5)
    assert picture.size == expected_wh
    assert picture.getpixel((expected_wh[0] // 2, expected_wh[1] // 4)) == PALETTE[0]


@pytest.mark.parametrize("size_hw", [(1, 1), (1, 1500), (1500, 1), (64, 64), (700, 900)])
def test_odd_boxes_and_sizes_do_not_crash(size_hw: tuple[int, int]) -> None:
    inf, nan = float("inf"), float("nan")
    boxes = torch.tensor(
        [
            [-50.0, -50.0, -10.0, -10.0],
            [-1e30, -1e30, 1e30, 1e30],
            [5000.0, 5000.0, 6000.0, 6000.0],
            [30.0, 30.0, 10.0, 10.0],
            [5.0, 5.0, 5.0, 5.0],
            [nan, 0.0, 1.0, 1.0],
            [0.0, 0.0, inf, 1.0],
        ]
    )
    scores, labels = torch.ones(len(boxes)), torch.arange(len(boxes)) * 40
    image = torch.zeros(3, *size_hw, dtype=torch.uint8)
    draw_detections(image, Detections(boxes, scores, labels), NAMES, 0.5, (boxes, labels))
    draw_stages(image, boxes[None], scores[None], labels[None], boxes, NAMES, 0.5)


def test_boxes_out_of_sight_are_not_drawn() -> None:
    hidden = detections([[-50, -50, -10, -10], [700, 10, 800, 50]], [1.0, 1.0], [0, 1])
    assert colours(draw_detections(GREY, hidden, NAMES, 0.5)) == {(128, 128, 128)}


def test_labels_stay_on_the_picture_and_apart() -> None:
    corner = detections([[590, 0, 600, 8], [590, 0, 600, 8]], [0.9, 0.8], [0, 1])
    picture = draw_detections(GREY, corner, NAMES, 0.5)
    assert picture.size == (600, 400)
    for colour in PALETTE[:2]:  # each strip is far larger than the outline of a box of 10 x 8
        assert num_pixels(picture, colour) > 400


def test_stages_keep_the_colour_of_a_proposal() -> None:
    boxes = torch.tensor([[[10.0, 100, 90, 300], [300, 100, 380, 300]], [[20.0, 100, 100, 300], [310, 100, 390, 300]]])
    scores = torch.tensor([[0.9, 0.6], [0.7, 0.95]])  # the order changes, the colours do not
    labels = torch.zeros(2, 2, dtype=torch.int64)
    page = draw_stages(GREY, boxes, scores, labels, boxes[0], NAMES, 0.5)
    titles = page.height - 400
    assert titles > 0
    panel = page.width // 3 + 2  # a panel of 600 and the gap
    first, second = (page.crop((k * panel, titles, k * panel + 600, page.height)) for k in (1, 2))
    proposals = page.crop((0, titles, 600, page.height))
    assert first.getpixel((10, 250)) == second.getpixel((20, 250)) == PALETTE[1]
    assert first.getpixel((300, 250)) == second.getpixel((310, 250)) == PALETTE[0]
    assert WHITE in colours(proposals)
    assert not colours(proposals) & set(PALETTE)


def test_stages_show_what_passes_in_each_stage() -> None:
    boxes = torch.tensor([[[10.0, 100, 90, 300]], [[10.0, 100, 90, 300]]])
    page = draw_stages(
        GREY, boxes, torch.tensor([[0.2], [0.8]]), torch.zeros(2, 1, dtype=torch.int64), None, NAMES, 0.5
    )
    half = page.width // 2
    assert PALETTE[0] not in colours(page.crop((0, 0, half, page.height)))
    assert PALETTE[0] in colours(page.crop((half, 0, page.width, page.height)))


def test_large_images_become_panels_of_moderate_size() -> None:
    image = torch.zeros(3, 900, 1280, dtype=torch.uint8)
    boxes = torch.tensor([[[200.0, 400.0, 1000.0, 800.0]]])
    page = draw_stages(image, boxes, torch.ones(1, 1), torch.zeros(1, 1, dtype=torch.int64), None, NAMES, 0.5)
    assert page.width == 640
    assert page.getpixel((100, page.height - 450 + 300)) == PALETTE[0]


def test_grid() -> None:
    red, blue = Image.new("RGB", (30, 20), (255, 0, 0)), Image.new("RGB", (10, 40), (0, 0, 255))
    page = grid([red, blue, red], num_columns=2)
    assert page.size == (66, 86)  # cells of 30 x 40, gaps of 6
    assert page.getpixel((15, 20)) == page.getpixel((15, 66)) == (255, 0, 0)
    assert page.getpixel((36 + 15, 20)) == (0, 0, 255)
    assert num_pixels(page, (255, 0, 0)) == 2 * 30 * 20
    assert grid([red], num_columns=5).size == (30, 20)


def test_grid_of_nothing() -> None:
    with pytest.raises(UserError, match="a grid needs"):
        grid([], 3)
    with pytest.raises(UserError, match="num_columns=0"):
        grid([Image.new("RGB", (3, 3))], 0)


def test_the_surest_box_lies_on_top() -> None:
    for scores, on_top in (([0.9, 0.6], 0), ([0.6, 0.9], 1)):
        same = detections([[100, 150, 300, 350], [100, 150, 300, 350]], scores, [0, 1])
        assert draw_detections(GREY, same, NAMES, 0.5).getpixel((300, 300)) == PALETTE[on_top]
