"""python -m experiments.status: what it reads from run directories, while they change and whatever is in them."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from experiments import status
from experiments.status import render, summary
from sparse_rcnn.rundir import lock, run_progress
from sparse_rcnn.rundir.lock import lock_run
from sparse_rcnn.rundir.reader import Run
from sparse_rcnn.rundir.run_progress import RunProgress, read_overview, read_progress, read_tail
from tests.support.paths import ROOT
from tests.support.runs import write_json, write_run

NOW = 1_800_000_000.0
HERE = socket.gethostname()


def at(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="seconds")


def make_run(root: Path, name: str = "base", seed: int = 0, meta: dict[str, Any] | None = None, **state: Any) -> Path:
    """A run directory; `state` goes to status.json, which is absent without any."""
    first = {"experiment": name, "seed": seed, "recipe": "mini", "created_at": at(NOW - 1000)}
    first |= {"host": HERE, "device": "cpu", "resumes": []}
    base = {"step": 50, "num_steps": 100, "epoch": 2.0, "updated_at": at(NOW - 5), "host": HERE, "error": None}
    return write_run(
        root / name / f"0123456789ab-seed{seed}",
        {**first, **(meta or {})},
        status={**base, **state} if state else None,
    )


def train(step: int, when: float, speed: float | None = 8.0) -> str:
    metrics = {"train/speed/images_per_second": speed}
    event = {"event": "train", "step": step, "epoch": step / 25, "time": when, "metrics": metrics}
    return json.dumps(event) + "\n"


def evaluation(step: int, when: float, ap: float | None) -> str:
    metrics = {"val/bbox/AP": ap}
    return json.dumps({"event": "eval", "step": step, "epoch": 1.0, "time": when, "metrics": metrics}) + "\n"


def read(path: Path, now: float = NOW) -> RunProgress:
    return read_progress(Run(path), now)


def shown(*roots: Path, states: set[str] | None = None, rows: int | None = None, width: int = 200) -> str:
    console = Console(width=width, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(render(read_overview(roots, NOW), states, [str(root) for root in roots], rows))
    return console.export_text()


def command(*arguments: object, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "experiments.status", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(line, capture_output=True, text=True, cwd=cwd, env=environment, timeout=60)


def listing(root: Path) -> dict[Path, tuple[int, int, int]]:
    return {p: (p.stat().st_mtime_ns, p.stat().st_size, p.stat().st_ino) for p in [root, *root.rglob("*")]}


def test_eta_is_the_recent_rate_of_this_process_by_hand(tmp_path: Path) -> None:
    path = make_run(tmp_path, state="running", step=30, num_steps=100)
    # 30 events: the first ten 100 s apart, then one every 3 s. The last 20 span 19 steps in 57 s: 70 steps are 210 s.
    times = [NOW - 57 - 1000 + 100 * i for i in range(10)] + [NOW - 57 + 3 * i for i in range(20)]
    (path / "metrics.jsonl").write_text("".join(train(i + 1, when) for i, when in enumerate(times)))
    assert read(path).eta == pytest.approx(70 * 3.0)
    assert "0:03:30" in shown(tmp_path)
    assert "the running ones end in 0:03:30" in shown(tmp_path)


def test_eta_counts_steps_between_events_and_evaluations_in_the_window(tmp_path: Path) -> None:
    path = make_run(tmp_path, state="running", step=10, num_steps=100, epoch=0.4)
    # 20 steps in 60 s, of which 20 s evaluation: 70 steps from step 30 are 210 s.
    log = train(10, NOW - 60) + evaluation(10, NOW - 40, 0.1) + train(20, NOW - 20) + train(30, NOW)
    (path / "metrics.jsonl").write_text(log)
    assert (read(path).step, read(path).eta) == (30, pytest.approx(210.0))
    assert read(path).epoch == 30 / 25


def test_eta_leaves_out_what_was_before_the_resume(tmp_path: Path) -> None:
    resume = {"resumed_at": at(NOW - 100), "host": "other", "device": "GPU 7", "recipe": None}
    path = make_run(tmp_path, meta={"resumes": [resume]}, state="running", step=20, num_steps=100)
    before = "".join(train(step, NOW - 9000 + step) for step in range(1, 41))
    (path / "metrics.jsonl").write_text(before + train(30, NOW - 20, 4.0))
    run = read(path)
    assert (run.eta, run.step, run.images_per_second, run.device, run.recipe) == (None, 30, 4.0, "GPU 7", "mini")
    (path / "metrics.jsonl").write_text(before + train(30, NOW - 20) + train(35, NOW - 10))
    assert read(path).eta == pytest.approx(65 * 2.0)


@pytest.mark.parametrize("log", ["", train(1, NOW), train(5, NOW) + train(5, NOW), train(5, NOW) + train(6, NOW - 9)])
def test_no_eta_without_a_rate(tmp_path: Path, log: str) -> None:
    path = make_run(tmp_path, state="running")
    (path / "metrics.jsonl").write_text(log)
    assert read(path).eta is None


def test_only_a_running_run_has_an_eta(tmp_path: Path) -> None:
    path = make_run(tmp_path, state="interrupted")
    (path / "metrics.jsonl").write_text(train(1, NOW - 1) + train(2, NOW))
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
    path = make_run(tmp_path, **written)
    assert read(path).state == expected
    assert f"1 run: 1 {expected}" in shown(tmp_path)
    (path / "lock").touch()  # what a former holder leaves
    assert read(path).state == expected


def test_a_fresh_event_keeps_a_run_alive(tmp_path: Path) -> None:
    path = make_run(tmp_path, state="running", updated_at=at(NOW - 300))
    (path / "metrics.jsonl").write_text(evaluation(50, NOW - 30, 0.1))
    assert (read(path).state, read(path).age) == ("running", 30.0)


def test_a_held_lock_is_alive_and_a_killed_holder_dead(tmp_path: Path) -> None:
    path = make_run(tmp_path, state="running", updated_at=at(NOW - 9000))
    code = (
        "import sys, time; from pathlib import Path; from sparse_rcnn.rundir.lock import lock_run\n"
        "with lock_run(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    )
    line = [sys.executable, "-c", code, str(path)]
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True, cwd=ROOT) as holder:
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
    path = make_run(tmp_path, state="running", updated_at=at(NOW - 100))
    (path / "lock").touch()

    def refuse(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(lock.os, "open", refuse)
    assert read(path).state == "running"
    assert read(path, NOW + 600).state == "silent"


def test_reading_writes_nothing_and_needs_no_write_access() -> None:
    # In a folder of its own: those of pytest are closed to the other user that the test becomes.
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for name, age in (("held", 9000), ("free", 9000), ("no_lock", 9000), ("alive", 1)):
            path = make_run(root, name, state="running", updated_at=at(NOW - age))
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
    path = make_run(tmp_path, state="running")
    assert read(path).ap is None
    write_json(path / "eval" / "step_99999999.json", {"metrics": {"val/bbox/AP": 0.2}})
    write_json(path / "eval" / "step_100000000.json", {"metrics": {"val/bbox/AP": 0.25}})
    (path / "eval" / ".step_200000000.json.7.tmp").write_text('{"met')
    assert read(path).ap == 0.25
    (path / "metrics.jsonl").write_text(evaluation(10, NOW, 0.3) + evaluation(20, NOW, 0.31) + train(21, NOW))
    assert read(path).ap == 0.31
    write_json(path / "results.json", {"val/bbox/AP": 0.428})
    assert read(path).ap == 0.428
    assert "42.8" in shown(tmp_path)
    write_json(path / "results.json", {"val/bbox/AP": None})
    assert read(path).ap is None


def test_torn_lines_and_lines_of_other_kinds_are_left_out(tmp_path: Path) -> None:
    path = make_run(tmp_path, state="running", step=None)
    bad = b'{"event": "tra\n\x00\x00\xff\n[1]\n{"event": "train", "step": 7}\n\n'
    bad += b'{"event": "train", "step": 8, "time": null, "metrics": {}}\n'
    log = train(10, NOW - 20).encode() + bad + train(20, NOW - 10, None).encode() + train(30, NOW).encode()[:50]
    (path / "metrics.jsonl").write_bytes(log)
    run = read(path)
    assert (run.step, run.eta, run.images_per_second) == (20, pytest.approx(80.0), None)


def test_only_the_tail_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "metrics.jsonl"
    lines = [train(step, NOW + step) for step in range(1, 5001)]
    path.write_text("".join(lines))
    assert path.stat().st_size > 4 * run_progress.TAIL_BYTES
    steps = [event["step"] for event in read_tail(path)]
    assert steps == list(range(steps[0], 5001))
    assert len(steps) * len(lines[-1]) <= run_progress.TAIL_BYTES < (len(steps) + 2) * len(lines[-1]) + 5 * len(steps)
    assert [event["step"] for event in read_tail(path, len(lines[-1]) + 5)] == [5000]
    assert read_tail(tmp_path / "absent") == []


def test_errors_in_one_line_and_as_they_are(tmp_path: Path) -> None:
    make_run(tmp_path, "bad", seed=3, state="failed", error="DataError: [bold]image 7[/bold] is empty\nmore")
    make_run(tmp_path, "done", state="finished")
    (make_run(tmp_path, "odd", state="running") / "status.json").write_text("{")
    text = shown(tmp_path)
    assert "failed: bad seed 3: DataError: [bold]image 7[/bold] is empty\n" in text
    assert "finished: done seed 0: results.json is missing" in text
    assert "status.json is not valid JSON" in text
    assert "3 runs: 1 finished, 1 failed, 1 unreadable" in text


def test_foreign_half_created_and_newer_folders_take_one_line(tmp_path: Path) -> None:
    make_run(tmp_path, state="finished")
    write_json(tmp_path / "base" / "half-created" / "config.json", {})
    write_json(tmp_path / "notes" / "draft" / "meta.json", [])
    (tmp_path / ".sweeps" / "now").mkdir(parents=True)
    (tmp_path / "file.txt").touch()
    make_run(tmp_path, "tomorrow", meta={"schema_version": 2})
    text = shown(tmp_path)
    assert f"no runs: {tmp_path}/base/half-created, {tmp_path}/notes/draft\n" in text
    assert f"of a newer schema, update this program: {tmp_path}/tomorrow/" in text
    assert "1 run: 1 finished" in text
    assert ".sweeps" not in text


@pytest.mark.parametrize("victim", ["status.json", "results.json", ""])
def test_a_run_that_vanishes_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, victim: str) -> None:
    path = make_run(tmp_path, state="finished")
    make_run(tmp_path, "other", state="finished")
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
    first, second = make_run(tmp_path, "a"), make_run(tmp_path, "b")
    for roots in ([tmp_path], [first, second], [tmp_path / "a", tmp_path / "b"], [tmp_path, first, tmp_path / "b"]):
        sweep = read_overview(roots, NOW)
        assert ([str(run.path) for run in sweep.runs], sweep.foreign) == ([str(first), str(second)], [])


def test_states_choose_rows_and_a_screen_keeps_the_running_ones(tmp_path: Path) -> None:
    for seed, state in enumerate(["finished", "failed", "running", "finished", "running"]):
        write_json(make_run(tmp_path, seed=seed, state=state) / "results.json", {})
    table = shown(tmp_path, states={"failed", "running"})
    assert (table.count("running "), table.count("finished ")) == (2, 0)
    assert "5 runs: 2 finished, 2 running, 1 failed" in table
    table = shown(tmp_path, rows=3)
    assert (table.count("running "), table.count("failed "), table.count("finished ")) == (2, 1, 0)
    assert "and 2 more runs" in table


def test_a_narrow_screen_cuts_names_and_no_numbers(tmp_path: Path) -> None:
    long = "head_attention_without_self_attention"
    path = make_run(
        tmp_path, long, state="running", step=2400, num_steps=3600, meta={"device": "NVIDIA H100 80GB HBM3"}
    )
    (path / "metrics.jsonl").write_text(
        train(2399, NOW - 4) + train(2400, NOW - 3, 51.25) + evaluation(2400, NOW, 0.428)
    )
    header, row, *_ = shown(tmp_path, width=80).splitlines()
    assert header.split()[1:-1] == ["seed", "recipe", "state", "epoch", "step", "AP", "img/s", "ETA", "age"]
    for text in ("0 mini", "running", "96.0", "2400/3600  67%", "42.8", "51.2", "0:20:00", " 0s "):
        assert text in row
    assert len(row) <= 80
    assert f"{long} " in shown(tmp_path, width=200)


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0s"), (59.9, "59s"), (60, "1m"), (7200, "2h"), (200000, "2d")])
def test_ages(seconds: float, text: str) -> None:
    assert status._age(seconds) == text


def test_the_summary_takes_the_longest_eta_and_says_what_it_does_not_know(tmp_path: Path) -> None:
    runs = []
    for seed, seconds in enumerate([1, 40, None]):
        path = make_run(tmp_path, seed=seed, state="running", step=50, num_steps=100)
        if seconds is not None:
            (path / "metrics.jsonl").write_text(train(49, NOW - seconds) + train(50, NOW))
        runs.append(read(path))
    assert summary(runs) == "3 runs: 3 running; the running ones end in 0:33:20 (1 without an ETA)"


def test_the_json_output(tmp_path: Path) -> None:
    path = make_run(tmp_path, state="failed", error="E: no")
    make_run(tmp_path, "other", state="finished")
    (path / "metrics.jsonl").write_text(train(49, NOW - 8) + evaluation(49, NOW, 0.5))
    done = command("--json", "--state", "failed", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    value = json.loads(done.stdout)
    (run,) = value["runs"]
    assert value["counts"] == {"failed": 1, "finished": 1}
    age = run.pop("age")
    assert age == 0.0 or age == pytest.approx(time.time() - NOW, abs=30)
    assert run == {
        "path": str(path), "run_id": "0123456789ab-seed0", "experiment": "base", "seed": 0, "recipe": "mini",
        "experiments": ["base"],
        "state": "failed", "step": 50, "num_steps": 100, "epoch": 2.0, "ap": 0.5, "images_per_second": 8.0,
        "eta": None, "host": HERE, "device": "cpu", "error": "E: no",
    }  # fmt: skip


def test_command_line_mistakes_are_one_line(tmp_path: Path) -> None:
    absent = command(cwd=tmp_path)
    assert (absent.returncode, absent.stdout) == (1, "")
    assert absent.stderr == "error: runs does not exist; give the runs_root of a training, by default runs/\n"
    wrong = command(tmp_path, "--state", "runing")
    assert (wrong.returncode, wrong.stderr.count("\n")) == (1, 1)
    assert "there is no state 'runing' (states: finished, running," in wrong.stderr
    (tmp_path / "runs").mkdir()
    empty = command(cwd=tmp_path)
    assert (empty.returncode, empty.stdout, empty.stderr) == (0, "no runs yet in runs\n", "")
    assert command(tmp_path, "--watch", "0").returncode == 2


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_watch_refreshes_until_ctrl_c(tmp_path: Path) -> None:
    path = make_run(tmp_path, state="interrupted")
    main, terminal = pty.openpty()
    os.set_blocking(main, False)
    output = bytearray()

    def says(text: bytes) -> bool:
        with contextlib.suppress(OSError):  # nothing new
            output.extend(os.read(main, 1 << 16))
        return text in output

    line = [sys.executable, "-m", "experiments.status", "--watch", "0.1", str(tmp_path)]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "150", "LINES": "30"}
    with subprocess.Popen(line, stdout=terminal, stderr=terminal, cwd=ROOT, env=environment) as process:
        try:
            wait_for(lambda: says(b"1 interrupted"))
            status_file = path / "status.json"
            status_file.write_text(status_file.read_text().replace("interrupted", "failed"))
            wait_for(lambda: says(b"1 failed"))
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == 0
        finally:
            process.kill()
            os.close(terminal)
    says(b"")
    os.close(main)
    assert b"Traceback" not in output


def test_the_command_imports_no_torch() -> None:
    code = "import sys, experiments.status; print({m.split('.')[0] for m in sys.modules} & set(sys.argv[1:]))"
    names = ["torch", "numpy", "pycocotools", "scipy", "PIL"]
    done = subprocess.run([sys.executable, "-c", code, *names], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "set()"
