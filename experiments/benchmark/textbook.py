"""The suite's detector against a textbook's, on the same weights and inputs."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from experiments.benchmark.measure import TOTAL, interleaved, timed
from experiments.benchmark.report import Row
from experiments.benchmark.textbook_data import data_sides
from experiments.benchmark.workload import Setting, Workload
from experiments.config.build import build_criterion
from experiments.config.rows import compose_row
from sparse_rcnn.errors import UserError
from sparse_rcnn.eval_mode import eval_mode
from sparse_rcnn.precision import autocast
from sparse_rcnn.structures import StageOutput

CHECKOUT = Path(__file__).parents[2]
SIZE_HW = (800, 1066)
TEXTBOOK, DATA = "textbook", "data loading"


def textbook() -> Any:
    """The module of the reference, which the tests keep.

    Raises:
        UserError: there is no checkout around this package.
    """
    file = CHECKOUT / "tests" / "support" / "textbook.py"
    if not file.is_file():
        raise UserError(
            f"{file} is absent: the textbook's detector is in a checkout, not in the wheel; run it from one"
        )
    sys.path.insert(0, str(CHECKOUT))
    return importlib.import_module("tests.support.textbook")


def textbook_rows(
    overrides: Sequence[str],
    settings: Sequence[Setting],
    device: torch.device,
    num_repeats: int,
    only: str | None = None,
) -> list[Row]:
    """Forward pass, head, head with loss, criterion and RoI pooling of the paper's detector, ours and the textbook's.

    Each setting is one side of ours; the first side is the textbook's, in float32. Data loading is added where the
    overrides name a data set that is there.

    Args:
        only: a part of the names of what is measured; None measures all.

    Raises:
        UserError: there is no checkout, or nothing of that name.
    """
    reference = textbook()
    rows: list[Row] = []

    def measure(sides: dict[str, dict[str, Callable[[], Any]]]) -> None:
        for name, of_settings in sides.items():
            measured = interleaved({key: timed(run) for key, run in of_settings.items()}, num_repeats)
            rows.extend(Row(name, key, TOTAL, parts[TOTAL]) for key, parts in measured.items())

    for num_proposals, row in ((100, "baseline"), (300, "num_proposals_300")):
        chosen = [name for name in names_of(num_proposals) if only is None or only in name]
        if chosen:
            measure(_detector_sides(reference, overrides, settings, device, num_proposals, row, chosen))
    if only is None or only in DATA:
        config = compose_row("paper", "baseline", overrides)
        if Path(config["data"]["train"]["annotations"]).is_file():
            plain, ours = data_sides(config)
            measure({DATA: {TEXTBOOK: plain, "ours": ours}})
        else:
            print(f"{DATA}: left out; --set data=coco_format --set data.train.annotations=... and so on name data")
    if not rows:
        names = ", ".join([*names_of(100), *names_of(300), DATA])
        raise UserError(f"--only {only}: nothing was measured; the names are {names}")
    return rows


def names_of(num_proposals: int) -> list[str]:
    """Of what is measured of a detector."""
    parts = ("forward", "head", "head and loss, backward", "criterion, backward", "RoI pooling of all stages")
    return [f"{part}, {num_proposals} proposals" for part in parts]


def _detector_sides(
    reference: Any,
    overrides: Sequence[str],
    settings: Sequence[Setting],
    device: torch.device,
    num_proposals: int,
    row: str,
    chosen: Sequence[str],
) -> dict[str, dict[str, Callable[[], Any]]]:
    """Of each chosen name the sides: the textbook's, and ours by setting."""
    workload = Workload("paper", row, tuple(overrides), SIZE_HW, 1)
    two = Workload("paper", row, tuple(overrides), SIZE_HW, 2)
    plain = _textbook_sides(reference, workload, two, device, num_proposals)
    sides = {name: {TEXTBOOK: plain[name]} for name in chosen}
    for setting in settings:
        config = workload.config(setting)
        ours = _sides(workload.model(config, device), config, workload, two, device, num_proposals)
        for name in chosen:
            sides[name][setting.name] = ours[name]
    return sides


def _sides(
    model: Any, config: dict[str, Any], workload: Workload, two: Workload, device: torch.device, num_proposals: int
) -> dict[str, Callable[[], Any]]:
    precision, criterion = config["train"]["precision"], build_criterion(config)
    images, sizes_hw = workload.images(model, device)
    images_two, sizes_two = two.images(model, device)
    targets = two.targets(device)
    share = criterion.counts(targets)

    def maps_of(images: Tensor, sizes_hw: Tensor) -> list[Tensor]:
        with torch.no_grad(), autocast(precision, device):
            maps: list[Tensor] = model.backbone(model.normalize(images, sizes_hw))
        return maps

    maps, maps_two = maps_of(images, sizes_hw), maps_of(images_two, sizes_two)
    backbone = model.backbone

    def head(maps: list[Tensor], images: Tensor, sizes_hw: Tensor) -> Any:
        model.backbone = _Given(maps)
        try:
            with autocast(precision, device):
                return model(images[..., :1, :1], sizes_hw)  # the images do not count
        finally:
            model.backbone = backbone

    @torch.no_grad()
    def forward() -> Any:
        with eval_mode(model), autocast(precision, device):
            return model(images, sizes_hw)

    @torch.no_grad()
    def head_alone() -> Any:
        with eval_mode(model):
            return head(maps, images, sizes_hw)

    def head_and_loss() -> None:
        leaves = [m.detach().requires_grad_() for m in maps_two]
        output = head(leaves, images_two, sizes_two)
        criterion(output, targets, sizes_two, share).total.backward()
        model.zero_grad()

    pooling = _pooling_side(model, maps, num_proposals, device)
    sides = (forward, head_alone, head_and_loss, _criterion_side(criterion, num_proposals, device), pooling)
    return dict(zip(names_of(num_proposals), sides, strict=True))


def _textbook_sides(
    reference: Any, workload: Workload, two: Workload, device: torch.device, num_proposals: int
) -> dict[str, Callable[[], Any]]:
    config = workload.config(Setting("", ("train.channels_last=false",)))
    model = workload.model(config, device).eval()
    plain = reference.Textbook(model)
    images, sizes_hw = workload.images(model, device)
    images_two, sizes_two = two.images(model, device)
    targets = two.targets(device)
    with torch.no_grad():
        maps, maps_two = plain.maps(images), plain.maps(images_two)
    boxes = random_boxes(num_proposals, device)

    @torch.no_grad()
    def forward() -> Any:
        return plain.forward(images, sizes_hw)

    @torch.no_grad()
    def head_alone() -> Any:
        return plain.head(maps, sizes_hw)

    def head_and_loss() -> None:
        leaves = [m.detach().requires_grad_() for m in maps_two]
        reference.textbook_loss(plain.head(leaves, sizes_two), targets, sizes_two).backward()
        model.zero_grad()

    outputs, sizes, of_all = criterion_inputs(num_proposals, device)

    def criterion() -> None:
        reference.textbook_loss(outputs, of_all, sizes).backward()

    @torch.no_grad()
    def pooling() -> Any:
        for _ in model.stages:  # type: ignore[union-attr]
            reference.level_roi_align(maps, boxes)

    return dict(zip(names_of(num_proposals), (forward, head_alone, head_and_loss, criterion, pooling), strict=True))


class _Given(torch.nn.Module):
    """In place of a backbone: maps that are there already."""

    def __init__(self, maps: list[Tensor]) -> None:
        super().__init__()
        self.maps = maps

    def forward(self, images: Tensor) -> list[Tensor]:
        return self.maps


def _criterion_side(criterion: Any, num_proposals: int, device: torch.device) -> Callable[[], None]:
    outputs, sizes, targets = criterion_inputs(num_proposals, device)

    def run() -> None:
        criterion(outputs, targets, sizes, criterion.counts(targets)).total.backward()

    return run


def _pooling_side(model: Any, maps: list[Tensor], num_proposals: int, device: torch.device) -> Callable[[], Any]:
    """Of all stages of an image, with the preparation that they share."""
    boxes, num_stages = random_boxes(num_proposals, device), len(model.stages)

    @torch.no_grad()
    def run() -> None:
        pyramid = model.roi_pooler.prepare(maps)
        for _ in range(num_stages):
            model.roi_pooler(pyramid, boxes)

    return run


def criterion_inputs(num_proposals: int, device: torch.device) -> tuple[list[StageOutput], Tensor, Any]:
    """Outputs of six stages on 16 images with gradients, their sizes and targets."""
    workload = Workload("paper", "baseline", (), SIZE_HW, 16)
    generator = torch.Generator().manual_seed(0)
    outputs = []
    for _ in range(6):
        logits = torch.randn(16, num_proposals, 80, generator=generator) - 4
        boxes = torch.stack([random_boxes(num_proposals, torch.device("cpu"), generator)[0] for _ in range(16)])
        outputs.append(StageOutput(logits.to(device).requires_grad_(), boxes.to(device).requires_grad_()))
    return outputs, torch.tensor([SIZE_HW] * 16, device=device), workload.targets(device)


def random_boxes(num_proposals: int, device: torch.device, generator: torch.Generator | None = None) -> Tensor:
    """Boxes (1, P, 4) of all sizes, about a ninth of the image in the median."""
    generator = generator or torch.Generator().manual_seed(0)
    scale = torch.tensor([SIZE_HW[1], SIZE_HW[0]])
    centre = torch.rand(1, num_proposals, 2, generator=generator) * scale
    side = torch.exp(torch.randn(1, num_proposals, 2, generator=generator) * 0.8 + 4.6)
    return torch.cat((centre - side / 2, centre + side / 2), 2).to(device)
