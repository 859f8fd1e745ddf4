"""Pictures of detections: one image, one image stage by stage, and pictures in a grid."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from PIL import Image, ImageDraw
from torch import Tensor
from torchvision.ops import box_iou

from sparse_rcnn import fonts
from sparse_rcnn.errors import UserError
from sparse_rcnn.structures import Detections

Colour = tuple[int, int, int]
BoxTuple = tuple[float, float, float, float]

# Okabe and Ito's palette, told apart with every common colour blindness; its black is left to the outlines.
PALETTE: tuple[Colour, ...] = (
    (230, 159, 0),
    (86, 180, 233),
    (240, 228, 66),
    (0, 158, 115),
    (204, 121, 167),
    (213, 94, 0),
    (0, 114, 178),
)
_WHITE: Colour = (255, 255, 255)
_BLACK: Colour = (0, 0, 0)
_PAGE: Colour = (32, 32, 32)
_MIN_LONG_SIDE = 384
_MAX_PANEL_SIDE = 640
_GAP = 6


def draw_detections(
    image: Tensor | Image.Image,
    detections: Detections,
    class_names: Sequence[str],
    score_threshold: float,
    ground_truth: tuple[Tensor, Tensor] | None = None,
) -> Image.Image:
    """One image with its detections of at least ``score_threshold``, one colour a class.

    ``image``: uint8 (3, H, W) RGB or a PIL image; small ones are enlarged, so that the text can be read.
    ``detections`` in pixels of ``image``. ``ground_truth``: boxes_xyxy_abs (M, 4) and labels (M,), drawn as
    dashed white boxes; those that no detection shown finds (same class, IoU 0.5) carry their class.
    """
    fonts.warn_of_missing(class_names)
    shown = detections.to("cpu").above(score_threshold)
    canvas = _Canvas(_to_picture(image), max_long_side=None)
    if ground_truth is not None:
        boxes, labels = (tensor.cpu() for tensor in ground_truth)
        found = (box_iou(boxes.float(), shown.boxes_xyxy_abs.float()) >= 0.5) & (labels[:, None] == shown.labels)
        for box, label, is_found in zip(boxes.tolist(), labels.tolist(), found.any(1).tolist(), strict=True):
            canvas.dashed_box(box)
            if not is_found:
                canvas.label(box, _class_name(class_names, label), _BLACK, at_bottom=True)
    order = torch.argsort(shown.scores, descending=True, stable=True).tolist()
    items = list(zip(shown.boxes_xyxy_abs.tolist(), shown.scores.tolist(), shown.labels.tolist(), strict=True))
    # The surest are drawn last, on top of the others, but choose the place of their text first.
    for i in reversed(order):
        canvas.box(items[i][0], PALETTE[items[i][2] % len(PALETTE)])
    for i in order:
        box, score, label = items[i]
        text = f"{_class_name(class_names, label)} {score:.2f}"
        canvas.label(box, text, PALETTE[label % len(PALETTE)])
    return canvas.picture


def draw_stages(
    image: Tensor | Image.Image,
    boxes_xyxy_abs: Tensor,
    scores: Tensor,
    labels: Tensor,
    proposals_xyxy_abs: Tensor | None,
    class_names: Sequence[str],
    score_threshold: float,
) -> Image.Image:
    """The proposals and every stage's boxes side by side; a proposal keeps its colour over the stages.

    Shapes: ``image`` uint8 (3, H, W); ``boxes_xyxy_abs`` (S, P, 4) in its pixels, ``scores`` and ``labels``
    (S, P), the best class of each; ``proposals_xyxy_abs`` (P, 4), drawn in white, None for a detector without learned
    boxes. A stage shows the boxes that it gives at least ``score_threshold`` itself.
    """
    fonts.warn_of_missing(class_names)
    picture = _to_picture(image)
    panels = []
    if proposals_xyxy_abs is not None:
        canvas = _Canvas(picture, max_long_side=_MAX_PANEL_SIDE)
        for box in proposals_xyxy_abs.tolist():
            canvas.box(box, _WHITE, thin=True)
        panels.append(_titled(canvas.picture, f"{len(proposals_xyxy_abs)} proposals"))

    # Colours go round by the last stage's order, so that its surest boxes differ from one another.
    ranks = [0] * (scores.shape[1] if len(scores) else 0)
    if len(scores):
        for rank, proposal in enumerate(torch.argsort(scores[-1], descending=True, stable=True).tolist()):
            ranks[proposal] = rank
    for stage, (stage_boxes, stage_scores, stage_labels) in enumerate(
        zip(boxes_xyxy_abs.tolist(), scores.tolist(), labels.tolist(), strict=True)
    ):
        canvas = _Canvas(picture, max_long_side=_MAX_PANEL_SIDE)
        shown = [p for p, score in enumerate(stage_scores) if score >= score_threshold]
        shown.sort(key=lambda p: -stage_scores[p])
        for p in reversed(shown):
            canvas.box(stage_boxes[p], PALETTE[ranks[p] % len(PALETTE)])
        for p in shown:
            text = f"{_class_name(class_names, stage_labels[p])} {stage_scores[p]:.2f}"
            canvas.label(stage_boxes[p], text, PALETTE[ranks[p] % len(PALETTE)])
        panels.append(_titled(canvas.picture, f"stage {stage}: {len(shown)} of {len(stage_scores)}"))
    return grid(panels, len(panels))


def grid(pictures: Sequence[Image.Image], num_columns: int) -> Image.Image:
    """Pictures row by row in ``num_columns`` columns, each in the middle of a cell of the largest size.

    Raises: UserError for no pictures or no columns.
    """
    if not pictures or num_columns < 1:
        raise UserError(f"num_columns={num_columns}, {len(pictures)} pictures: a grid needs one of each at least")
    num_columns = min(num_columns, len(pictures))
    num_rows = math.ceil(len(pictures) / num_columns)
    width, height = max(p.width for p in pictures), max(p.height for p in pictures)
    page = Image.new("RGB", (num_columns * (width + _GAP) - _GAP, num_rows * (height + _GAP) - _GAP), color=_PAGE)
    for i, picture in enumerate(pictures):
        row, column = divmod(i, num_columns)
        left = column * (width + _GAP) + (width - picture.width) // 2
        top = row * (height + _GAP) + (height - picture.height) // 2
        page.paste(picture, (left, top))
    return page


class _Canvas:
    """A picture that boxes, in pixels of the original image, and their labels are drawn on."""

    def __init__(self, picture: Image.Image, max_long_side: int | None) -> None:
        long_side = max(picture.size)
        self.scale = float(max(1, math.ceil(_MIN_LONG_SIDE / long_side)))
        if max_long_side is not None and long_side > max_long_side:
            self.scale = max_long_side / long_side
        width, height = (max(1, round(side * self.scale)) for side in picture.size)
        if (width, height) != picture.size:
            picture = picture.resize((width, height), Image.Resampling.BICUBIC)
        self.picture = picture.copy()
        self.draw = ImageDraw.Draw(self.picture)
        self.line_width = 2 if max(width, height) < 900 else 3
        self.font_size = _font_size(max(width, height))
        self._taken: list[BoxTuple] = []

    def box(self, box_xyxy_abs: Sequence[float], colour: Colour, thin: bool = False) -> None:
        """An outline with a dark edge, to be seen on any background."""
        corners = self._on_picture(box_xyxy_abs)
        if corners is None:
            return
        width = 1 if thin else self.line_width
        x1, y1, x2, y2 = corners
        self.draw.rectangle((x1 - 1, y1 - 1, x2 + 1, y2 + 1), outline=_BLACK, width=width + 2)
        self.draw.rectangle(corners, outline=colour, width=width)

    def dashed_box(self, box_xyxy_abs: Sequence[float]) -> None:
        corners = self._on_picture(box_xyxy_abs)
        if corners is None:
            return
        x1, y1, x2, y2 = corners
        dash = 4 * self.line_width
        self.draw.rectangle(corners, outline=_BLACK, width=self.line_width)
        for start in range(int(x1), int(x2) + 1, 2 * dash):
            for y in (y1, y2):
                self.draw.line((start, y, min(start + dash, x2), y), fill=_WHITE, width=self.line_width)
        for start in range(int(y1), int(y2) + 1, 2 * dash):
            for x in (x1, x2):
                self.draw.line((x, start, x, min(start + dash, y2)), fill=_WHITE, width=self.line_width)

    def label(self, box_xyxy_abs: Sequence[float], text: str, colour: Colour, at_bottom: bool = False) -> None:
        """Text on a filled strip at the box, where it covers the least of the labels so far."""
        corners = self._on_picture(box_xyxy_abs)
        if corners is None:
            return
        x1, y1, x2, y2 = corners
        metrics = [font.getmetrics() for _, font in fonts.runs(text, self.font_size)]
        width, height = fonts.length(text, self.font_size) + 6, max(map(sum, metrics)) + 2
        tops = (y2 - height, y2) if at_bottom else (y1 - height, y1, y2)
        places = [self._strip(left, top, width, height) for left in (x1, x2 - width) for top in tops]
        strip = min(places, key=lambda place: sum(_overlap(place, taken) for taken in self._taken))
        self._taken.append(strip)
        self.draw.rectangle(strip, fill=colour)
        luminance = (299 * colour[0] + 587 * colour[1] + 114 * colour[2]) / 1000
        ink = _BLACK if luminance > 110 else _WHITE
        fonts.draw_text(self.draw, (strip[0] + 3, strip[1] + 1), text, ink, self.font_size)

    def _strip(self, left: float, top: float, width: float, height: float) -> BoxTuple:
        """A strip of this size, moved onto the picture."""
        left = max(0.0, min(left, self.picture.width - width))
        top = max(0.0, min(top, self.picture.height - height))
        return left, top, left + width, top + height

    def _on_picture(self, box_xyxy_abs: Sequence[float]) -> BoxTuple | None:
        """The box in pixels of the picture, its far-off edges moved to just outside; None if out of sight."""
        if not all(math.isfinite(value) for value in box_xyxy_abs):
            return None
        (x1, x2), (y1, y2) = (sorted(v * self.scale for v in box_xyxy_abs[i::2]) for i in (0, 1))
        width, height = self.picture.size
        if x2 < 0 or y2 < 0 or x1 > width or y1 > height:
            return None
        margin = 4.0 * self.line_width
        return max(x1, -margin), max(y1, -margin), min(x2, width + margin), min(y2, height + margin)


def _overlap(a: BoxTuple, b: BoxTuple) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return max(0.0, width) * max(0.0, height)


def _to_picture(image: Tensor | Image.Image) -> Image.Image:
    if isinstance(image, Image.Image):
        return image.convert("RGB")
    assert image.dtype == torch.uint8, image.dtype
    assert image.ndim == 3, image.shape
    assert image.shape[0] == 3, image.shape
    return Image.fromarray(image.permute(1, 2, 0).contiguous().cpu().numpy())


def _titled(picture: Image.Image, title: str) -> Image.Image:
    """The picture under a strip that carries its title."""
    font = fonts.load(None, _font_size(max(picture.size)))
    height = sum(font.getmetrics()) + 8
    page = Image.new("RGB", (picture.width, picture.height + height), color=_PAGE)
    page.paste(picture, (0, height))
    ImageDraw.Draw(page).text((4, 4), title, fill=_WHITE, font=font)
    return page


def _font_size(long_side: int) -> int:
    return min(28, max(12, round(long_side * 0.022)))


def _class_name(class_names: Sequence[str], label: int) -> str:
    """The name, or the number where the names given do not reach (a model of more classes than the data)."""
    return fonts.one_line(class_names[label]) if 0 <= label < len(class_names) else f"class {label}"
