"""What a user gets wrong is one line that names it, and leaves nothing half-written behind."""

from __future__ import annotations

import errno
import json
import math
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.core.hydra_config import HydraConfig
from PIL import Image

import experiments.train
from tests.support import training

Edit = Callable[[dict[str, Any]], None]

DISK_SIZE = "16m"  # of tiny_disk


class Command:
    """Runs ``python -m experiments.train`` in this process."""

    def __init__(self, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self.capfd, self.monkeypatch = capfd, monkeypatch

    def fails(self, arguments: list[str]) -> str:
        """The one line on stderr of a command that has to fail, without its ``error: ``."""
        self.monkeypatch.setattr(sys, "argv", ["train.py", *arguments])
        self.capfd.readouterr()
        try:
            experiments.train.main()
        except SystemExit as error:
            code = error.code
        else:
            raise AssertionError("the command does not fail")
        finally:
            HydraConfig.instance().cfg = None
        out, err = self.capfd.readouterr()
        assert isinstance(code, int)
        assert code != 0
        assert out == ""
        assert err.count("\n") == 1, err
        assert err.startswith("error: "), err
        return err.removeprefix("error: ").rstrip("\n")


@pytest.fixture
def command(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    return Command(capfd, monkeypatch)


def contents(root: Path) -> set[Path]:
    return set(root.rglob("*"))


# --- the configuration -------------------------------------------------------------------------------------

CONFIGURATION = {
    # misspelt keys, at every depth
    "trian.batch_size=4": r"trian.*did you mean 'train'",
    "train.batchsize=4": r"train\.batchsize: unknown key; did you mean 'batch_size'",
    "+train.batchsize=4": r"train\.batchsize: unknown key; did you mean 'batch_size'",
    "model.stage.num_cls_layer=4": r"model\.stage\.num_cls_layer: unknown key; did you mean 'num_cls_layers'",
    "+model.stage.feed_forward.dim_feedforwrd=4": r"model\.\w+\.feed_forward\.dim_feedforwrd: unknown key; did you",
    "+model.stage.interaction.dim_dynamik=4": r"model\.stage\.interaction\.dim_dynamik: unknown key; did you mean",
    "+criterion.matcher.clas_cost=1": r"criterion\.matcher\.clas_cost: unknown key; did you mean 'class_cost'",
    "+optim.weight_decy=0": r"optim\.weight_decy: unknown key; did you mean 'weight_decay'",
    "+input.train.flip=1": r"input\.train\.flip: unknown key",
    "+data.train.image=x": r"data\.train\.image: unknown key; did you mean 'images'",
    "backbone=resnet51": r"backbone: there is no option 'resnet51'; did you mean 'resnet50'",
    "model.stage.num_classes=3": r"model\.stage\.num_classes: ",
    # wrong types
    "train.batch_size=four": r"train\.batch_size: .*'four'",
    "train.batch_size=4.5": r"train\.batch_size: .*4\.5",
    "train.channels_last=perhaps": r"train\.channels_last: ",
    "num_stages=null": r"num_stages: ",
    "optim.lr='1e-4'": r"optim\.lr: .*float.*quotes",
    "model.backbone.bottom_up.widths=16": r"model\.backbone\.bottom_up\.widths: expected a list",
    "model.backbone.bottom_up.widths=[16,a,16,16]": r"model\.backbone\.bottom_up\.widths\[1\]: expected int",
    "input.train.short_sides=[]": r"input\.train: short_sides must be a list of at least one size",
    "model.proposals.init._target_=sparse_rcnn.box_init.ImageInitt": r"model\.proposals\.init\._target_: .*did you",
    # out of range
    "train.batch_size=0": r"train\.batch_size must be at least 1, got 0",
    "train.batch_size=5": r"train\.batch_size: 5 is not a multiple of 2, .*train\.num_micro_batches \(2\)",
    "train.num_micro_batches=0": r"train\.num_micro_batches must be at least 1",
    "train.clip_norm=0": r"train\.clip_norm must be above 0 or null",
    "train.ema_decay=1": r"train\.ema_decay must be within 0 and 1",
    "train.precision=fp8": r"train\.precision must be one of fp32, bf16, got 'fp8'",
    "train.lr_scaling=cubic": r"train\.lr_scaling must be one of none, sqrt, linear",
    "train.log_every=0": r"train\.log_every must be at least 1",
    "train.checkpoint_every=-1": r"train\.checkpoint_every must be at least 1",
    "train.device=gpu": r"train\.device: device 'gpu' does not exist",
    "eval.every_epochs=0": r"eval\.every_epochs must be at least 1",
    "eval.batch_size=0": r"eval\.batch_size must be at least 1",
    "eval.backend=fast": r"eval\.backend must be one of hotcoco, pycocotools",
    "data.num_workers=-1": r"data\.num_workers must be at least 0",
    "data.train.max_images=0": r"data\.train\.max_images must be at least 1",
    "seed=-1": r"seed must be at least 0",
    "num_stages=0": r"num_stages must be at least 1",
    "num_proposals=0": r"num_proposals must be at least 1",
    "hidden_dim=0": r"hidden_dim must be at least 1",
    "hidden_dim=36": r"model\.stage\.reuse: hidden_dim 36 is not a multiple of num_heads 8",
    "dropout=1": r"dropout must be within 0 \(included\) and 1 \(excluded\), got 1",
    "optim.lr=-1": r"optim: Invalid learning rate: -1",
    "optim.betas=[0.9,2]": r"optim: Invalid beta parameter",
    "schedule.length=0": r"schedule: length must be at least 1",
    "schedule.milestones=[0.9,0.5]": r"schedule: milestones must be ascending",
    "schedule.unit=minutes": r"schedule: unit must be 'steps' or 'epochs'",
    "input.train.flip_probability=1.5": r"input\.train: flip_probability must be between 0 and 1",
    "model.backbone.bottom_up.widths=[16,16,16]": r"model\.backbone\.bottom_up: widths and num_blocks need 4 entries",
    "model.roi_pooler.output_size=0": r"model\.stage\.interaction: dim_dynamic and output_size must be at least 1",
    "model.stage.interaction.dim_dynamic=0": r"model\.stage\.interaction: dim_dynamic and output_size must be",
    "model.stage.feed_forward.dim_feedforward=0": r"model\.stage\.feed_forward: dim_feedforward must be at least 1",
    "model.pixel_mean=[1,1]": r"model\.?\w*: ",
    "criterion.focal_gamma=-1": r"criterion\.matcher: focal_gamma must be a finite number of at least 0, got -1",
    "criterion.giou_weight=-2": r"criterion.*: giou_\w+ must be a finite number of at least 0, got -2",
    "data.generator.image_size=0": r"data\.generator: image_size",
    "data.generator.num_train_images=0": r"data\.generator: num_train_images",
    "experiment_name=a/b": r"experiment=a/b: letters, digits",
    # weights
    "weights.backbone=IMAGENET1K_V1": r"weights\.backbone: weights 'IMAGENET1K_V1': SmallNet has no pretrained weights",
    "weights.detector=/nowhere/model.safetensors": r"weights\.detector: there is no file /nowhere/model.safetensors",
    # missing and unreadable
    "data=coco": r"data\.root: has no value; set it on the command line: data\.root=\.\.\.",
    "data=coco_format": r"data\.train\.annotations: has no value; .*data\.val\.images",
    "train.batch_size": r"cannot read the command line at 'train.batch_size'",
    "num_stages=${nothing}": r"num_stages: .*nothing",
}


@pytest.mark.parametrize("override", CONFIGURATION)
def test_a_mistake_in_the_configuration(command: Command, tmp_path: Path, override: str) -> None:
    arguments = training.overrides(tmp_path / "runs", "train.num_micro_batches=2")
    if override.startswith(("data=", "backbone=")):
        arguments = [f"runs_root={tmp_path / 'runs'}"]
    assert re.search("^" + CONFIGURATION[override], line := command.fails([*arguments, override])), line
    assert contents(tmp_path) == set()


# --- the data ----------------------------------------------------------------------------------------------


def first(section: str, **changes: Any) -> Edit:
    return lambda content: content[section][0].update(changes)


def repeat(section: str) -> Edit:
    return lambda content: content[section].append(content[section][0])


def clear(section: str) -> Edit:
    return lambda content: content[section].clear()


# What is done to the content of instances_train.json, and what the message says after the file's name.
ANNOTATIONS: dict[str, tuple[Edit, str]] = {
    "nan": (first("annotations", bbox=[1, 2, math.nan, 4]), r"annotation id \d+ has bbox \[1, 2, nan, 4\]"),
    "infinite": (first("annotations", bbox=[1, 2, math.inf, 4]), r"annotation id \d+ has bbox"),
    "negative": (
        first("annotations", bbox=[1, 2, -3, 4]),
        r"annotation id \d+ has a bbox of zero or negative size",
    ),
    "zero": (
        first("annotations", bbox=[1, 2, 3, 0]),
        r"annotation id \d+ has a bbox of zero or negative size",
    ),
    "three-numbers": (first("annotations", bbox=[1, 2, 3]), r"annotation id \d+ has bbox \[1, 2, 3\], four"),
    "unknown-image": (
        first("annotations", image_id=10**6),
        r"annotation id \d+ has image_id 1000000, .* images",
    ),
    "unknown-category": (
        first("annotations", category_id=77),
        r"annotation id \d+ has category_id 77, .* categories",
    ),
    "repeated-image": (repeat("images"), r"image id \d+ occurs 2 times"),
    "repeated-annotation": (repeat("annotations"), r"annotation id \d+ occurs 2 times"),
    "repeated-category": (repeat("categories"), r"category id \d+ occurs 2 times"),
    "no-images": (clear("images"), r"'images' is empty"),
    "no-categories": (clear("categories"), r"'categories' is empty"),
    "no-file-name": (
        lambda content: content["images"][0].pop("file_name"),
        r"image id \d+ has no 'file_name'",
    ),
    "no-section": (lambda content: content.pop("annotations"), r"no 'annotations'"),
}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return training.copy_data(tmp_path / "data")


@pytest.mark.parametrize("case", ANNOTATIONS)
def test_a_mistake_in_the_annotations(command: Command, tmp_path: Path, data: Path, case: str) -> None:
    edit, message = ANNOTATIONS[case]
    training.edit_json(data / "instances_train.json", edit)
    before = contents(tmp_path)
    line = command.fails(training.coco_overrides(data, tmp_path / "runs"))
    assert re.match(re.escape(str(data / "instances_train.json")) + r":? (has )?" + message, line), line
    assert contents(tmp_path) == before


def test_a_mistake_in_the_validation_annotations_comes_before_any_training(
    command: Command, tmp_path: Path, data: Path
) -> None:
    training.edit_json(data / "instances_val.json", first("annotations", bbox=[1, 2, 3, -4]))
    line = command.fails(training.coco_overrides(data, tmp_path / "runs"))
    assert line.startswith(f"{data / 'instances_val.json'}: annotation id ")
    assert not (tmp_path / "runs").exists()


def test_malformed_json(command: Command, tmp_path: Path, data: Path) -> None:
    file = data / "instances_train.json"
    file.write_text(file.read_text()[:1000])
    line = command.fails(training.coco_overrides(data, tmp_path / "runs"))
    assert re.match(re.escape(f"{file} is not valid JSON: ") + r".* at line \d+, column \d+", line)
    file.unlink()
    line = command.fails(training.coco_overrides(data, tmp_path / "runs"))
    assert line == f"{file}: cannot be read: No such file or directory"
    assert not (tmp_path / "runs").exists()


def test_missing_images(command: Command, tmp_path: Path, data: Path) -> None:
    record = json.loads((data / "instances_train.json").read_text())["images"][3]
    (data / "train" / record["file_name"]).unlink()
    line = command.fails(training.coco_overrides(data, tmp_path / "runs"))
    assert line == (
        f"1 of 16 image files are missing in {data / 'train'}, the first is {record['file_name']} "
        f"(image id {record['id']})"
    )
    line = command.fails(training.coco_overrides(data, tmp_path / "runs", f"data.train.images={tmp_path / 'nowhere'}"))
    assert line == f"image folder {tmp_path / 'nowhere'} does not exist"
    assert not (tmp_path / "runs").exists()


def test_the_number_of_classes_and_the_categories_have_to_agree(command: Command, tmp_path: Path, data: Path) -> None:
    line = command.fails(training.coco_overrides(data, tmp_path / "runs", "data.num_classes=80"))
    assert line == (
        f"data.num_classes is 80, {data / 'instances_train.json'} has 3 categories; "
        "set data.num_classes=null to take the file's"
    )
    training.edit_json(data / "instances_val.json", first("categories", name="another"))
    line = command.fails(training.coco_overrides(data, tmp_path / "runs"))
    assert line.startswith(
        f"{data / 'instances_train.json'} and {data / 'instances_val.json'} have different categories"
    )
    assert not (tmp_path / "runs").exists()


def damage_first_image(data: Path, split: str, damage: Callable[[Path], None]) -> tuple[Path, int]:
    record = json.loads((data / f"instances_{split}.json").read_text())["images"][0]
    file = data / split / record["file_name"]
    damage(file)
    return file, record["id"]


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def resize(file: Path) -> None:
    with Image.open(file) as image:
        image.resize((80, 48)).save(file)


@pytest.mark.parametrize("num_workers", [0, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("split", "damage", "message"),
    [
        ("train", truncate, r"cannot be read as an image: .*; replace or remove the file"),
        ("train", resize, r"is 48 x 80 pixels \(height x width\), its record says 64 x 64"),
        ("val", truncate, r"cannot be read as an image: "),
    ],
    ids=["truncated", "other-size", "truncated-val"],
)
def test_an_image_found_wrong_while_training(
    command: Command, tmp_path: Path, data: Path, split: str, damage: Any, message: str, num_workers: int
) -> None:
    original = training.data_root() / split
    file, image_id = damage_first_image(data, split, damage)
    arguments = training.coco_overrides(data, tmp_path / "runs", f"data.num_workers={num_workers}")
    line = command.fails(arguments)
    assert re.match(re.escape(f"{file} (image id {image_id}) ") + message, line), line
    run = training.only_run(tmp_path / "runs")
    status = training.status(run)
    assert (status["state"], status["error"]) == ("failed", f"DataError: {line}")
    assert not (run / "results.json").exists()
    assert training.leftovers(tmp_path) == []

    file.write_bytes((original / file.name).read_bytes())
    assert training.train(arguments) == run  # mended, it goes on
    assert training.status(run)["state"] == "finished"
    assert training.status(run)["error"] is None


# --- weights -----------------------------------------------------------------------------------------------


def test_weights_of_another_architecture(command: Command, tmp_path: Path) -> None:
    weights = training.train(training.overrides(tmp_path / "first")) / "model.safetensors"
    for change in ("num_stages=3", "hidden_dim=40"):
        line = command.fails(training.overrides(tmp_path / "runs", f"weights.detector={weights}", change))
        assert line.startswith(f"weights.detector={weights} does not fit the model: ")
        assert re.search(r"stages\.2\.\S+ is missing|\S+ has shape \(", line)
    corrupt = tmp_path / "corrupt.safetensors"
    corrupt.write_bytes(weights.read_bytes()[:-10])
    line = command.fails(training.overrides(tmp_path / "runs", f"weights.detector={corrupt}"))
    assert line.startswith(f"{corrupt} is corrupt or not a safetensors file")
    assert not (tmp_path / "runs").exists()


def test_pretrained_weights_that_cannot_be_had(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Offline: the line says which file to put where."""
    from urllib.error import URLError

    def offline(*args: Any, **kwargs: Any) -> None:
        raise URLError("Temporary failure in name resolution")

    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    arguments = [
        "backbone=resnet18",
        *training.GENERATOR,
        f"data.root={training.data_root()}",
        f"runs_root={tmp_path / 'runs'}",
    ]
    line = command.fails(arguments)
    assert line.startswith("weights.backbone: weights 'IMAGENET1K_V1' cannot be downloaded (")
    assert "put the file resnet18-" in line
    assert str(tmp_path / "torch" / "hub" / "checkpoints") in line
    line = command.fails([*arguments, "weights.backbone=IMAGENET9"])
    assert line.startswith(
        "weights.backbone: weights 'IMAGENET9' are neither a file nor one of torchvision's for resnet18"
    )
    (tmp_path / "garbage.pth").write_bytes(b"garbage")
    line = command.fails([*arguments, f"weights.backbone={tmp_path / 'garbage.pth'}"])
    assert line.startswith(f"{tmp_path / 'garbage.pth'} cannot be read as a PyTorch checkpoint")
    assert not (tmp_path / "runs").exists()


# --- the disk ----------------------------------------------------------------------------------------------


def test_a_file_in_the_place_of_the_runs(command: Command, tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("in the way")
    for root in (tmp_path / "runs", tmp_path / "runs" / "below"):
        line = command.fails(training.overrides(root))
        assert line.startswith(f"runs_root={root}: cannot be written: ")
    assert contents(tmp_path) == {tmp_path / "runs"}


def fill(disk: Path, leave: int = 0) -> Path:
    usage = os.statvfs(disk)
    filler = disk / "filler"
    filler.write_bytes(bytes(max(0, usage.f_bavail * usage.f_frsize - leave)))
    return filler


def test_a_full_disk_at_a_checkpoint(command: Command, tiny_disk: Path) -> None:
    filler = fill(tiny_disk, leave=200_000)  # room for the small files, not for weights
    line = command.fails(training.overrides(tiny_disk))
    run = training.only_run(tiny_disk)
    assert line == f"cannot write checkpoint {run / 'checkpoints' / 'step_00000002'}: No space left on device"
    assert list((run / "checkpoints").iterdir()) == []
    assert training.leftovers(tiny_disk) == []
    assert training.status(run)["state"] == "failed"
    filler.unlink()
    assert training.train(training.overrides(tiny_disk)) == run
    assert training.status(run)["state"] == "finished"


@pytest.mark.parametrize("leave", [0, 4096, 12288, 20480])
def test_a_full_disk_at_the_start(command: Command, tiny_disk: Path, leave: int) -> None:
    filler = fill(tiny_disk, leave)
    line = command.fails(training.overrides(tiny_disk))
    assert line.endswith("No space left on device")
    assert str(tiny_disk) in line
    assert training.leftovers(tiny_disk) == []
    filler.unlink()
    assert training.status(training.train(training.overrides(tiny_disk)))["state"] == "finished"


def test_a_full_disk_in_the_metrics(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The line of a step cannot be written, the status neither: the first of both is told, by its file."""
    from sparse_rcnn.runlog import JsonlWriter

    class Full:
        def __init__(self, file: Any) -> None:
            self.file = file

        def write(self, text: str) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        flush = close = lambda self: self.write("")
        fileno = lambda self: self.file.fileno()  # noqa: E731

    real = JsonlWriter.__init__

    def init(self: JsonlWriter, path: Path) -> None:
        real(self, path)
        self._file = Full(self._file)

    monkeypatch.setattr(JsonlWriter, "__init__", init)
    line = command.fails(training.overrides(tmp_path))
    assert line == f"cannot write {training.only_run(tmp_path) / 'metrics.jsonl'}: No space left on device"


# --- checkpoints and the rest ------------------------------------------------------------------------------


def test_a_corrupt_checkpoint_on_the_command_line(command: Command, tmp_path: Path) -> None:
    run = training.train(training.overrides(tmp_path))
    (run / "results.json").unlink()
    file = run / "checkpoints" / "step_00000006" / "training_state.pt"
    file.write_bytes(file.read_bytes()[:100])
    line = command.fails(training.overrides(tmp_path))
    assert line.startswith(f"{file} is corrupt (")
    assert line.endswith(f"; delete {file.parent} to go on from the one before")


def test_numbers_that_are_none(command: Command, tmp_path: Path) -> None:
    line = command.fails(training.overrides(tmp_path, "optim.lr=1e30"))
    assert re.match(r"stage \d: .* at step \d with lr \S+: lower the learning rate ", line), line
    assert line.endswith("; the keys are optim.lr and schedule.num_warmup_steps")
    run = training.only_run(tmp_path)
    status = training.status(run)
    assert (status["state"], status["error"]) == ("failed", f"NonFiniteError: {line}")
    for checkpoint in (run / "checkpoints").glob("*/model.safetensors"):
        assert all(tensor.isfinite().all() for tensor in training.weights(checkpoint).values())


def test_a_folder_that_holds_another_run(command: Command, tmp_path: Path) -> None:
    run = training.train(training.overrides(tmp_path))
    config = json.loads((run / "config.json").read_text())
    config["optim"]["weight_decay"] = 0.5
    (run / "config.json").write_text(json.dumps(config))
    (run / "results.json").unlink()
    line = command.fails(training.overrides(tmp_path))
    assert line.startswith(f"{run} holds another run")
    assert "optim.weight_decay: 0.5 -> 0.0001" in line


def test_the_real_command_ends_with_one_line_and_code_1(tmp_path: Path) -> None:
    data = training.copy_data(tmp_path / "data")
    file, image_id = damage_first_image(data, "train", truncate)
    arguments = training.coco_overrides(data, tmp_path / "runs", "data.num_workers=1")
    code, out, err = training.finish(training.start(arguments))
    assert (code, out) == (1, "")
    assert err.startswith(f"error: {file} (image id {image_id}) cannot be read as an image")
    assert err.count("\n") == 1
