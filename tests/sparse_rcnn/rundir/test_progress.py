"""What is read from run directories while they change and whatever is in them."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from sparse_rcnn.rundir import run_progress
from sparse_rcnn.rundir.lock import lock_run
from sparse_rcnn.rundir.run_progress import read_overview, read_tail
from tests.support.paths import ROOT
from tests.support.runs import write_json
from tests.support.unfinished_runs import NOW, at, eval_line, read, run_in_state, train_line


def listing(root: Path) -> dict[Path, tuple[int, int, int]]:
    return {p: (p.stat().st_mtime_ns, p.stat().st_size, p.stat().st_ino) for p in [root, *root.rglob("*")]}


def test_eta_is_the_recent_rate_of_this_process_by_hand(tmp_path: Path) -> None:
    path = run_in_state(tmp_path, state="running", step=30, num_steps=100)
    # 30 events: the first ten 100 s apart, then one every 3 s. The last 20 span 19 steps in 57 s: 70 steps are 210 s.
    times = [NOW - 57 - 1000 + 100 * i for i in range(10)] + [NOW - 57 + 3 * i for i in range(20)]
    (path / "metrics.jsonl").write_text("".join(train_line(i + 1, when) for i, when in enumerate(times)))
    assert read(path).eta == pytest.approx(70 * 3.0)


def test_eta_counts_steps_between_events_and_evaluations_in_the_window(tmp_path: Path) -> None:
    path = run_in_state(tmp_path, state="running", step=10, num_steps=100, epoch=0.4)
    # 20 steps in 60 s, of which 20 s evaluation: 70 steps from step 30 are 210 s.
    log = train_line(10, NOW - 60) + eval_line(10, NOW - 40, 0.1) + train_line(20, NOW - 20) + train_line(30, NOW)
    (path / "metrics.jsonl").write_text(log)
    assert (read(path).step, read(path).eta) == (30, pytest.approx(210.0))
    assert read(path).epoch == 30 / 25


def test_eta_leaves_out_what_was_before_the_resume(tmp_path: Path) -> None:
    resume = {"resumed_at": at(NOW - 100), "host": "other", "device": "GPU 7", "recipe": None}
    path = run_in_state(tmp_path, meta={"resumes": [resume]}, state="running", step=20, num_steps=100)
    before = "".join(train_line(step, NOW - 9000 + step) for step in range(1, 41))
    (path / "metrics.jsonl").write_text(before + train_line(30, NOW - 20, 4.0))
    run = read(path)
    assert (run.eta, run.step, run.images_per_second, run.device, run.recipe) == (None, 30, 4.0, "GPU 7", "mini")
    (path / "metrics.jsonl").write_text(before + train_line(30, NOW - 20) + train_line(35, NOW - 10))
    assert read(path).eta == pytest.approx(65 * 2.0)


@pytest.mark.parametrize(
    "log",
    ["", train_line(1, NOW), train_line(5, NOW) + train_line(5, NOW), train_line(5, NOW) + train_line(6, NOW - 9)],
)
def test_no_eta_without_a_rate(tmp_path: Path, log: str) -> None:
    path = run_in_state(tmp_path, state="running")
    (path / "metrics.jsonl").write_text(log)
    assert read(path).eta is None


def test_only_a_running_run_has_an_eta(tmp_path: Path) -> None:
    path = run_in_state(tmp_path, state="interrupted")
    (path / "metrics.jsonl").write_text(train_line(1, NOW - 1) + train_line(2, NOW))
    assert (read(path).state, read(path).eta) == ("interrupted", None)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ({}, "created"),
        ({"state": "created"}, "created"),
        ({"state": "running"}, "running"),
        ({"state": "running", "updated_at": at(NOW - 59)}, "running"),
        ({"state": "running", "updated_at": at(NOW - 61)}, "dead"),
        ({"state": "running", "updated_at": at(NOW - 599), "host": "other"}, "running"),
        ({"state": "running", "updated_at": at(NOW - 601), "host": "other"}, "silent"),
        ({"state": "running", "updated_at": at(NOW - 3600)}, "dead"),
        ({"state": "interrupted", "updated_at": at(NOW - 3600)}, "interrupted"),
        ({"state": "failed", "updated_at": at(NOW - 3600)}, "failed"),
        ({"state": "finished", "updated_at": at(NOW - 3600)}, "finished"),
        ({"state": "to come"}, "to come"),
        ({"state": 3}, "unreadable"),
    ],
)
def test_states(tmp_path: Path, written: dict[str, Any], expected: str) -> None:
    path = run_in_state(tmp_path, **written)
    assert read(path).state == expected
    (path / "lock").touch()  # what a former holder leaves
    assert read(path).state == expected


def test_a_fresh_event_keeps_a_run_alive(tmp_path: Path) -> None:
    path = run_in_state(tmp_path, state="running", updated_at=at(NOW - 300))
    (path / "metrics.jsonl").write_text(eval_line(50, NOW - 30, 0.1))
    assert (read(path).state, read(path).age) == ("running", 30.0)


def test_a_held_lock_is_alive_and_a_killed_holder_dead(tmp_path: Path) -> None:
    path = run_in_state(tmp_path, state="running", updated_at=at(NOW - 9000))
    code = (
        "import sys; from pathlib import Path; from sparse_rcnn.rundir.lock import lock_run\n"
        "with lock_run(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    line = [sys.executable, "-c", code, str(path)]
    with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "held\n"
            before = listing(tmp_path)
            assert read(path).state == "running"
            assert listing(tmp_path) == before
        finally:
            holder.kill()
    assert read(path).state == "dead"
    with lock_run(path):  # reading left nothing held
        assert read(path).state == "running"


def test_an_unreadable_lock_is_judged_by_age(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = run_in_state(tmp_path, state="running", updated_at=at(NOW - 100))
    (path / "lock").touch()

    def refuse(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    assert read(path).state == "running"
    assert read(path, NOW + 600).state == "silent"


def test_reading_writes_nothing_and_needs_no_write_access() -> None:
    # In a folder of its own: those of pytest are closed to the other user that the test becomes.
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for name, age in (("held", 9000), ("free", 9000), ("no_lock", 9000), ("alive", 1)):
            path = run_in_state(root, name, state="running", updated_at=at(NOW - age))
            if name != "no_lock":
                (path / "lock").touch()
        expected = {"held": "running", "free": "dead", "no_lock": "dead", "alive": "running"}
        with lock_run(root / "held" / "0123456789ab-seed0"):
            before = listing(root)
            for path in [root, *root.rglob("*")]:
                path.chmod(0o555 if path.is_dir() else 0o444)
            states = states_for_another_user(root)
            after = listing(root)
            for path in [root, *root.rglob("*")]:
                path.chmod(0o755 if path.is_dir() else 0o644)
    assert states == expected
    assert after == before


def states_for_another_user(root: Path) -> dict[str, str]:
    """What the reader says in a process that may write nothing; root, who writes everywhere, becomes nobody."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            if os.geteuid() == 0:
                os.setuid(65534)
            runs = read_overview([root], NOW).runs
            os.write(writing, json.dumps({run.summary.experiments[0]: run.state for run in runs}).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    return json.loads(text or "{}")


def test_ap_of_results_then_of_the_last_event_then_of_the_newest_evaluation(tmp_path: Path) -> None:
    path = run_in_state(tmp_path, state="running")
    assert read(path).ap is None
    write_json(path / "eval" / "step_99999999.json", {"metrics": {"val/bbox/AP": 0.2}})
    write_json(path / "eval" / "step_100000000.json", {"metrics": {"val/bbox/AP": 0.25}})
    (path / "eval" / ".step_200000000.json.7.tmp").write_text('{"met')
    assert read(path).ap == 0.25
    (path / "metrics.jsonl").write_text(eval_line(10, NOW, 0.3) + eval_line(20, NOW, 0.31) + train_line(21, NOW))
    assert read(path).ap == 0.31
    write_json(path / "results.json", {"val/bbox/AP": 0.428})
    assert read(path).ap == 0.428
    write_json(path / "results.json", {"val/bbox/AP": None})
    assert read(path).ap is None


def test_torn_lines_and_lines_of_other_kinds_are_left_out(tmp_path: Path) -> None:
    path = run_in_state(tmp_path, state="running", step=None)
    bad = b'{"event": "tra\n\x00\x00\xff\n[1]\n{"event": "train", "step": 7}\n\n'
    bad += b'{"event": "train", "step": 8, "time": null, "metrics": {}}\n'
    log = (
        train_line(10, NOW - 20).encode()
        + bad
        + train_line(20, NOW - 10, None).encode()
        + train_line(30, NOW).encode()[:50]
    )
    (path / "metrics.jsonl").write_bytes(log)
    run = read(path)
    assert (run.step, run.eta, run.images_per_second) == (20, pytest.approx(80.0), None)


def test_only_the_tail_is_read(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    lines = [train_line(step, NOW + step) for step in range(1, 5001)]
    path.write_text("".join(lines))
    assert path.stat().st_size > 4 * run_progress.TAIL_BYTES
    steps = [event["step"] for event in read_tail(path)]
    assert steps == list(range(steps[0], 5001))
    assert len(steps) * len(lines[-1]) <= run_progress.TAIL_BYTES < (len(steps) + 2) * len(lines[-1]) + 5 * len(steps)
    assert [event["step"] for event in read_tail(path, len(lines[-1]) + 5)] == [5000]
    assert read_tail(tmp_path / "absent") == []


@pytest.mark.parametrize("victim", ["status.json", "results.json", ""])
def test_a_run_that_vanishes_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, victim: str) -> None:
    path = run_in_state(tmp_path, state="finished")
    run_in_state(tmp_path, "other", state="finished")
    read_bytes = Path.read_bytes

    def race(self: Path) -> bytes:
        if self.parent == path and self.name != "meta.json":
            shutil.rmtree(path)
        return read_bytes(self)

    def race_before_meta(self: Path) -> bytes:
        shutil.rmtree(path, ignore_errors=True)
        return read_bytes(self)

    write_json(path / "results.json", {})
    if victim == "results.json":
        (path / "status.json").unlink()
    monkeypatch.setattr(Path, "read_bytes", race if victim else race_before_meta)
    sweep = read_overview([tmp_path], NOW)
    assert ([run.summary.experiments[0] for run in sweep.runs], sweep.foreign) == (["other"], [])


def test_roots_may_be_runs_experiments_and_overlap(tmp_path: Path) -> None:
    first, second = run_in_state(tmp_path, "a"), run_in_state(tmp_path, "b")
    for roots in ([tmp_path], [first, second], [tmp_path / "a", tmp_path / "b"], [tmp_path, first, tmp_path / "b"]):
        sweep = read_overview(roots, NOW)
        assert ([str(run.path) for run in sweep.runs], sweep.foreign) == ([str(first), str(second)], [])
