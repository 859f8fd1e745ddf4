"""Measurements: parts that add up, FLOPs by hand, every benchmark's command."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import sparse_rcnn.data.coco
import sparse_rcnn.matcher
from experiments.benchmark import meters
from experiments.benchmark.data import data_rows
from experiments.benchmark.forward import forward_side, model_rows
from experiments.benchmark.measure import interleaved
from experiments.benchmark.meters import Clock, Work
from experiments.benchmark.parts import Attribution, modules_of_parts
from experiments.benchmark.report import Report
from experiments.benchmark.step import criterion_parts, step_rows
from experiments.benchmark.textbook_data import mapper_of
from experiments.benchmark.workload import DEFAULT_SETTINGS, Setting, Workload
from experiments.config.build import build_criterion
from sparse_rcnn.data.transforms import EvalTransform, RandomCropRecipe, TrainTransform
from sparse_rcnn.errors import UserError
from tests.support import textbook_data
from tests.support.training import GENERATOR, data_root


def run_module(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", *arguments], capture_output=True, text=True, check=False)


CPU = torch.device("cpu")
SMALL = Workload("mini", "baseline", (), (64, 64), 1)


class Chain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 8, bias=False)
        self.blocks = nn.ModuleList(nn.ModuleDict({"inner": nn.Linear(8, 8, bias=False)}) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        for block in self.blocks:
            x = block["inner"](x)
        return x


def test_the_work_of_parts_by_hand_forward_and_backward() -> None:
    model, work = Chain(), Work()
    assert [name for name, _ in modules_of_parts(model)] == ["first", "blocks.inner", "blocks.inner"]
    with work, Attribution(model, work) as attribution:
        with attribution.part("rest"):
            loss = model(torch.ones(3, 4)).sum()
        attribution.hook_backward(loss)
        with attribution.part("backward.rest"):
            loss.backward()
    # 2 * 3 * 4 * 8, and twice 2 * 3 * 8 * 8; backward as much for the weights and, but for the first, for the input.
    first, blocks = 192e-9, 768e-9
    assert work.gflop == pytest.approx(
        {"first": first, "blocks.inner": blocks, "backward.first": first, "backward.blocks.inner": 2 * blocks}
    )
    # Input, weight and output in four bytes a number; 12 numbers are made, 24 summed to one.
    assert work.gigabytes["first"] == pytest.approx(4e-9 * (12 + 32 + 24))
    assert work.gigabytes["blocks.inner"] == pytest.approx(4e-9 * 2 * (24 + 64 + 24))
    assert work.gigabytes["rest"] == pytest.approx(4e-9 * (12 + 24 + 1))


def test_operations_are_those_of_torchs_own_counter() -> None:
    _, work = forward_side(SMALL, SMALL.config(Setting("float32")), CPU)
    model = SMALL.model(SMALL.config(Setting("float32")), CPU).eval()
    with FlopCounterMode(display=False) as counter:
        model(*SMALL.images(model, CPU))
    assert sum(work.gflop.values()) == pytest.approx(counter.get_total_flops() / 1e9)


def test_expanded_tensors_and_views_by_hand() -> None:
    work = Work()
    work.switch("a")
    with work:
        wide = torch.ones(2).expand(1000, 2)  # writes two numbers
        wide.t()
        torch.empty(10)
        wide.sum()  # reads two numbers, writes one
    assert work.gigabytes == pytest.approx({"a": 4e-9 * (2 + 2 + 1)})


def test_parts_within_parts_count_for_themselves_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([0.0, 1.0, 3.0, 7.0, 15.0, 31.0])
    monkeypatch.setattr(meters, "perf_counter", lambda: next(times))
    clock = Clock(CPU)
    with Attribution(nn.Module(), clock) as attribution, attribution.part("outer"):
        with attribution.part("inner"), attribution.part("inner"):
            pass
        with attribution.part(None):
            pass
    # Outer from 0 to 1, 3 to 7 and 15 to 31, inner from 1 to 3; 7 to 15 belong to none.
    assert dict(clock.seconds) == {"outer": 1.0 + 4.0 + 16.0, "inner": 2.0}


def test_nothing_is_left_on_what_was_measured() -> None:
    config = SMALL.config(Setting("float32"))
    model = Chain()
    with Attribution(model, Clock(CPU)):
        model(torch.ones(3, 4))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    criterion = build_criterion(config)
    matcher, before = criterion.matcher, dict(vars(criterion.matcher))
    assign = sparse_rcnn.matcher.linear_sum_assignment
    with criterion_parts(Attribution(model, Clock(CPU)), criterion):
        assert criterion.matcher is not matcher
        assert criterion.matcher.class_cost == matcher.class_cost
    assert criterion.matcher is matcher
    assert dict(vars(matcher)) == before
    assert sparse_rcnn.matcher.linear_sum_assignment is assign


def test_sides_take_turns_and_the_first_pass_does_not_count() -> None:
    order: list[str] = []

    def side(name: str) -> dict[str, float]:
        order.append(name)
        return {"total": float(len(order))}

    measured = interleaved({"a": lambda: side("a"), "b": lambda: side("b")}, num_repeats=2)
    assert order == ["a", "b"] * 3
    assert measured == {"a": {"total": [3.0, 5.0]}, "b": {"total": [4.0, 6.0]}}


@pytest.mark.parametrize("measure", [model_rows, step_rows])
def test_the_parts_of_a_row_add_up_to_the_whole(measure: object) -> None:
    rows = measure(SMALL, DEFAULT_SETTINGS, CPU, 2)  # type: ignore[operator]
    by_setting = {s.name: {r.part: r for r in rows if r.setting == s.name} for s in DEFAULT_SETTINGS}
    for name, parts in by_setting.items():
        assert {"backbone.bottom_up", "backbone.fpn", "roi_pooler", "stages.interaction", "stages.reuse"} < set(parts)
        for i in range(2):
            whole = sum(r.seconds[i] for part, r in parts.items() if part != "total")
            assert whole == pytest.approx(parts["total"].seconds[i]), name
        counted = sum(r.gflop or 0.0 for part, r in parts.items() if part != "total")
        assert counted == pytest.approx(parts["total"].gflop), "nothing counted is outside of a part"
    assert by_setting["bfloat16"]["total"].dtype == "bf16"
    parts = by_setting["float32"]
    if measure is step_rows:
        assert [part for part in parts if part.startswith("criterion")] == [
            f"criterion.{name}" for name in ("losses", "matching", "cost", "copy", "assignment")
        ]
        assert [part for part in parts if part.startswith("update")] == ["update.clip", "update.optimizer"]
        forward, backward = parts["stages.interaction"].gflop, parts["backward.stages.interaction"].gflop
        assert backward == pytest.approx(2 * (forward or 0.0)), "for the inputs and for the weights"
        assert parts["backward.criterion.losses"].seconds


def test_rows_of_other_detectors_are_measured_by_their_own_parts() -> None:
    rows = model_rows(Workload("mini", "retinanet", (), (64, 64), 1), [Setting("float32")], CPU, 1)
    assert {"backbone.bottom_up", "total", "rest"} < {r.part for r in rows}


def test_the_parts_of_data_loading_add_up_to_the_whole() -> None:
    rows = data_rows("mini", "baseline", [*GENERATOR, f"data.root={data_root()}"], 2)
    assert {row.part for row in rows} == {"decode", "resize", "augment", "collate", "total"}
    *parts, total = rows
    assert [sum(column) for column in zip(*(row.seconds for row in parts), strict=True)] == pytest.approx(total.seconds)
    assert "read_image" in sparse_rcnn.data.coco.read_image.__qualname__, "the library's own again"


def test_the_textbook_has_no_other_augmentation_than_the_papers() -> None:
    with pytest.raises(UserError, match=r"input\.train: the textbook has no EvalTransform"):
        mapper_of(textbook_data, EvalTransform(64, None))
    mapper = mapper_of(textbook_data, TrainTransform([64], 96, 0.5, RandomCropRecipe(0.5, [40], 30, 50)))
    assert (mapper.short_sides, mapper.max_long_side, mapper.flip_probability) == ([64], 96, 0.5)
    assert mapper.crop == (0.5, [40], 30, 50)


def test_the_command_measures_writes_and_compares(tmp_path: Path) -> None:
    options = ["--size", "64x64", "--repeats", "2", "--threads", "1", "--setting", "float32"]
    done = run_module("experiments.benchmark", "model", *options, "--json", str(tmp_path / "a.json"))
    assert done.returncode == 0, done.stderr
    assert "stages.interaction" in done.stdout
    assert Report.read(tmp_path / "a.json").machine["num_threads"] == 1
    done = run_module("experiments.benchmark", "--compare", *[str(tmp_path / "a.json")] * 2)
    assert done.returncode == 0, done.stderr
    assert "undecided" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["speed"], "no benchmark 'speed': choose from model, step, data"),
        (["model", "--repeats", "0"], "--repeats must be at least 1"),
        (["model", "--size", "800"], "--size must be HEIGHTxWIDTH in pixels, such as 800x1066, got '800'"),
        (["fps", "--recipe", "paper"], "data.root: has no value; set it on the command line: data.root=..."),
        (["textbook", "--only", "heads"], "--only heads: nothing was measured; the names are forward, 100 proposals, "),
        (["fps", "--max-images", "0"], "--max-images must be at least 1"),
        (["model", "--images", "photos"], "--images and --weights are of fps alone"),
        (["model", "--compare", "a", "b"], "--compare reads two reports and measures nothing"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], message: str) -> None:
    done = run_module("experiments.benchmark", *arguments)
    assert done.returncode == 2 or done.returncode == 1
    assert message in done.stderr
