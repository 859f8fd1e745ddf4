"""Processes that train together: who they are, what they tell each other, and who is gone."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch

from sparse_rcnn.distributed import World, choose_device, first_host, init_world, rank_from_environment
from sparse_rcnn.errors import UserError
from tests.support import training


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
