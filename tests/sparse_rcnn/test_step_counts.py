"""Counts of a training step that no machine changes: waits for the device, operations, memory for the backward pass."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode

from sparse_rcnn.architecture import build
from sparse_rcnn.engine import Learner, training_step
from sparse_rcnn.precision import autocast
from sparse_rcnn.schedule import WarmupMultiStep
from sparse_rcnn.structures import Batch, Targets
from tests.support.detectors import architecture, paper_criterion, resnet
from tests.support.engine import SETTINGS, WORLD
from tests.support.pretended_device import DEVICE, PretendedDevice

# Dispatched operations of a step (forward, loss, backward, clipping, AdamW) with no stage counted and for each stage;
# as measured with torch 2.14. They may only fall: write the new numbers down.
NUM_OPERATIONS, NUM_OPERATIONS_OF_A_STAGE = 620, 564


def batch(num_images: int = 2, side: int = 64) -> Batch:
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(num_images, 3, 2, generator=generator) * side / 2
    boxes = torch.cat((corners, corners + 4 + torch.rand(num_images, 3, 2, generator=generator) * side / 3), 2)
    sizes = torch.tensor([[side, side]] * num_images)
    images = torch.randint(0, 256, (num_images, 3, side, side), dtype=torch.uint8, generator=generator)
    targets = Targets.from_lists(list(boxes), [torch.tensor([0, 2, 1])] * num_images)
    return Batch(images, sizes, sizes, tuple(range(num_images)), targets)


def learner(device: torch.device = WORLD.device, **sizes: Any) -> Learner:
    torch.manual_seed(0)
    model = build(architecture(**sizes)).train().to(memory_format=torch.channels_last).to(device)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, fused=device.type == "cpu")
    schedule = WarmupMultiStep(10, "steps", [], 0.1, 0, 1.0)
    settings = replace(SETTINGS, channels_last=True)
    return Learner(model, paper_criterion(), optimizer, schedule, None, settings, replace(WORLD, device=device))


def step(trained: Learner) -> None:
    training_step(trained, [batch()], (6.0,))
    trained.update()


@pytest.mark.parametrize("bottom_up", [None, resnet(18)], ids=["small", "resnet"])
def test_the_host_waits_once_a_step_for_the_matching(bottom_up: dict[str, Any] | None) -> None:
    with PretendedDevice() as device:
        trained = learner(DEVICE, bottom_up=bottom_up)
        device.reset()
        # Without clipping and update, whose foreach kernels refuse the pretended device.
        training_step(trained, [batch()], (6.0,))
    assert device.copies_to_host == 1, "the costs"
    assert +device.waits == {}, "a value or a size that the device decides"


def test_the_pretended_device_notices_a_wait() -> None:
    with PretendedDevice() as device:
        values = torch.arange(3.0).to(DEVICE)
        values.sum().item()
        values[values > 1]
        values.cpu()
    assert device.waits == {"_local_scalar_dense": 1, "index by a mask": 1}
    assert (device.copies_to_device, device.copies_to_host) == (1, 1)


class Operations(TorchDispatchMode):
    """Counts what is dispatched, and keeps the shapes of large bfloat16 tensors that are copied to float32."""

    def __init__(self, large: int = 2**62) -> None:
        super().__init__()
        self.number, self.large = 0, large
        self.widened: list[torch.Size] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.number += 1
        result = func(*args, **(kwargs or {}))
        is_large_copy = func is torch.ops.aten._to_copy.default and args[0].numel() >= self.large
        if is_large_copy and (args[0].dtype, result.dtype) == (torch.bfloat16, torch.float32):
            self.widened.append(args[0].shape)
        return result


def num_operations(**sizes: Any) -> int:
    trained = learner(**sizes)
    step(trained)
    with Operations() as operations:
        step(trained)
    return operations.number


def test_the_number_of_operations_has_not_grown() -> None:
    one, two, three = (num_operations(num_stages=n) for n in (1, 2, 3))
    assert three - two == two - one, "each stage adds as many"
    assert two - one <= NUM_OPERATIONS_OF_A_STAGE
    assert one - (two - one) <= NUM_OPERATIONS
    assert num_operations(num_stages=2, num_proposals=12) == two, "nothing runs by proposal"


def saved_bytes(**sizes: Any) -> int:
    """Bytes that the forward pass and the loss keep for the backward pass, each storage once."""
    storages: dict[int, int] = {}
    kept: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        kept.append(tensor)  # or another tensor would get its address
        return tensor

    trained, one = learner(**sizes), batch()
    with saved_tensors_hooks(pack, lambda tensor: tensor):
        output = trained.model(one.images, one.image_sizes_hw, one.targets)
        trained.criterion(output, one.targets, one.image_sizes_hw, (6.0,))
    parameters = {p.untyped_storage().data_ptr() for p in trained.model.parameters()}
    return sum(size for address, size in storages.items() if address not in parameters)


def test_memory_for_the_backward_pass_is_linear_in_proposals_and_in_stages() -> None:
    by_proposals = [saved_bytes(num_proposals=n) for n in (10, 20, 30)]
    by_stages = [saved_bytes(num_stages=n) for n in (2, 3, 4)]
    for a, b, c in (by_proposals, by_stages):
        assert c - b == pytest.approx(b - a, rel=0.05), "the weights of attention alone are quadratic, and small"
        assert b > a


def test_bfloat16_maps_get_no_float32_copies() -> None:
    trained = learner(bottom_up=resnet(18))
    one = batch()
    smallest_map = 2 * 16 * 2 * 2  # images, hidden_dim, p5
    for context in (torch.no_grad(), torch.enable_grad()):
        with context, Operations(large=smallest_map) as operations, autocast("bf16", torch.device("cpu")):
            maps = trained.model.backbone(trained.model.normalize(one.images, one.image_sizes_hw))
            boxes = torch.tensor([[[4.0, 4, 40, 40], [10, 10, 30, 50]]] * 2)
            pooled = trained.model.roi_pooler(trained.model.roi_pooler.prepare(maps), boxes)
        assert {m.dtype for m in maps} == {pooled.dtype} == {torch.bfloat16}
        assert operations.widened == []
