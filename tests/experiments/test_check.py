"""python -m experiments.check: what it counts, what it shows of a row, and which rows an edited default moves."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from math import prod
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from experiments.check import SUSTAINED_TFLOPS, check_rows, main, rows_text
from experiments.config.rows import compose_row
from experiments.run.cost import Cost, cost_of, footnote, forward_flops
from sparse_rcnn.detector_module import DetectorModule
from sparse_rcnn.roi_pooler import MultiLevelRoIAlign
from sparse_rcnn.rundir.changes import texts
from tests.support.paths import ROOT, shared

GOLDEN = ROOT / "tests" / "golden" / "rows.txt"
REGENERATE = "if that is meant: python -m experiments.check --write-rows tests/golden/rows.txt"


def sections(text: str) -> dict[str, list[str]]:
    """`[recipe row]` to its lines."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line.startswith("["):
            lines = found[line] = []
        elif line and not line.startswith("#"):
            lines.append(line)
    return found


def test_no_row_has_moved() -> None:
    expected, actual = sections(GOLDEN.read_text()), sections(rows_text())
    moved = [name for name in {**expected, **actual} if expected.get(name) != actual.get(name)]
    lines = [
        f"{name} {sign} {line}"
        for name in moved
        for sign, one, other in (("-", expected, actual), ("+", actual, expected))
        for line in one.get(name, ["(no such row)"])
        if line not in other.get(name, [])
    ]
    assert not moved, "\n".join([f"rows that moved: {', '.join(moved)}", *lines, REGENERATE])
    assert actual["[mini stages_3]"] == ["= baseline"]
    assert actual["[paper stages_3]"] == ["model.num_stages: 6 -> 3", "num_stages: 6 -> 3"]
    assert "num_stages: 6" in actual["[paper baseline]"]


class OneOfEach(DetectorModule):
    """A convolution, RoI pooling, a linear layer and attention, as the detector has them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.roi_pooler = MultiLevelRoIAlign(output_size=7, sampling_ratio=2)
        self.linear = nn.Linear(4 * 7 * 7, 8)
        self.attention = nn.MultiheadAttention(8, 2, dropout=0.1, batch_first=True)

    def forward(self, images: Tensor, image_sizes_hw: Tensor) -> Tensor:
        boxes = torch.zeros(1, 6, 4)
        x = self.linear(self.roi_pooler([self.conv(images)], boxes).flatten(1))[None]
        return self.attention(x, x, x, need_weights=False)[0]


def test_flops_of_a_small_module_are_those_counted_by_hand() -> None:
    with torch.device("meta"):
        model = OneOfEach()
    pooler = model.roi_pooler
    conv = (16 * 32) * 4 * (3 * 3 * 3)  # pixels x outputs x inputs
    linear = 6 * (4 * 7 * 7) * 8
    attention = 4 * 6 * 8 * 8 + 2 * 6 * 6 * 8  # four projections of 6 tokens, scores and weighted sum
    pooling = (6 * 4 * 7 * 7) * (2 * 2) * 4  # values x samples of a bin x pixels around a sample
    assert forward_flops(model, (32, 64)) == (2 * (conv + linear + attention), 2 * pooling)
    assert model.roi_pooler is pooler


def test_gpu_hours_are_three_forward_passes_over_every_image_seen() -> None:
    def cost(num_images_seen: int | None) -> Cost:
        return Cost(1_234_567, 0, 1_500_000_000, 500_000_000, (32, 32), "", "", num_images_seen)

    assert cost(3_600_000).gpu_hours(sustained_tflops=2) == pytest.approx(3 * 2e9 * 3.6e6 / 2e12 / 3600)
    assert cost(3_600_000).cells(2) == ("1.23 M", "0.00 M", "2.00", "3 600 000", "3")
    assert cost(None).cells(2)[-2:] == ("-", "-")


def test_the_footnote_is_that_of_all_rows() -> None:
    def note(*rows: tuple[tuple[int, int], int | None]) -> str:
        return footnote([Cost(1, 1, 1, 1, size, f"padded to {size[0]}", "3 classes", n) for size, n in rows], 2)

    of_one = note(((32, 64), 3000), ((32, 64), 5000))
    assert "one image of 32 x 64 (padded to 32), 3 classes, 2 x multiply-adds" in of_one
    assert "an estimate: 3 x GFLOPs x images of the training / 2 TFLOP/s sustained, all images at that size. " in of_one
    assert "GPU-hours: unknown, the length" in note(((32, 64), None), ((32, 64), None))
    both = note(((32, 64), None), ((33, 64), 7))
    assert "one image of 32 x 64 (padded to 32) or, as its detector has it, 33 x 64 (padded to 33), 3 classes" in both
    assert "all images at that size; unknown (-) where the length" in both


def test_length_in_epochs_needs_the_number_of_images() -> None:
    epochs = ("schedule.unit=epochs", "schedule.length=3")
    assert cost_of(compose_row("mini", "stages_1", epochs)).num_images_seen == 3 * 2000
    photos = cost_of(compose_row("photos", "stages_1", epochs))
    assert (photos.num_images_seen, photos.image_size_hw, photos.classes) == (None, (224, 320), "80 classes assumed")


def test_the_papers_baseline_costs_what_is_known_of_it() -> None:
    cost = cost_of(compose_row("paper", "baseline", ()))
    assert (cost.image_size_hw, cost.classes, cost.num_images_seen) == ((800, 1088), "80 classes", 270_000 * 16)
    # The rate that turns its FLOPs into the published hours on 8 GPUs.
    sustained = 3 * cost.total_flops * 4.32e6 / (19 * 3600 * 8) / 1e12
    assert sustained == pytest.approx(SUSTAINED_TFLOPS, rel=0.01)
    entries = json.loads(shared("golden/param_names_r50_100pro_6stage.json").read_text())
    parameters = [entry for entry in entries if entry["kind"] == "parameter"]
    assert cost.num_parameters == sum(prod(entry["shape"]) for entry in parameters)
    assert cost.num_trainable == sum(prod(entry["shape"]) for entry in parameters if entry["trainable"])


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    """A copy of conf/ with three rows."""
    copy = tmp_path / "conf"
    shutil.copytree(ROOT / "conf", copy)
    for file in (copy / "experiment").glob("*.yaml"):
        if file.stem not in ("baseline", "stages_1", "stages_3"):
            file.unlink()
    return copy


def add_row(conf: Path, name: str, text: str) -> None:
    (conf / "experiment" / f"{name}.yaml").write_text(f"# @package _global_\nexperiment_name: {name}\n{text}\n")


def run(conf: Path, *arguments: str) -> int:
    try:
        main(arguments, conf)
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_rows_that_fail_are_listed_and_the_others_go_on(conf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add_row(conf, "bad_key", "num_stagse: 1")
    add_row(conf, "bad_value", "num_stages: 0")
    add_row(conf, "bad_fit", "model: {stage: {interaction: {output_size: 5}}}")
    add_row(conf, "bad_yaml", "num_stages: [1")
    add_row(conf, "stages_1_again", "num_stages: 1")
    assert run(conf, "--markdown", "--recipe", "mini") == 1
    out, err = capsys.readouterr()
    bad = "bad_fit (recipe=mini), bad_key (recipe=mini), bad_value (recipe=mini), bad_yaml (recipe=mini)"
    assert err == f"error: 4 rows do not compose or build, see above: {bad}\n"
    cells = {line.split(" | ")[0].strip("| "): line.split(" | ") for line in out.splitlines() if line.startswith("| ")}
    assert cells["bad_key"][1].startswith("ERROR ")
    assert "num_stagse" in cells["bad_key"][1]
    assert "num_stages must be at least 1" in cells["bad_value"][1]
    assert cells["bad_fit"][1].startswith("ERROR model: its forward pass fails: ")
    assert cells["bad_yaml"][1].startswith("ERROR not YAML: ")
    assert cells["stages_1"][1] == "num_stages: 3 -> 1"
    assert cells["stages_3"][1] == "= baseline"
    assert cells["stages_1_again"][1] == "= stages_1<br>num_stages: 3 -> 1"
    assert cells["stages_1_again"][2:] == cells["stages_1"][2:]
    assert "128 x 128" in out
    assert "2 x multiply-adds, those of RoI pooling included" in out
    assert "an estimate" in out


def test_the_table_of_a_good_suite_and_exit_code_0(conf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(conf, "recipe=mini", "num_proposals=7", "--sustained-tflops", "0.01") == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "recipe=mini: 3 rows against baseline" in out
    assert "0.01 TFLOP/s" in out


def test_rows_and_parts_of_ones_own_lie_in_more_folders(
    conf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mine, more = tmp_path / "mine", tmp_path / "more"
    for folder, group in ((mine, "experiment"), (mine, "reuse"), (more, "experiment")):
        (folder / group).mkdir(parents=True, exist_ok=True)
    shutil.copy(conf / "reuse" / "none.yaml", mine / "reuse" / "my_reuse.yaml")
    add_row(mine, "my_row", "defaults: [override /reuse: my_reuse]")
    add_row(more, "my_other_row", "num_stages: 2")
    monkeypatch.chdir(tmp_path)
    assert run(conf, "recipe=mini", "--markdown", "--config-dir", "mine", f"--config-dir={more}") == 0
    out = capsys.readouterr().out
    rows = {line.split(" | ")[0].strip("| "): line.split(" | ")[1] for line in out.splitlines() if line[:2] == "| "}
    assert "5 rows against baseline" in out
    assert rows["my_other_row"] == "num_stages: 3 -> 2"
    assert "reuse" in rows["my_row"]
    assert run(conf, "recipe=mini", "--markdown", "reuse=my_reuse", "-cd", "mine") == 0
    assert "4 rows against baseline" in capsys.readouterr().out


def test_the_rows_of_a_detector_are_compared_with_the_one_of_its_name(
    conf: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for row in ("retinanet", "retinanet_backbone_resnet101"):
        shutil.copy(ROOT / "conf" / "experiment" / f"{row}.yaml", conf / "experiment")
    add_row(conf, "retinanet_longer", "defaults: [override /detector: retinanet]\nschedule: {length: 3000}")
    assert run(conf, "recipe=mini", "detector=retinanet", "--markdown") == 0
    out = capsys.readouterr().out
    lines = [line.strip("| ").split(" | ") for line in out.splitlines() if line.startswith("| ")][2:]
    assert "3 rows against retinanet" in out
    assert [line[0] for line in lines] == ["retinanet", "retinanet_backbone_resnet101", "retinanet_longer"]
    assert lines[2][1] == "schedule.length: 2500 -> 3000"
    assert [line[5] for line in lines] == ["20 000", "20 000", "24 000"]
    assert "images of the training /" in out
    for path in conf.glob("experiment/retinanet*"):
        path.unlink()
    assert run(conf, "recipe=mini", "detector=retinanet", "--markdown") == 0
    assert "1 row against detector=retinanet" in capsys.readouterr().out


def test_a_row_that_changes_weights_or_data_is_another_run(conf: Path) -> None:
    add_row(conf, "weights", "weights: {backbone: IMAGENET1K_V1}")
    add_row(conf, "data", "data: {generator: {num_classes: 3}}")
    rows = {row.name: row for row in check_rows("mini", conf_dir=conf, with_cost=False)}
    assert texts(rows["weights"].changes) == ['weights.backbone: null -> "IMAGENET1K_V1"']
    assert texts(rows["data"].changes) == ["data.generator.num_classes: 4 -> 3"]
    assert (rows["weights"].equals, rows["data"].equals, rows["stages_3"].equals) == (None, None, "baseline")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--recipe", "papr"], 1, "error: recipe: there is no option 'papr'; did you mean 'paper'?"),
        (["recipe=mini", "num_stgaes=3"], 1, "error: num_stgaes: unknown key; did you mean 'num_stages'?"),
        (["recipe=mini", "hidden_dim=20"], 1, "stage.reuse: hidden_dim 20 is not a multiple of"),
        (["recipe=mini", "foo"], 2, "error: cannot read the command line at 'foo'"),
        (["experiment=stages_1"], 1, "error: experiment: every row is checked; leave it out"),
        (["--sustained-tflops", "0"], 2, "--sustained-tflops must be above 0"),
        (["--write-rows", "x", "--recipe", "mini"], 2, "--write-rows takes neither a recipe nor overrides"),
        (["--write-rows", "x", "--config-dir", "mine"], 2, "--write-rows takes neither a recipe nor overrides nor"),
        (["--config-dir", "absent"], 1, "error: --config-dir absent: there is no such folder"),
    ],
)
def test_mistakes_are_one_line(
    arguments: Sequence[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(ROOT / "conf", *arguments) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err.splitlines()[-1]


def test_written_rows_are_all_or_nothing(conf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "rows.txt"
    assert run(conf, "--write-rows", str(path)) == 0
    assert list(sections(path.read_text()))[:3] == ["[paper baseline]", "[paper stages_1]", "[paper stages_3]"]
    before = path.read_text()
    add_row(conf, "bad_key", "num_stagse: 1")
    assert run(conf, "--write-rows", str(path)) == 1
    err = capsys.readouterr().err
    assert err.startswith("error: bad_key (recipe=paper): ")
    assert "num_stagse" in err
    assert err.count("\n") == 1
    assert path.read_text() == before
