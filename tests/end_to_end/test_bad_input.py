"""A mistake in the configuration or the weights is one line that names it, and leaves nothing behind."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support import training
from tests.support.damage import flip_for_good
from tests.support.train_command import TrainCommand, contents

CONFIGURATION = {
    # misspelt keys, at every depth
    "trian.batch_size=4": r"trian.*did you mean 'train'",
    "data.excluded_categories=cat": r"data\.excluded_categories: .*give a list, data\.excluded_categories=\[\.\.\.\]",
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
    "train.lr_multipliers.stages=0.1": r"train\.lr_multipliers\.stages: is not there yet; to add it type \+train\.lr_"
    r"multipliers\.stages=0\.1$",
    "scale.num_proposals.paper_30=3": r"scale.num_proposals.paper_30: is not .*=3 \(there are: paper_100, .*",
    "+train.lr_multipliers.backbone.stem=.1": r"train\.lr_multipliers\.backbone\.stem: is not there yet; to add it "
    r"type '\+train\.lr_multipliers=\{backbone\.stem:\.1\}'$",
    "+train.lr_multipliers.stages=a": r"train\.lr_multipliers\.stages: Value 'a' of type 'str' could not be converted",
    "+train.lr_multipliers.stag=1": r"train\.lr_multipliers: no parameter .*'stag' .*\(did you mean 'stages'\?\)",
    "model=retinanet": r"model=retinanet does not fit detector=sparse_rcnn: a model belongs to its detector; leave it "
    r"out and choose detector=\.\.\. \(model\.stage: ",
    "criterion=detr": r"criterion=detr does not fit detector=sparse_rcnn: a criterion belongs to its detector; ",
    "detector=detr model=faster_rcnn": r"model=faster_rcnn does not fit detector=detr: a model belongs to its ",
    "detector=detr_dc5": r"detector: there is no option 'detr_dc5'; did you mean experiment=detr_dc5\?",
    "experiment=num_stages": r"experiment: there is no option 'num_stages'; did you mean sweep=num_stages\?",
    "crop=published/nope": r"crop/published: there is no option 'nope' \(available: cascade_rcnn, .*, sparse_rcnn\)$",
    "crop=publishd/detr": r"crop: there is no option 'publishd/detr'; did you mean 'published/detr'\?",
    "crop=published": r"crop: there is no option 'published'; .* \(available: none, published/cas.*, random\)$",
    "hydra/launcher=slrm": r"hydra/launcher: there is no option 'slrm'; did you mean 'slurm'\? \(.*basic.*local.*\)$",
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
    "experiment_name=a/b": r"experiment_name=a/b: letters, digits",
    # weights
    "weights.backbone=IMAGENET1K_V1": r"weights\.backbone: weights 'IMAGENET1K_V1': SmallNet has no pretrained weights",
    "weights.detector=/nowhere/model.safetensors": r"weights\.detector: there is no file /nowhere/model.safetensors",
    "weights.detector=x weights.backbone=y": r"weights\.backbone and detector are both set; .* weights\.backbone=null$",
    # missing and unreadable
    "data=coco": r"data\.root: has no value; set it on the command line: data\.root=\.\.\.",
    "data=coco_format": r"data\.train\.annotations: has no value; .*data\.val\.images",
    "train.batch_size": r"cannot read the command line at 'train.batch_size'",
    "num_stages=${nothing}": r"num_stages: .*nothing",
}


@pytest.mark.parametrize("override", CONFIGURATION)
def test_a_mistake_in_the_configuration(command: TrainCommand, tmp_path: Path, override: str) -> None:
    arguments = training.overrides(tmp_path / "runs", "train.num_micro_batches=2")
    if override.startswith(("data=", "backbone=")):
        arguments = [f"runs_root={tmp_path / 'runs'}"]
    assert re.search("^" + CONFIGURATION[override], line := command.fails([*arguments, *override.split()])), line
    assert contents(tmp_path) == set()


def test_weights_of_another_architecture(command: TrainCommand, tmp_path: Path) -> None:
    weights = training.train(training.overrides(tmp_path / "first")) / "model.safetensors"
    for change in ("num_stages=3", "hidden_dim=40"):
        arguments = training.overrides(tmp_path / "runs", f"weights.detector={weights}", "weights.strict=true", change)
        line = command.fails(arguments)
        assert line.startswith(f"weights.detector={weights} does not fit the model: ")
        assert re.search(r"stages\.2\.\S+ is missing|\S+ has shape \(", line)
    corrupt = tmp_path / "corrupt.safetensors"
    corrupt.write_bytes(weights.read_bytes()[:-10])
    line = command.fails(training.overrides(tmp_path / "runs", f"weights.detector={corrupt}"))
    assert line.startswith(f"weights.detector: {corrupt} is corrupt or not a safetensors file")
    corrupt.write_bytes(weights.read_bytes())
    flip_for_good(corrupt, 8 * corrupt.stat().st_size - 1000)
    line = command.fails(training.overrides(tmp_path / "runs", f"weights.detector={corrupt}"))
    assert line.startswith(f"weights.detector: {corrupt} has another content than was written: ")
    wide = [*training.overrides(tmp_path / "runs", f"weights.detector={weights}", "hidden_dim=64")]
    line = command.fails([*wide, "model.backbone.bottom_up.widths=[48,48,64,64]"])
    assert line.startswith(f"weights.detector={weights} has next to nothing for this model (")
    assert not (tmp_path / "runs").exists()


def test_pretrained_weights_that_cannot_be_had(
    command: TrainCommand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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
    assert line.startswith(f"weights.backbone: {tmp_path / 'garbage.pth'} cannot be read as a PyTorch checkpoint")
    assert not (tmp_path / "runs").exists()


def test_numbers_that_are_none(command: TrainCommand, tmp_path: Path) -> None:
    line = command.fails(training.overrides(tmp_path, "optim.lr=1e30"))
    assert re.match(r"stage \d: .* at step \d with lr \S+: lower the learning rate ", line), line
    assert line.endswith("; the keys are optim.lr and schedule.num_warmup_steps")
    run = training.only_run(tmp_path)
    status = training.status(run)
    assert (status["state"], status["error"]) == ("failed", f"NonFiniteError: {line}")
    for checkpoint in (run / "checkpoints").glob("*/model.safetensors"):
        assert all(tensor.isfinite().all() for tensor in training.weights(checkpoint).values())
