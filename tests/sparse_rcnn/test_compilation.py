"""Compiled detectors compute what plain ones do, and compile seldom."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from sparse_rcnn.architecture import build
from sparse_rcnn.compilation import compile_detector, uncompiled
from sparse_rcnn.detector import SparseRCNN
from sparse_rcnn.errors import UserError
from tests.support.detectors import architecture
from tests.support.detr import small_detr
from tests.support.engine import relative_difference
from tests.support.retinanet import small_retinanet

CPU = torch.device("cpu")


class Counting:
    """A compiler that keeps the graphs as they are."""

    def __init__(self) -> None:
        self.num_graphs = 0

    def __call__(self, graph: torch.fx.GraphModule, inputs: Any) -> Any:
        self.num_graphs += 1
        return graph.forward


@pytest.fixture(autouse=True)
def _forget_graphs() -> Any:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def sparse_rcnn(num_stages: int = 2) -> SparseRCNN:
    torch.manual_seed(0)
    model: SparseRCNN = build(architecture(num_stages=num_stages)).train()
    return model


def images_and_sizes(number: int = 2, height: int = 64, width: int = 96) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (number, 3, height, width), generator=generator, dtype=torch.uint8)
    return images, torch.tensor([[height, width]] * number)


def losses_and_gradients(model: Any) -> tuple[Tensor, dict[str, Tensor]]:
    model.zero_grad()
    outputs = model(*images_and_sizes())
    loss = sum(output.logits.square().mean() + output.boxes_xyxy_abs.mean() / 100 for output in outputs)
    loss.backward()
    return loss.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("part", ["head", "model"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_compiled_detector_computes_the_same(part: str, checkpointing: bool) -> None:
    plain, compiled = sparse_rcnn(), sparse_rcnn()
    compiled.activation_checkpointing = checkpointing
    counting = Counting()
    compile_detector(compiled, part, CPU, counting)
    before = counting.num_graphs
    expected, actual = losses_and_gradients(plain), losses_and_gradients(compiled)
    assert counting.num_graphs > before
    torch.testing.assert_close(actual[0], expected[0], rtol=1e-6, atol=1e-6)
    assert relative_difference(expected[1], actual[1]) < 1e-5
    assert compiled.state_dict().keys() == plain.state_dict().keys()


def test_none_compiles_nothing() -> None:
    model, counting = sparse_rcnn(), Counting()
    compile_detector(model, "none", CPU, counting)
    losses_and_gradients(model)
    assert counting.num_graphs == 0


def test_twelve_stages_share_two_graphs() -> None:
    """The first stage's boxes need a gradient, those of the others come detached: two graphs, not twelve."""
    model, counting = sparse_rcnn(12), Counting()
    compile_detector(model, "head", CPU, counting)
    before = counting.num_graphs
    losses_and_gradients(model)
    assert counting.num_graphs - before == 2
    losses_and_gradients(model)
    assert counting.num_graphs - before == 2


def test_images_of_many_sizes_compile_the_backbone_three_times_at_most() -> None:
    model, counting = sparse_rcnn(), Counting()
    compile_detector(model, "model", CPU, counting)
    model(*images_and_sizes())
    seen = []
    for height, width in ((64, 128), (96, 160), (128, 64), (160, 192), (96, 224)):
        model(*images_and_sizes(2, height, width))
        seen.append(counting.num_graphs)
    assert seen[1:] == [seen[1]] * 4
    assert seen[1] - seen[0] <= 1  # one more where the height changes for the first time


def test_evaluation_and_copies_run_uncompiled() -> None:
    model, counting = sparse_rcnn(), Counting()
    compile_detector(model, "model", CPU, counting)
    before = counting.num_graphs
    with uncompiled(), torch.no_grad():
        model.eval()(*images_and_sizes())
    copy.deepcopy(model).train()(*images_and_sizes())  # as the moving average is one
    assert counting.num_graphs == before


def test_layers_of_a_transformer_are_compiled() -> None:
    model, counting = small_detr().train(), Counting()
    compile_detector(model, "head", CPU, counting)
    before = counting.num_graphs
    model(*images_and_sizes())
    assert counting.num_graphs > before


def test_another_part_is_refused() -> None:
    with pytest.raises(ValueError, match="part must be one of none, head, model, got 'stage'"):
        compile_detector(sparse_rcnn(), "stage", CPU)


def test_a_detector_without_stages_or_layers_has_no_head_to_compile() -> None:
    with pytest.raises(UserError, match=r"^a RetinaNet has no stages or layers to compile: choose model"):
        compile_detector(small_retinanet(), "head", CPU, Counting())


def test_a_missing_compiler_is_an_error_before_the_training() -> None:
    def broken(graph: Any, inputs: Any) -> Any:
        raise RuntimeError("no g++ on this machine\nand many lines more")

    with pytest.raises(UserError, match=r"^torch.compile does not work on this machine \(.*no g\+\+.*\): choose none$"):
        compile_detector(sparse_rcnn(), "head", CPU, broken)
