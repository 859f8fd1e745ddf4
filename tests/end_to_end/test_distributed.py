"""Several processes train as one does, also when they are killed and started again."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from sparse_rcnn.data.batching import AspectRatioBatchSampler
from tests.support import compared_detectors, training
from tests.support.damage import flip_for_good
from tests.support.drivers import at_step, patched_driver

# A small rate, so that rounding does not grow: what is compared is the arithmetic, not the chaos of training.
STEADY = ("optim.lr=2e-5",)


def assert_as_one(two: Path, one: Path) -> None:
    """Same run, same losses, weights and evaluation up to the rounding of sums in another order."""
    assert two.name == one.name
    assert json.loads((two / "meta.json").read_text())["world_size"] == 2
    together, alone = training.losses(two), training.losses(one)
    assert together.keys() == alone.keys() == set(range(1, training.NUM_STEPS + 1))
    for step in alone:
        for name, value in alone[step].items():
            # Rounding grows from step to step: the smallest maps of these images have four pixels, and their norm
            # divides by what differs between them. The first steps show that the arithmetic is the same.
            rel = 1e-5 if step <= 3 else 1e-3
            if name == "train/optim/grad_norm":
                rel = 1e-3 if step <= 3 else 0.1
            assert together[step][name] == pytest.approx(value, rel=rel, abs=1e-7), (step, name)
    mine, other = training.weights(two / "model.safetensors"), training.weights(one / "model.safetensors")
    # Adam divides by the size of the gradient: where that is rounding noise, a step of lr may go either way.
    for name in mine:
        torch.testing.assert_close(mine[name], other[name], rtol=1e-4, atol=1e-4, msg=name)
    assert training.results(two) == pytest.approx(training.results(one), abs=1e-3)


def together(arguments: Sequence[str], root: Path, num_processes: int = 2, slurm: bool = False) -> Path:
    group = training.start_group(arguments, num_processes, slurm=slurm)
    ends = [training.finish(process, timeout=300) for process in group]
    assert [code for code, _, _ in ends] == [0] * num_processes, ends
    assert all(err == "" for _, _, err in ends), ends
    assert "AP50" in ends[0][1]
    assert all(out == "" for _, out, _ in ends[1:])  # rank 0 speaks
    return training.only_run(root)


def test_two_processes_train_as_one(tmp_path: Path) -> None:
    extra = (*STEADY, "train.num_micro_batches=2", "eval.every_epochs=1")
    two = together(training.overrides(tmp_path / "two", *extra), tmp_path / "two")
    one = training.train(training.overrides(tmp_path / "one", *extra))
    assert_as_one(two, one)
    evaluations = [json.loads((run / "eval" / "step_00000004.json").read_text()) for run in (two, one)]
    assert evaluations[0]["metrics"] == pytest.approx(evaluations[1]["metrics"], abs=1e-3)
    assert len(training.newest_state(two)["rng"]) == 2


@pytest.mark.slow
@pytest.mark.parametrize("slurm", [False, True], ids=["torchrun", "slurm"])
def test_two_processes_with_moving_average_and_workers(tmp_path: Path, slurm: bool) -> None:
    extra = (*STEADY, "train.ema_decay=0.9", "data.num_workers=1", "train.channels_last=true")
    two = together(training.overrides(tmp_path / "two", *extra), tmp_path / "two", slurm=slurm)
    assert_as_one(two, training.train(training.overrides(tmp_path / "one", *extra)))


@pytest.mark.slow
@pytest.mark.parametrize("row", ["retinanet", "detr", "deformable_detr"])
def test_two_processes_train_a_compared_detector_as_one(row: str, tmp_path: Path) -> None:
    two = together(compared_detectors.overrides(row, tmp_path / "two", *STEADY), tmp_path / "two")
    one = training.train(compared_detectors.overrides(row, tmp_path / "one", *STEADY))
    together_losses, alone = training.losses(two), training.losses(one)
    for step in (1, 2, 3):
        for name, value in alone[step].items():
            rel = 1e-3 if name == "train/optim/grad_norm" else 1e-5
            assert together_losses[step][name] == pytest.approx(value, rel=rel, abs=1e-7), (step, name)


@pytest.mark.slow
@pytest.mark.parametrize("row", ["faster_rcnn", "cascade_rcnn"])
def test_two_processes_train_a_detector_that_samples(row: str, tmp_path: Path) -> None:
    """They draw other samples than one: the same to no digit, but of the same size."""
    two = together(compared_detectors.overrides(row, tmp_path / "two", *STEADY), tmp_path / "two")
    one = training.train(compared_detectors.overrides(row, tmp_path / "one", *STEADY))
    for step, losses in training.losses(one).items():
        assert training.losses(two)[step]["train/loss/total"] == pytest.approx(losses["train/loss/total"], rel=0.3)


@pytest.mark.slow
def test_a_rank_without_boxes_trains_as_one(tmp_path: Path) -> None:
    data = training.copy_data(tmp_path / "data")
    content = json.loads((data / "instances_train.json").read_text())
    image_ids = sorted(image["id"] for image in content["images"])
    sizes = np.full((len(image_ids), 2), 64)
    sampler = AspectRatioBatchSampler(sizes, 4, seed=0, num_replicas=1, rank=0, num_micro_batches=1)
    batches = sampler.epoch_batches(0)
    of_rank_1 = {image_ids[index] for batch in batches for _, index in batch[2:]}

    def strip(content: dict) -> None:
        content["annotations"] = [a for a in content["annotations"] if a["image_id"] not in of_rank_1]

    training.edit_json(data / "instances_train.json", strip)
    left = {a["image_id"] for a in json.loads((data / "instances_train.json").read_text())["annotations"]}
    assert all(left & {image_ids[index] for _, index in batch[:2]} for batch in batches)
    two = together(training.coco_overrides(data, tmp_path / "two", *STEADY), tmp_path / "two")
    assert_as_one(two, training.train(training.coco_overrides(data, tmp_path / "one", *STEADY)))


@pytest.mark.slow
def test_under_torchrun_itself(tmp_path: Path) -> None:
    command = [
        *(
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--nproc-per-node",
            "2",
            "--master-port",
            str(training.free_port()),
        ),
        *("-m", "experiments.train", *training.overrides(tmp_path / "two", *STEADY)),
    ]
    done = subprocess.run(
        command,
        cwd=training.ROOT,
        env=training.environment(),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert_as_one(training.only_run(tmp_path / "two"), training.train(training.overrides(tmp_path / "one", *STEADY)))


@pytest.mark.slow
@pytest.mark.parametrize("damaged", [False, True], ids=["whole", "newest-checkpoint-damaged"])
def test_two_processes_killed_and_started_again(tmp_path: Path, damaged: bool) -> None:
    """Dropout has a stream per rank: with the same number of processes it goes on bit for bit."""
    extra = ("dropout=0.1", "train.ema_decay=0.9")
    expected = together(training.overrides(tmp_path / "whole", *extra), tmp_path / "whole")
    driver = patched_driver(tmp_path)
    arguments = training.overrides(tmp_path / "killed", *extra)
    group = training.start_group(arguments, 2, driver, PATCH=at_step(6 if damaged else 4, "os.kill(os.getpid(), 9)"))
    assert [training.finish(process)[0] for process in group] == [-signal.SIGKILL] * 2
    if damaged:
        checkpoints = training.only_run(tmp_path / "killed") / "checkpoints"
        flip_for_good(checkpoints / "step_00000004" / "training_state.pt", 8 * 5000)
    group = training.start_group(arguments, 2)
    ends = [training.finish(process) for process in group]
    assert [code for code, _, _ in ends] == [0, 0], ends
    assert "resuming at step 2 of 6" in ends[0][2]
    assert ends[0][2].count("set aside as damaged-step_00000004, the run goes on from step 2") == damaged
    assert ends[1][2] == ""
    run = training.only_run(tmp_path / "killed")
    assert training.losses(run) == training.losses(expected)
    assert training.equal(training.weights(run / "model.safetensors"), training.weights(expected / "model.safetensors"))


@pytest.mark.slow
def test_going_on_with_another_number_of_processes(tmp_path: Path) -> None:
    arguments = training.overrides(tmp_path / "two", *STEADY)
    driver = patched_driver(tmp_path)
    group = training.start_group(arguments, 2, driver, PATCH=at_step(4, "os.kill(os.getpid(), 9)"))
    assert [training.finish(process)[0] for process in group] == [-signal.SIGKILL] * 2
    two = training.train(arguments)
    one = training.train(training.overrides(tmp_path / "one", *STEADY))
    assert_as_one(two, one)
    assert json.loads((two / "meta.json").read_text())["resumes"][0]["world_size"] == 1
