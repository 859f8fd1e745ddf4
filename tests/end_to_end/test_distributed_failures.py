"""Where one of several processes fails all of them end, and it is told once."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from sparse_rcnn.data.batching import AspectRatioBatchSampler
from tests.support import training
from tests.support.drivers import at_step, patched_driver


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
    training.break_pixels(file)
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
    (code, lines), (other_code, _) = ends(training.overrides(tmp_path / "runs"), patched_driver(tmp_path), PATCH=patch)
    assert (code, other_code) == (1, -signal.SIGKILL)
    assert len(lines) == 1
    assert lines[0].startswith("error: lost the connection to another process, which failed or was killed")
    assert training.status(training.only_run(tmp_path / "runs"))["state"] == "failed"


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_numbers_that_are_none_on_one_rank_end_both(tmp_path: Path, rank: int) -> None:
    nan = "[p.data.fill_(float('nan')) for group in self.param_groups for p in group['params']]"
    patch = at_step(3, f"RANK == {rank} and {nan}")
    both = ends(training.overrides(tmp_path / "runs"), patched_driver(tmp_path), PATCH=patch)
    assert [code for code, _ in both] == [1, 1], both
    assert len(both[rank][1]) == 1, both
    assert re.match(r"error: stage 0: logits of image \d of the batch hold NaN", both[rank][1][0])
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
import errno, torch
plain = torch.save
def save(value, file, *args, **kwargs):
    if str(getattr(getattr(file, "_file", file), "name", "")).endswith("training_state.pt"):  # within a DigestWriter
        raise OSError(errno.ENOSPC, "No space left on device")
    plain(value, file, *args, **kwargs)
torch.save = save
"""
    both = ends(training.overrides(tmp_path / "runs"), patched_driver(tmp_path), PATCH=patch)
    assert [code for code, _ in both] == [1, 1], both
    run = training.only_run(tmp_path / "runs")
    checkpoint = run / "checkpoints" / "step_00000002"
    assert both[0][1] == [f"error: cannot write checkpoint {checkpoint}: No space left on device"]
    assert both[1][1] == []
    assert training.leftovers(tmp_path) == []


@pytest.mark.slow
def test_ranks_that_do_not_see_the_same_checkpoints_are_refused(tmp_path: Path) -> None:
    arguments = training.overrides(tmp_path / "runs")
    driver = patched_driver(tmp_path)
    assert (
        training.finish(training.start(arguments, driver, PATCH=at_step(4, "os.kill(os.getpid(), 9)")))[0]
        == -signal.SIGKILL
    )
    patch = """
from pathlib import Path
plain = Path.is_dir
if os.environ["RANK"] == "1":
    Path.is_dir = lambda self: self.parent.name != "checkpoints" and plain(self)
"""
    (code, lines), (other_code, other_lines) = ends(arguments, driver, PATCH=patch)
    assert (code, other_code) == (1, 1)
    run = training.only_run(tmp_path / "runs")
    assert lines == [f"resuming at step 2 of 6 in {run}"]
    expected = f"error: {run / 'checkpoints' / 'step_00000002'} does not exist here: all processes have to see the same"
    assert other_lines == [f"{expected} runs_root"]


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
