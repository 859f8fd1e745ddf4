"""A detector as a graph for other programs: ONNX, and torch.export's own format."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.ops import roi_align

from sparse_rcnn.atomic import replacing
from sparse_rcnn.detector_module import DetectorModule
from sparse_rcnn.errors import UserError
from sparse_rcnn.roi_pooler import MIN_LEVEL, MultiLevelRoIAlign, RoIPooler, assign_levels

SUFFIXES = (".onnx", ".pt2")
OUTPUTS = ("detections", "stages")
INPUT_NAMES = ("images", "image_sizes_hw")
OPSET = 18  # RoiAlign with half-pixel alignment came with 16
TOLERANCE = 1e-4
METADATA_FILE = "metadata.json"  # within a .pt2
_MAX_SIDE = 128  # of images, in units of the size divisor: 4096 pixels at 32
_MAX_BATCH = 1024


class GraphRoIAlign(RoIPooler):
    """`MultiLevelRoIAlign` by torchvision's RoIAlign, which ONNX has too: every box on every level, all but one masked.

    Nothing in it depends on how many boxes a level has, and no gather of pixels fills the memory of a program that does
    not fuse it with the sum that follows.
    """

    def forward(self, maps: Sequence[Tensor], boxes_xyxy_abs: Tensor) -> Tensor:
        """Maps p2.. (N, C, h, w) at strides 4, 8, ... and boxes (N, P, 4) to (N * P, C, S, S)."""
        boxes = boxes_xyxy_abs.flatten(0, 1)
        image = torch.arange(boxes_xyxy_abs.shape[0], device=boxes.device)[:, None].expand(boxes_xyxy_abs.shape[:2])
        rois = torch.cat((image.reshape(-1, 1).to(boxes.dtype), boxes), dim=1)
        levels = assign_levels(boxes, MIN_LEVEL, MIN_LEVEL + len(maps) - 1)
        parts = []
        for level, feature_map in enumerate(maps, MIN_LEVEL):
            is_here = levels == level
            # A box of another level becomes a point: one that is far outside of the map would read from anywhere.
            here = torch.where(is_here[:, None], rois, 0.0)
            part = roi_align(feature_map, here, self.output_size, 1 / 2**level, self.sampling_ratio, aligned=True)
            parts.append(torch.where(is_here[:, None, None, None], part, 0.0))
        return torch.stack(parts).sum(0)


class Graph(nn.Module):
    """The forward pass from a padded image to named tensors, as it is exported.

    Args:
        model: whose ``graph_outputs`` name them; a copy of it is taken.
        outputs: one of `OUTPUTS`.

    Raises:
        UserError: the detector cannot be exported; says why.
    """

    def __init__(self, model: DetectorModule, outputs: str) -> None:
        super().__init__()
        self.model = copy.deepcopy(model).cpu().eval().to(memory_format=torch.contiguous_format)
        self.outputs = outputs
        for name, module in list(self.model.named_modules()):
            if isinstance(module, MultiLevelRoIAlign):
                self.model.set_submodule(name, GraphRoIAlign(module.output_size, module.sampling_ratio))
        images, sizes_hw = self.example(2, 3)
        with torch.no_grad():
            self.output_names = tuple(self.model.graph_outputs(self.model(images, sizes_hw), sizes_hw, outputs))

    def forward(self, images: Tensor, image_sizes_hw: Tensor) -> tuple[Tensor, ...]:
        """Raw images (N, 3, H, W) uint8, zero-padded, and their sizes (N, 2) to tensors in the order of their names."""
        output = self.model(images, image_sizes_hw)
        return tuple(self.model.graph_outputs(output, image_sizes_hw, self.outputs).values())

    def example(self, num_rows: int, num_columns: int, num_images: int = 1) -> tuple[Tensor, Tensor]:
        """Noise images of some size divisors' height and width, a few pixels of which are padding, and their sizes."""
        divisor = self.model.size_divisor
        height, width = num_rows * divisor, num_columns * divisor
        generator = torch.Generator().manual_seed(num_rows)
        images = torch.randint(0, 256, (num_images, 3, height, width), dtype=torch.uint8, generator=generator)
        sizes_hw = torch.tensor([[height - 5 - i, width - i] for i in range(num_images)])
        for image, (h, w) in zip(images, sizes_hw.tolist(), strict=True):
            image[:, h:] = 0
            image[:, :, w:] = 0
        return images, sizes_hw


def export(
    model: DetectorModule, path: Path, outputs: str = "detections", metadata: dict[str, Any] | None = None
) -> Graph:
    """Write a detector as a graph whose number and size of images are dynamic.

    Args:
        model: a detector with a card.
        path: ``.onnx`` (opset `OPSET`) or ``.pt2`` (`torch.export.save`).
        outputs: ``detections`` or ``stages``.
        metadata: more of it, beside classes and preprocessing.

    Returns:
        The module that was exported, to check the file against.

    Raises:
        UserError: the suffix is another, the detector cannot be exported, or a package is missing.
    """
    check_suffix(path)
    graph = Graph(model, outputs)
    described = {**describe(model, outputs, graph.output_names), **(metadata or {})}
    height, width = (torch.export.Dim(name, min=1, max=_MAX_SIDE) for name in ("rows", "columns"))
    batch = torch.export.Dim("batch", min=1, max=_MAX_BATCH)
    shapes = {
        "images": {0: batch, 2: model.size_divisor * height, 3: model.size_divisor * width},
        "image_sizes_hw": {0: batch},
    }
    with torch.no_grad():
        # Of two images: torch.export takes a size of one for a constant.
        program = torch.export.export(graph, graph.example(2, 3, 2), dynamic_shapes=shapes)
    with replacing(path) as temporary:
        if path.suffix == ".onnx":
            _save_onnx(program, graph.output_names, temporary, described)
        else:
            with temporary.open("wb") as file:
                torch.export.save(program, file, extra_files={METADATA_FILE: json.dumps(described)})
    return graph


def check_suffix(path: Path) -> None:
    """Refuse a file name that chooses none of the formats.

    Raises:
        UserError: names the file and the suffixes.
    """
    if path.suffix not in SUFFIXES:
        raise UserError(f"{path}: the suffix chooses the format: {' or '.join(SUFFIXES)}")


def describe(model: DetectorModule, outputs: str, output_names: Sequence[str]) -> dict[str, Any]:
    """Classes and preprocessing, for the metadata of an exported file."""
    card = model.card
    assert card is not None
    return {
        "class_names": card.class_names,
        "category_ids": [category["id"] for category in card.categories],
        "short_side": card.short_side,
        "max_long_side": card.max_long_side,
        "size_divisor": model.size_divisor,
        "input": "images: RGB uint8 (N, 3, H, W), each resized so that the shorter side has short_side pixels and the "
        "longer one at most max_long_side, then zero-padded at the right and bottom to multiples of size_divisor; "
        "image_sizes_hw: int64 (N, 2), the sizes before padding. Normalisation is in the graph.",
        "outputs": outputs,
        "output_names": list(output_names),
    }


def largest_difference(graph: Graph, path: Path, sizes: Sequence[tuple[int, int, int]]) -> float:
    """The largest difference between the file's outputs and the module's, in relation to the largest number of each.

    Args:
        graph: from `export`.
        path: of the file, which ONNX Runtime or PyTorch runs.
        sizes: height and width of images, in units of the size divisor, and their number.
    """
    run = _onnx_runner(path) if path.suffix == ".onnx" else torch.export.load(path).module()
    worst = 0.0
    for size in sizes:
        images, sizes_hw = graph.example(*size)
        with torch.no_grad():
            wanted, got = graph(images, sizes_hw), run(images, sizes_hw)
        if graph.outputs == "detections":
            wanted, got = same_order(wanted, got)
        for a, b in zip(wanted, got, strict=True):
            scale = max(1.0, float(a.double().abs().max()))
            difference = float((a.double() - b.double()).abs().max()) / scale if a.numel() else 0.0
            if not difference <= worst:  # NaN is the largest
                worst = difference
    return worst


def same_order(wanted: Sequence[Tensor], got: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Boxes (N, P, 4), scores and labels (N, P) of both, one tensor after the other and image by image, in one order.

    Scores that are equal but for rounding may come in another order, and at the end one may take the place of another:
    each wanted detection gets the one of the same label and about the same score whose box is nearest, and those that
    are about as bad as the last are left out.
    """
    ours: list[Tensor] = []
    theirs: list[Tensor] = []
    for one, other in zip(zip(*wanted, strict=True), zip(*got, strict=True), strict=True):
        pair = _same_order(*one, *other)
        ours, theirs = ours + pair[0], theirs + pair[1]
    return ours, theirs


def _same_order(
    boxes: Tensor, scores: Tensor, labels: Tensor, other_boxes: Tensor, other_scores: Tensor, other_labels: Tensor
) -> tuple[list[Tensor], list[Tensor]]:
    distance = (boxes[:, None] - other_boxes[None]).abs().amax(-1).double()
    is_candidate = (labels[:, None] == other_labels) & ((scores[:, None] - other_scores).abs() <= TOLERANCE)
    nearest = distance.masked_fill(~is_candidate, float("inf")).argmin(1)
    kept = scores > scores[-1] + 2 * TOLERANCE
    return [boxes[kept], scores, labels[kept]], [other_boxes[nearest[kept]], other_scores, other_labels[nearest[kept]]]


def _save_onnx(program: Any, output_names: Sequence[str], path: Path, metadata: dict[str, Any]) -> None:
    try:
        import onnx
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(f"ONNX needs the package {error.name}: pip install 'sparse-rcnn-suite[export]'") from error
    written = torch.onnx.export(
        program,
        dynamo=True,
        opset_version=OPSET,
        input_names=list(INPUT_NAMES),
        output_names=list(output_names),
        verbose=False,
    )
    assert written is not None
    proto = written.model_proto
    onnx.helper.set_model_props(proto, {key: _text(value) for key, value in metadata.items()})
    onnx.save(proto, str(path))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _onnx_runner(path: Path) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise UserError("the check needs the package onnxruntime: pip install 'sparse-rcnn-suite[export]'") from error
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def run(images: Tensor, image_sizes_hw: Tensor) -> list[Tensor]:
        values = session.run(None, {"images": images.numpy(), "image_sizes_hw": image_sizes_hw.numpy()})
        return [torch.from_numpy(value) for value in values]

    return run
