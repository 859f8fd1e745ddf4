"""python -m experiments.status: its table, its summary, its JSON, and the screen that it refreshes."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from experiments.status import render, summary
from sparse_rcnn.rundir.run_progress import read_overview
from tests.support.paths import ROOT
from tests.support.runs import write_json
from tests.support.unfinished_runs import HERE, NOW, at, eval_line, read, run_in_state, train_line


def shown(*roots: Path, states: set[str] | None = None, rows: int | None = None, width: int = 200) -> str:
    console = Console(width=width, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(render(read_overview(roots, NOW), states, [str(root) for root in roots], rows))
    return console.export_text()


def command(*arguments: object, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "experiments.status", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(line, capture_output=True, text=True, cwd=cwd, env=environment, timeout=60)


def test_errors_in_one_line_and_as_they_are(tmp_path: Path) -> None:
    run_in_state(tmp_path, "bad", seed=3, state="failed", error="DataError: [bold]image 7[/bold] is empty\nmore")
    run_in_state(tmp_path, "done", state="finished")
    (run_in_state(tmp_path, "odd", state="running") / "status.json").write_text("{")
    text = shown(tmp_path)
    assert "failed: bad seed 3: DataError: [bold]image 7[/bold] is empty\n" in text
    assert "finished: done seed 0: results.json is missing" in text
    assert "status.json is not valid JSON" in text
    assert "3 runs: 1 finished, 1 failed, 1 unreadable" in text


def test_damaged_checkpoints_are_named(tmp_path: Path) -> None:
    aside = {"checkpoint": "damaged-step_00000040", "problem": "model.safetensors is missing", "at": at(NOW)}
    run_in_state(tmp_path, "good", seed=1, state="running", set_aside=[aside])
    run_in_state(tmp_path, "odd", state="finished", set_aside=[7, {"checkpoint": None}])
    text = shown(tmp_path)
    line = "damaged-step_00000040: model.safetensors is missing"
    assert f"checkpoint set aside: good seed 1: {line}\n" in text
    assert text.count("set aside") == 1
    (run,) = json.loads(command("--json", "--state", "running", tmp_path).stdout)["runs"]
    assert run["set_aside"] == [line]


def test_foreign_half_created_and_newer_folders_take_one_line(tmp_path: Path) -> None:
    run_in_state(tmp_path, state="finished")
    write_json(tmp_path / "base" / "half-created" / "config.json", {})
    write_json(tmp_path / "notes" / "draft" / "meta.json", [])
    (tmp_path / ".sweeps" / "now").mkdir(parents=True)
    (tmp_path / "file.txt").touch()
    run_in_state(tmp_path, "tomorrow", meta={"schema_version": 2})
    text = shown(tmp_path)
    assert f"no runs: {tmp_path}/base/half-created, {tmp_path}/notes/draft\n" in text
    assert f"of a newer schema, update this program: {tmp_path}/tomorrow/" in text
    assert "1 run: 1 finished" in text
    assert ".sweeps" not in text


def test_states_choose_rows_and_a_screen_keeps_the_running_ones(tmp_path: Path) -> None:
    for seed, state in enumerate(["finished", "failed", "running", "finished", "running"]):
        write_json(run_in_state(tmp_path, seed=seed, state=state) / "results.json", {})
    table = shown(tmp_path, states={"failed", "running"})
    assert (table.count("running "), table.count("finished ")) == (2, 0)
    assert "5 runs: 2 finished, 2 running, 1 failed" in table
    table = shown(tmp_path, rows=3)
    assert (table.count("running "), table.count("failed "), table.count("finished ")) == (2, 1, 0)
    assert "and 2 more runs" in table


def test_a_narrow_screen_cuts_names_and_no_numbers(tmp_path: Path) -> None:
    long = "head_attention_without_self_attention"
    path = run_in_state(
        tmp_path, long, state="running", step=2400, num_steps=3600, meta={"device": "NVIDIA H100 80GB HBM3"}
    )
    (path / "metrics.jsonl").write_text(
        train_line(2399, NOW - 4) + train_line(2400, NOW - 3, 51.25) + eval_line(2400, NOW, 0.428)
    )
    header, row, *_ = shown(tmp_path, width=80).splitlines()
    assert header.split()[1:-1] == ["seed", "recipe", "state", "epoch", "step", "AP", "img/s", "ETA", "age"]
    for text in ("0 mini", "running", "96.0", "2400/3600  67%", "42.8", "51.2", "0:20:00", " 0s "):
        assert text in row
    assert len(row) <= 80
    assert f"{long} " in shown(tmp_path, width=200)


def column(name: str, table: str) -> list[str]:
    """The cells of a column behind that of the steps, whose cells have words of their own."""
    header, *rows = table.splitlines()
    words = header.split()
    return [row.split()[words.index(name) - len(words)] for row in rows if len(row.split()) > len(words)]


def test_ages(tmp_path: Path) -> None:
    ages = {0.4: "0s", 59.9: "59s", 60: "1m", 7200: "2h", 200000: "2d"}
    for seed, seconds in enumerate(ages):
        path = run_in_state(tmp_path, seed=seed, state="failed", updated_at=None, meta={"created_at": None})
        (path / "metrics.jsonl").write_text(train_line(49, NOW - seconds - 1) + train_line(50, NOW - seconds))
    table = shown(tmp_path)
    assert sorted(column("age", table)) == sorted(ages.values()), table


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ({}, "created"),
        ({"state": "running"}, "running"),
        ({"state": "running", "updated_at": at(NOW - 3600)}, "dead"),
        ({"state": "running", "updated_at": at(NOW - 601), "host": "other"}, "silent"),
        ({"state": "interrupted"}, "interrupted"),
        ({"state": "failed"}, "failed"),
        ({"state": "finished"}, "finished"),
        ({"state": "to come"}, "to come"),
        ({"state": 3}, "unreadable"),
    ],
)
def test_every_state_is_counted_by_its_name(tmp_path: Path, written: dict[str, Any], expected: str) -> None:
    run_in_state(tmp_path, **written)
    assert f"1 run: 1 {expected}" in shown(tmp_path)


def test_the_eta_and_the_ap_of_the_results_are_shown(tmp_path: Path) -> None:
    path = run_in_state(tmp_path, state="running", step=30, num_steps=100)
    (path / "metrics.jsonl").write_text(train_line(29, NOW - 3) + train_line(30, NOW))
    write_json(path / "results.json", {"val/bbox/AP": 0.428})
    table = shown(tmp_path)
    assert (column("ETA", table), column("AP", table)) == (["0:03:30"], ["42.8"]), table
    assert "the running ones end in 0:03:30" in table


def test_the_summary_takes_the_longest_eta_and_says_what_it_does_not_know(tmp_path: Path) -> None:
    runs = []
    for seed, seconds in enumerate([1, 40, None]):
        path = run_in_state(tmp_path, seed=seed, state="running", step=50, num_steps=100)
        if seconds is not None:
            (path / "metrics.jsonl").write_text(train_line(49, NOW - seconds) + train_line(50, NOW))
        runs.append(read(path))
    assert summary(runs) == "3 runs: 3 running; the running ones end in 0:33:20 (1 without an ETA)"


def test_the_json_output(tmp_path: Path) -> None:
    then = 1e9
    path = run_in_state(tmp_path, meta={"created_at": at(then)}, state="failed", error="E: no", updated_at=at(then))
    run_in_state(tmp_path, "other", state="finished")
    (path / "metrics.jsonl").write_text(train_line(49, then - 8) + eval_line(49, then, 0.5))
    done = command("--json", "--state", "failed", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    value = json.loads(done.stdout)
    (run,) = value["runs"]
    assert value["counts"] == {"failed": 1, "finished": 1}
    assert run.pop("age") > 7e8  # of something in 2001, seen from today
    assert run == {
        "path": str(path), "run_id": "0123456789ab-seed0", "experiment": "base", "seed": 0, "recipe": "mini",
        "experiments": ["base"], "set_aside": [],
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
    path = run_in_state(tmp_path, state="interrupted")
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
