"""The parts that the ablations put in the place of the paper's: against plain loops, or values by hand."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sparse_rcnn.box_init import CenterInit, GridInit, ImageInit, RandomInit
from sparse_rcnn.boxes import cxcywh_to_xyxy
from sparse_rcnn.interaction import AttentionInteraction, DynamicInteraction, FullyConnected
from sparse_rcnn.positional_encoding import NoEncoding, SineEncoding
from sparse_rcnn.proposals import LearnedProposals
from sparse_rcnn.reuse import Concatenation, NoReuse, SelfAttention
from sparse_rcnn.stage import NoFeedForward, Stage
from tests.support import naive
from tests.support.stages import arrays, draw, make_stage, randomized


def part(module: nn.Module, name: str) -> dict[str, np.ndarray]:
    """The parameters of one child, by the child's own names."""
    return {k.removeprefix(f"{name}."): v for k, v in arrays(module).items() if k.startswith(f"{name}.")}


def check_gradients(module: nn.Module, *inputs: Tensor | None) -> None:
    """Of the inputs and of the parameters, against finite differences."""
    leaves = [x.requires_grad_() for x in inputs if x is not None]
    names = list(arrays(module))

    def run(*values: Tensor) -> Tensor:
        given = iter(values[: len(leaves)])
        arguments = tuple(None if x is None else next(given) for x in inputs)
        named = dict(zip(names, values[len(leaves) :], strict=True))
        result: Tensor = torch.func.functional_call(module, named, arguments)
        return result

    assert torch.autograd.gradcheck(run, (*leaves, *module.parameters()))


# --- interactions ------------------------------------------------------------------------------------------


def test_attention_interaction_equals_plain_loops() -> None:
    module = randomized(AttentionInteraction(hidden_dim=8, num_heads=2, dropout=0.0))
    features, roi = draw(2, 3, 8), draw(2, 3, 8, 2, 2, seed=2)
    got = module(features, roi)
    assert got.shape == (2, 3, 8)
    for n in range(2):
        for p in range(3):
            wanted = naive.attention_interaction(arrays(module), features[n, p].tolist(), roi[n, p].numpy(), 2)
            np.testing.assert_allclose(got[n, p].detach().numpy(), wanted, rtol=1e-10, atol=1e-12)


def test_attention_interaction_gradient() -> None:
    module = randomized(AttentionInteraction(hidden_dim=4, num_heads=2, dropout=0.0))
    check_gradients(module, draw(1, 2, 4), draw(1, 2, 4, 2, 2, seed=2))


def test_attention_interaction_reads_the_positions_as_a_set() -> None:
    module = randomized(AttentionInteraction(hidden_dim=8, num_heads=2, dropout=0.0))
    features, roi = draw(1, 2, 8), draw(1, 2, 8, 3, 3, seed=2)
    torch.testing.assert_close(module(features, roi), module(features, roi.flip(3).transpose(3, 4)))
    assert not torch.allclose(module(features, roi), module(features, roi.flip(1)))


@pytest.mark.parametrize("reused_dim", [0, 5])
@pytest.mark.parametrize("num_fc", [1, 2, 3])
def test_fully_connected_equals_plain_loops(num_fc: int, reused_dim: int) -> None:
    module = FullyConnected(hidden_dim=4, num_fc=num_fc, dim_fc=6, output_size=2, reused_dim=reused_dim)
    randomized(module)
    roi, features = draw(2, 3, 4, 2, 2, seed=2), draw(2, 3, reused_dim) if reused_dim else None
    got = module(features, roi)
    assert got.shape == (2, 3, 4)
    for n in range(2):
        for p in range(3):
            reused = None if features is None else features[n, p].tolist()
            wanted = naive.fully_connected(arrays(module), roi[n, p].numpy(), num_fc, reused)
            np.testing.assert_allclose(got[n, p].detach().numpy(), wanted, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("reused_dim", [0, 3])
def test_fully_connected_gradient(reused_dim: int) -> None:
    module = FullyConnected(hidden_dim=3, num_fc=2, dim_fc=4, output_size=2, reused_dim=reused_dim)
    randomized(module)
    check_gradients(module, draw(1, 2, reused_dim) if reused_dim else None, draw(1, 2, 3, 2, 2, seed=2))


def test_fully_connected_of_the_paper_is_that_of_faster_rcnn_with_c_at_the_end() -> None:
    with torch.device("meta"):
        module = FullyConnected(hidden_dim=256, num_fc=2, dim_fc=1024, output_size=7, reused_dim=256)
    shapes = {name: tuple(p.shape) for name, p in module.named_parameters() if p.dim() == 2}
    assert shapes == {
        "layers.0.weight": (1024, 12544),
        "layers.2.weight": (256, 1024),
        "join.weight": (256, 512),
    }


# --- a stage of other parts --------------------------------------------------------------------------------


def fc_stage(reuse: nn.Module) -> Stage:
    fc = FullyConnected(hidden_dim=16, num_fc=2, dim_fc=12, output_size=2, reused_dim=reuse.reused_dim)
    return make_stage(reused_dim=reuse.reused_dim, reuse=reuse, interaction=fc, feed_forward=NoFeedForward())


def test_a_fully_connected_stage_with_concatenation_equals_plain_loops() -> None:
    stage = fc_stage(Concatenation(16))
    randomized(stage)
    features, roi = draw(2, 3, 16), draw(6, 16, 2, 2, seed=2)
    boxes = torch.tensor([10.0, 20, 50, 80], dtype=torch.float64).repeat(2, 3, 1)
    output, object_features = stage(roi, boxes, features, draw(2, 3, 16, seed=9))  # the learned ones are not read
    for n in range(2):
        for i in range(3):
            x = naive.fully_connected(part(stage, "interaction"), roi[3 * n + i].numpy(), 2, features[n, i].tolist())
            np.testing.assert_allclose(object_features[n, i].detach().numpy(), x, rtol=1e-9, atol=1e-11)
            towers = {}
            for tower, num_layers in (("cls_tower", 1), ("reg_tower", 3)):
                p, y = part(stage, tower), x
                for layer in range(num_layers):
                    weight = p[f"{3 * layer}.weight"]
                    y = naive.linear(y, weight, [0.0] * len(weight))  # without bias
                    y = naive.relu(naive.layer_norm(y, p[f"{3 * layer + 1}.weight"], p[f"{3 * layer + 1}.bias"]))
                towers[tower] = naive.linear(y, p[f"{3 * num_layers}.weight"], p[f"{3 * num_layers}.bias"])
            np.testing.assert_allclose(output.logits[n, i].detach().numpy(), towers["cls_tower"], rtol=1e-9, atol=1e-11)
            # Deltas are float32 by design, whatever the precision of the features.
            wanted_box = naive.apply_deltas(towers["reg_tower"], boxes[n, i].tolist())
            np.testing.assert_allclose(output.boxes_xyxy_abs[n, i].detach().numpy(), wanted_box, rtol=1e-4, atol=1e-2)


def test_self_attention_without_interaction_equals_plain_loops() -> None:
    stage = fc_stage(SelfAttention(16, 4, 0.0))
    randomized(stage)
    features, roi = draw(1, 3, 16), draw(3, 16, 2, 2, seed=2)
    _, object_features = stage(roi, torch.ones(1, 3, 4, dtype=torch.float64), features, None)
    attended = naive.self_attention(part(stage, "reuse"), features[0].numpy(), 4)
    for i in range(3):
        x = naive.fully_connected(part(stage, "interaction"), roi[i].numpy(), 2, attended[i].tolist())
        np.testing.assert_allclose(object_features[0, i].detach().numpy(), x, rtol=1e-9, atol=1e-11)


DYNAMIC = DynamicInteraction(hidden_dim=16, dim_dynamic=4, output_size=2, dropout=0.0)
ATTENTION = AttentionInteraction(hidden_dim=16, num_heads=4, dropout=0.0)


@pytest.mark.parametrize("interaction", [DYNAMIC, ATTENTION], ids=["dynamic", "attention"])
def test_without_reuse_a_stage_reads_the_learned_features_and_not_those_before(interaction: nn.Module) -> None:
    stage = make_stage(reused_dim=0, reuse=NoReuse(), interaction=interaction)
    roi, boxes = draw(6, 16, 2, 2, seed=2).float(), torch.tensor([10.0, 20, 50, 80]).repeat(2, 3, 1)
    before, learned = draw(2, 3, 16).float(), draw(2, 3, 16, seed=3).float()
    output, features = stage(roi, boxes, before, learned)
    same, same_features = stage(roi, boxes, -before, learned)
    assert torch.equal(output.logits, same.logits)
    assert torch.equal(features, same_features)
    other, _ = stage(roi, boxes, before, -learned)
    assert not torch.allclose(output.logits, other.logits)


@pytest.mark.parametrize("interaction", [DYNAMIC, ATTENTION], ids=["dynamic", "attention"])
def test_with_concatenation_the_features_before_meet_the_roi_as_they_are(interaction: nn.Module) -> None:
    stage = make_stage(reuse=Concatenation(16), interaction=interaction)
    roi, boxes = draw(6, 16, 2, 2, seed=2).float(), torch.tensor([10.0, 20, 50, 80]).repeat(2, 3, 1)
    before, learned = draw(2, 3, 16).float(), draw(2, 3, 16, seed=3).float()
    _, features = stage(roi, boxes, before, learned)
    wanted = stage.feed_forward(interaction(before, roi.unflatten(0, (2, 3))))
    assert torch.equal(features, wanted)


def test_a_fully_connected_stage_without_reuse_needs_no_features() -> None:
    stage = fc_stage(NoReuse())
    roi, boxes = draw(6, 16, 2, 2, seed=2).float(), torch.tensor([10.0, 20, 50, 80]).repeat(2, 3, 1)
    without, _ = stage(roi, boxes, None, None)
    with_features, _ = stage(roi, boxes, draw(2, 3, 16), draw(2, 3, 16))
    assert torch.equal(without.logits, with_features.logits)
    assert torch.equal(without.boxes_xyxy_abs, with_features.boxes_xyxy_abs)
    assert not stage.reads_proposal_features
    assert fc_stage(Concatenation(16)).reads_proposal_features
    assert make_stage(reused_dim=0, reuse=NoReuse()).reads_proposal_features


# --- proposal boxes ----------------------------------------------------------------------------------------


def test_center_boxes() -> None:
    torch.testing.assert_close(CenterInit(0.1)(2), torch.tensor([[0.5, 0.5, 0.1, 0.1]] * 2))
    proposals = LearnedProposals(num_proposals=3, hidden_dim=4, init=CenterInit(0.1))
    boxes, _ = proposals(torch.tensor([[100, 200]]))
    torch.testing.assert_close(boxes, torch.tensor([90.0, 45, 110, 55]).repeat(1, 3, 1))


def test_grid_boxes_by_hand() -> None:
    quarters = [[0.25, 0.25, 0.5, 0.5], [0.75, 0.25, 0.5, 0.5], [0.25, 0.75, 0.5, 0.5], [0.75, 0.75, 0.5, 0.5]]
    torch.testing.assert_close(GridInit()(4), torch.tensor(quarters))
    third = 1 / 3
    below = [[third / 2, 0.75, third, 0.5], [0.5, 0.75, third, 0.5], [1 - third / 2, 0.75, third, 0.5]]
    torch.testing.assert_close(GridInit()(5), torch.tensor([*quarters[:2], *below]))
    hundred = [[0.05 + 0.1 * column, 0.05 + 0.1 * row, 0.1, 0.1] for row in range(10) for column in range(10)]
    torch.testing.assert_close(GridInit()(100), torch.tensor(hundred))
    torch.testing.assert_close(GridInit()(1), ImageInit()(1))


@pytest.mark.parametrize("num_proposals", [*range(1, 51), 60, 100, 300, 500])
def test_a_grid_covers_the_image_once(num_proposals: int) -> None:
    boxes = GridInit()(num_proposals)
    assert boxes.shape == (num_proposals, 4)
    assert boxes.dtype == torch.float32
    torch.testing.assert_close(boxes[:, 2:].prod(1).sum(), torch.tensor(1.0))
    xyxy = cxcywh_to_xyxy(boxes.double())
    assert xyxy.min() >= -1e-6
    assert xyxy.max() <= 1 + 1e-6
    # The areas sum up to the image's and no two boxes overlap: together they cover it.
    low = torch.maximum(xyxy[:, None, :2], xyxy[None, :, :2])
    high = torch.minimum(xyxy[:, None, 2:], xyxy[None, :, 2:])
    overlap = (high - low).clamp(min=0).prod(-1).fill_diagonal_(0)
    assert overlap.max() < 1e-6
    ratio = boxes[:, 2] / boxes[:, 3]
    assert ratio.min() >= 1 / 2
    assert ratio.max() <= 2


def test_random_boxes() -> None:
    init = RandomInit(mean=0.5, std=0.25, min_size=0.05)
    torch.manual_seed(3)
    boxes = init(500)
    torch.manual_seed(3)
    assert torch.equal(init(500), boxes)
    assert not torch.equal(init(500), boxes)
    for std in (0.25, 5.0):
        boxes = RandomInit(mean=0.5, std=std, min_size=0.05)(500)
        assert boxes.shape == (500, 4)
        assert boxes.min() >= 0
        assert boxes.max() <= 1
        assert boxes[:, 2:].min() == torch.tensor(0.05)  # some are that small
        assert boxes[:, :2].min() < 0.05
    boxes = RandomInit(mean=0.4, std=0.1, min_size=0.01)(20_000)
    assert boxes.mean(0).tolist() == pytest.approx([0.4] * 4, abs=0.005)
    assert boxes.std(0).tolist() == pytest.approx([0.1] * 4, abs=0.005)
    correlation = torch.corrcoef(boxes.T) - torch.eye(4)
    assert correlation.abs().max() < 0.05
    assert torch.equal(RandomInit(mean=0.0, std=0.0, min_size=0.25)(1), torch.tensor([[0.0, 0.0, 0.25, 0.25]]))


# --- positional encoding -----------------------------------------------------------------------------------


def zeros(*shapes: tuple[int, int], num_images: int = 1, channels: int = 8) -> list[Tensor]:
    return [torch.zeros(num_images, channels, *shape) for shape in shapes]


def test_sine_encoding_by_hand() -> None:
    sizes = torch.tensor([[64, 32], [48, 20]])
    maps = SineEncoding(hidden_dim=8, temperature=10000)(zeros((16, 8), (8, 4), num_images=2), sizes)
    for level, stride in enumerate((4, 8)):
        for n, (height, width) in enumerate(sizes.tolist()):
            for row, column in ((0, 0), (2, 1), (5, 3)):
                wanted = []
                for center, length in (((row + 0.5) * stride, height), ((column + 0.5) * stride, width)):
                    angle = 2 * math.pi * center / length
                    for wave in (angle, angle / 100):  # 10000 ** (0 / 2), 10000 ** (1 / 2)
                        wanted += [math.sin(wave), math.cos(wave)]
                assert maps[level][n, :, row, column].tolist() == pytest.approx(wanted, abs=1e-5)
    # One in numbers: y is 10 of 64 pixels and x is 6 of 32.
    by_hand = [0.831470, 0.555570, 0.009817, 0.999952, 0.923880, 0.382683, 0.011781, 0.999931]
    assert maps[0][0, :, 2, 1].tolist() == pytest.approx(by_hand, abs=1e-5)


def test_sine_encoding_is_added_and_keeps_shape_and_dtype() -> None:
    module, sizes = SineEncoding(hidden_dim=8, temperature=10000), torch.tensor([[64, 64]])
    m = torch.randn(1, 8, 16, 16)
    (plain,) = module(zeros((16, 16)), sizes)
    torch.testing.assert_close(module([m], sizes)[0], m + plain)
    (half,) = module([m.bfloat16()], sizes)
    assert half.dtype == torch.bfloat16
    assert not list(module.parameters())
    assert not module.state_dict()
    (same,) = NoEncoding()([m], sizes)
    assert same is m


def test_sine_encoding_depends_on_neither_padding_nor_the_other_images() -> None:
    module = SineEncoding(hidden_dim=8, temperature=10000)
    sizes = torch.tensor([[64, 32], [40, 60]])
    small = module(zeros((16, 16), (8, 8), num_images=2), sizes)
    large = module(zeros((32, 24), (16, 12), num_images=2), sizes)
    for s, m in zip(small, large, strict=True):
        assert torch.equal(s, m[:, :, : s.shape[2], : s.shape[3]])
    for n in range(2):
        single = module(zeros((16, 16), (8, 8)), sizes[n : n + 1])
        for s, m in zip(single, small, strict=True):
            assert torch.equal(s[0], m[n])
    assert not torch.allclose(small[0][0], small[0][1])


def test_all_levels_agree_on_a_place() -> None:
    shapes = [(64, 64), (32, 32), (16, 16), (8, 8)]
    maps = SineEncoding(hidden_dim=8, temperature=10000)(zeros(*shapes), torch.tensor([[256, 224]]))
    for fine, coarse in itertools.pairwise(maps):
        half = math.pi * (256 / coarse.shape[2]) / 2 / 224  # between the centres of a coarse and a fine pixel
        wanted = torch.nn.functional.avg_pool2d(fine, 2)
        torch.testing.assert_close(wanted, coarse, rtol=0, atol=1.01 * (1 - math.cos(half)) + 1e-6)


# --- what is refused ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AttentionInteraction(12, 8, 0.0), "hidden_dim 12 is not a multiple of num_heads 8"),
        (lambda: FullyConnected(16, 0, 8, 7, 0), r"num_fc, dim_fc and output_size .* got 0, 8, 7 and 0"),
        (lambda: FullyConnected(16, 2, 0, 7, 0), "got 2, 0, 7 and 0"),
        (lambda: FullyConnected(16, 2, 8, 0, 0), "got 2, 8, 0 and 0"),
        (lambda: FullyConnected(16, 2, 8, 7, -1), "reused_dim at least 0, got 2, 8, 7 and -1"),
        (lambda: make_stage(reused_dim=0), "reused_dim is 0, but SelfAttention hands over 16"),
        (lambda: make_stage(reuse=NoReuse()), "reused_dim is 16, but NoReuse hands over 0"),
        (lambda: make_stage(reuse=Concatenation(8)), "reused_dim is 16, but Concatenation hands over 8"),
        (
            lambda: make_stage(interaction=FullyConnected(16, 2, 8, 2, 0)),
            "interaction.reused_dim is 0, but the stage's is 16",
        ),
        (lambda: SelfAttention(12, 0, 0.0), "hidden_dim 12 is not a multiple of num_heads 0"),
        (lambda: AttentionInteraction(12, 0, 0.0), "hidden_dim 12 is not a multiple of num_heads 0"),
        (lambda: SineEncoding(8, math.nan), "temperature must be above 1, got nan"),
        (lambda: CenterInit(0), "size must be above 0 and at most 1, got 0"),
        (lambda: CenterInit(1.5), "got 1.5"),
        (lambda: CenterInit(math.nan), "got nan"),
        (lambda: RandomInit(1.5, 0.1, 0.05), r"mean must be within 0 and 1.* got 1.5, 0.1 and 0.05"),
        (lambda: RandomInit(0.5, -0.1, 0.05), "std at least 0.* got 0.5, -0.1 and 0.05"),
        (lambda: RandomInit(0.5, math.nan, 0.05), "got 0.5, nan and 0.05"),
        (lambda: RandomInit(0.5, 0.1, 0), "min_size above 0 and at most 1, got 0.5, 0.1 and 0"),
        (lambda: SineEncoding(6, 10000.0), "hidden_dim 6 is not a multiple of 4"),
        (lambda: SineEncoding(8, 1.0), "temperature must be above 1, got 1.0"),
    ],
)
def test_values_out_of_range_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_no_feed_forward_swallows_no_arguments() -> None:
    with pytest.raises(TypeError):
        NoFeedForward(hidden_dim=16)
