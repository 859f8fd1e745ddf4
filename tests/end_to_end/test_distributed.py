"""Several processes: who they are, what they tell each other, and that they train as one does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from sparse_rcnn.data.batching import AspectRatioBatchSampler
from sparse_rcnn.distributed import World, choose_device, first_host, init_world, rank_from_environment
from sparse_rcnn.errors import UserError
from tests.support import training

# --- who and where -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, (0, 1, 0)),
        ({"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}, (5, 8, 1)),
        ({"RANK": "5", "WORLD_SIZE": "8"}, (5, 8, 0)),
        # srun: a job step of several tasks
        (
            {"SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "4", "SLURM_LOCALID": "1", "SLURM_NTASKS": "4"},
            (3, 4, 1),
        ),
        # a step of one task, as submitit's
        ({"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1", "SLURM_LOCALID": "0"}, (0, 1, 0)),
        # the shell of a batch script with --ntasks=4: no step, so it is alone
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_LOCALID": "0", "SLURM_JOB_ID": "7"}, (0, 1, 0)),
        # torchrun inside of a SLURM step: torchrun's word counts
        (
            {
                "SLURM_PROCID": "1",
                "SLURM_STEP_NUM_TASKS": "2",
                "RANK": "9",
                "WORLD_SIZE": "16",
                "LOCAL_RANK": "1",
            },
            (9, 16, 1),
        ),
    ],
)
def test_rank_from_the_environment(environment: dict[str, str], expected: tuple[int, int, int]) -> None:
    assert rank_from_environment(environment) == expected


@pytest.mark.parametrize(
    ("nodelist", "host"),
    [
        ("gpu1", "gpu1"),
        ("gpu1,gpu2", "gpu1"),
        ("gpu[07-09,12],login1", "gpu07"),
        ("gpu[12]", "gpu12"),
        ("gpu[3,5-7]", "gpu3"),
        ("node-[01-04]-ib", "node-01-ib"),
        ("rack[1-2]n[3-4].cluster.org,x1", "rack1n3.cluster.org"),
        ("127.0.0.1", "127.0.0.1"),
        ("a-b-c[1-2]", "a-b-c1"),
    ],
)
def test_the_first_host_of_a_node_list(nodelist: str, host: str) -> None:
    assert first_host(nodelist) == host


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gpu", "device 'gpu' does not exist; use auto, cpu, cuda or cuda:N"),
        ("meta", "device 'meta' is not supported; use auto, cpu, cuda or cuda:N"),
        pytest.param(
            "cuda",
            "device 'cuda': no CUDA device is visible here; use cpu",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU"),
        ),
    ],
)
def test_a_device_that_is_not_there_is_named(name: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        choose_device(name, 0)
    assert str(caught.value) == message


def test_a_gpu_of_its_own_for_every_local_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [choose_device("auto", rank).index for rank in (0, 1)] == [0, 1]
    assert choose_device("cuda:1", 0).index == 1
    with pytest.raises(UserError, match=r"^device 'cuda:2': only 2 CUDA devices are visible here"):
        choose_device("cuda:2", 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)  # each task sees its own GPU only
    assert choose_device("auto", 3).index == 0
    assert [device.index for device in chosen] == [0, 1, 1, 0]


def test_one_process_alone_is_a_world(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    world = init_world("cpu")
    assert world == World(0, 1, torch.device("cpu"))
    assert world.is_main
    assert world.sum_over_ranks([1.5, 2]) == [1.5, 2]
    assert world.gather("x") == ["x"]
    assert world.broadcast("x") == "x"
    with world.together():
        pass
    with pytest.raises(KeyError), world.together():
        raise KeyError
    world.barrier()
    world.close()


CONVERSATION = """
import json, os, sys
from sparse_rcnn.distributed import PeerError, init_world, lost_peers

world = init_world("cpu")
said = {"me": [world.rank, world.size, world.is_main]}
said["sum"] = world.sum_over_ranks([1.0, world.rank, 2**40 + world.rank])
said["gather"] = world.gather({"rank": world.rank})
said["broadcast"] = world.broadcast(f"from {world.rank}")
world.barrier()
with world.together():
    pass
said["together"] = []
for failing in ([0], [1], [0, 1]):
    try:
        with world.together():
            if world.rank in failing:
                raise ValueError(f"{world.rank} fails")
    except PeerError as error:
        said["together"].append([str(error), error.rank])
    except ValueError as error:
        said["together"].append(str(error))
if world.rank == 1:
    print(json.dumps(said), flush=True)
    os._exit(3)
try:
    with lost_peers():
        world.sum_over_ranks([1.0])
except PeerError as error:
    said["lost"] = [str(error), error.rank]
try:
    with lost_peers():
        raise RuntimeError("something else")
except RuntimeError as error:
    said["other"] = str(error)
print(json.dumps(said), flush=True)
os._exit(0)  # gloo's threads may abort an interpreter that shuts down with a broken connection
"""


def test_what_two_processes_tell_each_other() -> None:
    port = str(training.free_port())
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", CONVERSATION],
            env=training.environment(RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=port),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    ends = [training.finish(process) for process in processes]
    assert [code for code, _, _ in ends] == [0, 3], ends
    first, second = (json.loads(out) for _, out, _ in ends)
    assert first["me"] == [0, 2, True]
    assert second["me"] == [1, 2, False]
    for said in (first, second):
        assert said["sum"] == [2, 1, 2**41 + 1]  # in float64: nothing is lost
        assert said["broadcast"] == "from 0"
    assert first["gather"] == [{"rank": 0}, {"rank": 1}]
    assert second["gather"] is None
    # The first that fails says so itself, the others hear of it.
    assert first["together"] == ["0 fails", ["rank 1: 1 fails", 1], "0 fails"]
    assert second["together"] == [["rank 0: 0 fails", 0], "1 fails", ["rank 0: 0 fails", 0]]
    assert first["lost"][0].startswith("lost the connection to another process, which failed or was killed (")
    assert first["lost"][1] is None
    assert first["other"] == "something else"


# --- training as one process does --------------------------------------------------------------------------

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
def test_two_processes_killed_and_started_again(tmp_path: Path) -> None:
    """Dropout has a stream per rank: with the same number of processes it goes on bit for bit."""
    extra = ("dropout=0.1", "train.ema_decay=0.9")
    expected = together(training.overrides(tmp_path / "whole", *extra), tmp_path / "whole")
    driver = write_driver(tmp_path)
    arguments = training.overrides(tmp_path / "killed", *extra)
    group = training.start_group(arguments, 2, driver, PATCH=at_step(4, "os.kill(os.getpid(), 9)"))
    assert [training.finish(process)[0] for process in group] == [-signal.SIGKILL] * 2
    group = training.start_group(arguments, 2)
    ends = [training.finish(process) for process in group]
    assert [code for code, _, _ in ends] == [0, 0], ends
    assert "resuming at step 2 of 6" in ends[0][2]
    run = training.only_run(tmp_path / "killed")
    assert training.losses(run) == training.losses(expected)
    assert training.equal(training.weights(run / "model.safetensors"), training.weights(expected / "model.safetensors"))


@pytest.mark.slow
def test_going_on_with_another_number_of_processes(tmp_path: Path) -> None:
    arguments = training.overrides(tmp_path / "two", *STEADY)
    driver = write_driver(tmp_path)
    group = training.start_group(arguments, 2, driver, PATCH=at_step(4, "os.kill(os.getpid(), 9)"))
    assert [training.finish(process)[0] for process in group] == [-signal.SIGKILL] * 2
    two = training.train(arguments)
    one = training.train(training.overrides(tmp_path / "one", *STEADY))
    assert_as_one(two, one)
    assert json.loads((two / "meta.json").read_text())["resumes"][0]["world_size"] == 1


# --- when one of them fails --------------------------------------------------------------------------------


def write_driver(folder: Path) -> Path:
    """A script that trains after it has executed the code in PATCH."""
    driver = folder / "driver.py"
    driver.write_text("import os\nexec(os.environ['PATCH'])\nfrom experiments.train import main\nmain()\n")
    return driver


def at_step(number: int, action: str) -> str:
    """Code that does something instead of the n-th step of the optimizer."""
    return f"""
import torch
RANK = int(os.environ.get("RANK", 0))
real, calls = torch.optim.AdamW.step, []
def step(self, *args):
    calls.append(1)
    if len(calls) == {number}:
        {action}
    return real(self, *args)
torch.optim.AdamW.step = step
"""


def ends(arguments: Sequence[str], driver: Path | None = None, **changes: str) -> list[tuple[int, list[str]]]:
    """Exit code and lines on stderr of two processes."""
    group = training.start_group(arguments, 2, driver, **changes)
    return [(code, err.splitlines()) for code, _, err in (training.finish(process, timeout=180) for process in group)]


@pytest.mark.slow
def test_a_mistake_that_all_make_is_told_once(tmp_path: Path) -> None:
    data = training.copy_data(tmp_path / "data")
    (data / "instances_val.json").write_text('{"images": [')
    (code, lines), (other_code, other_lines) = ends(training.coco_overrides(data, tmp_path / "runs"))
    assert (code, other_code) == (1, 1)
    assert len(lines) == 1
    assert lines[0].startswith(f"error: {data / 'instances_val.json'} is not valid JSON")
    assert other_lines == []
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_a_lock_that_rank_0_does_not_get_ends_both(tmp_path: Path) -> None:
    holder = training.start(training.overrides(tmp_path, "schedule.length=1000000"))
    deadline = time.monotonic() + 90
    while not list(tmp_path.glob("*/*/metrics.jsonl")):
        assert holder.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    try:
        (code, lines), (other_code, other_lines) = ends(training.overrides(tmp_path, "schedule.length=1000000"))
    finally:
        holder.kill()
        holder.communicate()
    assert (code, other_code) == (1, 1)
    assert len(lines) == 1
    assert f"is in use by process {holder.pid} on " in lines[0]
    assert other_lines == []


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_image_that_rank_1_cannot_read_is_told_by_rank_1(tmp_path: Path, num_workers: int) -> None:
    data = training.copy_data(tmp_path / "data")
    content = json.loads((data / "instances_train.json").read_text())
    images = sorted(content["images"], key=lambda image: image["id"])
    sampler = AspectRatioBatchSampler(np.full((16, 2), 64), 4, seed=0, num_replicas=2, rank=1, num_micro_batches=1)
    image = images[sampler.epoch_batches(0)[2][3][1]]  # the last image of the third batch is rank 1's
    file = data / "train" / image["file_name"]
    file.write_bytes(file.read_bytes()[:200])
    arguments = training.coco_overrides(data, tmp_path / "runs", f"data.num_workers={num_workers}")
    (code, lines), (other_code, other_lines) = ends(arguments)
    assert (code, other_code) == (1, 1)
    assert lines == []
    assert len(other_lines) == 1
    assert other_lines[0].startswith(f"error: {file} (image id {image['id']}) cannot be read as an image")
    status = training.status(training.only_run(tmp_path / "runs"))
    assert status["state"] == "failed"
    assert status["error"].startswith(f"PeerError: rank 1: {file} (image id {image['id']}) cannot be read")


@pytest.mark.slow
def test_a_process_that_is_killed_does_not_leave_the_others_waiting(tmp_path: Path) -> None:
    patch = at_step(4, "RANK == 1 and os.kill(os.getpid(), 9)")
    (code, lines), (other_code, _) = ends(training.overrides(tmp_path / "runs"), write_driver(tmp_path), PATCH=patch)
    assert (code, other_code) == (1, -signal.SIGKILL)
    assert len(lines) == 1
    assert lines[0].startswith("error: lost the connection to another process, which failed or was killed")
    assert training.status(training.only_run(tmp_path / "runs"))["state"] == "failed"


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_numbers_that_are_none_on_one_rank_end_both(tmp_path: Path, rank: int) -> None:
    patch = f"""
import sparse_rcnn.engine as engine
from sparse_rcnn.matcher import NonFiniteError
real, calls = engine.training_step, []
def training_step(*args):
    calls.append(1)
    if len(calls) == 4 and os.environ["RANK"] == "{rank}":
        raise NonFiniteError("stage 1: logits of image 0 of the batch hold NaN or infinity")
    return real(*args)
engine.training_step = training_step
"""
    both = ends(training.overrides(tmp_path / "runs"), write_driver(tmp_path), PATCH=patch)
    assert [code for code, _ in both] == [1, 1], both
    assert len(both[rank][1]) == 1, both
    assert both[rank][1][0].startswith("error: stage 1: logits of image 0 of the batch hold NaN")
    assert "with lr" in both[rank][1][0]
    status = training.status(training.only_run(tmp_path / "runs"))
    assert status["state"] == "failed"
    if rank == 1:
        assert both[0][1][0].startswith("error: lost the connection to another process")
    else:
        assert both[1][1] == []


@pytest.mark.slow
def test_a_disk_that_is_full_on_rank_0_ends_both(tmp_path: Path) -> None:
    patch = """
import errno
import sparse_rcnn.checkpoint
def clean(self):
    raise OSError(errno.ENOSPC, "No space left on device")
sparse_rcnn.checkpoint.CheckpointFolder._clean = clean
"""
    both = ends(training.overrides(tmp_path / "runs"), write_driver(tmp_path), PATCH=patch)
    assert [code for code, _ in both] == [1, 1], both
    run = training.only_run(tmp_path / "runs")
    checkpoint = run / "checkpoints" / "step_00000002"
    assert both[0][1] == [f"error: cannot write checkpoint {checkpoint}: No space left on device"]
    assert both[1][1] == []
    assert training.leftovers(tmp_path) == []


@pytest.mark.slow
def test_ranks_that_do_not_see_the_same_checkpoints_are_refused(tmp_path: Path) -> None:
    arguments = training.overrides(tmp_path / "runs")
    driver = write_driver(tmp_path)
    assert (
        training.finish(training.start(arguments, driver, PATCH=at_step(4, "os.kill(os.getpid(), 9)")))[0]
        == -signal.SIGKILL
    )
    patch = """
import sparse_rcnn.checkpoint
if os.environ["RANK"] == "1":
    sparse_rcnn.checkpoint.CheckpointFolder.steps = lambda self: []
"""
    (code, lines), (other_code, other_lines) = ends(arguments, driver, PATCH=patch)
    assert (code, other_code) == (1, 1)
    assert lines == ["resuming at step 2 of 6 in " + str(training.only_run(tmp_path / "runs"))]
    assert len(other_lines) == 1
    assert "rank 1 would go on from step 0" in other_lines[0]
    assert "have to see the same runs_root" in other_lines[0]


@pytest.mark.slow
def test_an_address_that_is_taken_is_named(tmp_path: Path) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        process = training.start(
            training.overrides(tmp_path), RANK="0", WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=port
        )
        code, _, err = training.finish(process)
    assert code == 1
    (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
    assert f"rank 0 of 2 cannot meet the others at MASTER_ADDR:MASTER_PORT 127.0.0.1:{port}" in line
    assert "Traceback" not in err
    assert os.listdir(tmp_path) == []
