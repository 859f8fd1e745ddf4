"""One command, one JSON event, once."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from experiments.tracking.alerts import Alerts, send_sweep_finished


def appending(path: Path) -> str:
    return f"cat >> {shlex.quote(str(path))}; echo >> {shlex.quote(str(path))}"


def events(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_each_event_is_sent_once_whoever_sends_it(tmp_path: Path) -> None:
    sent, folder = tmp_path / "sent", tmp_path / "run" / "alerts"
    for _ in range(2):  # a requeue is another process with the same folder
        alerts = Alerts(appending(sent), folder, 10, {"run": "r", "seed": 3})
        alerts.send("failed", "disk full", step=7)
        alerts.send("failed", "disk full", step=9)
        alerts.send("failed", "lost a peer", step=9)
        alerts.send("finished", ap=0.5)
    found = events(sent)
    assert [(e["event"], e["message"]) for e in found] == [
        ("failed", "disk full"),
        ("failed", "lost a peer"),
        ("finished", ""),
    ]
    assert (found[0]["run"], found[0]["seed"], found[0]["step"], found[2]["ap"]) == ("r", 3, 7, 0.5)
    assert found[0].keys() >= {"time", "host"}


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("echo no route to host >&2; exit 7", "exit code 7: no route to host; the event was 'failed'"),
        ("sleep 60", "not done after 0.2 seconds, and ended; the event was 'failed'"),
        ("no-such-command-at-all", "exit code 127: "),
        ("exec 0<&-; exit 3", "exit code 3"),  # it reads nothing
    ],
)
def test_a_command_that_fails_is_one_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], command: str, message: str
) -> None:
    Alerts(command, tmp_path, 0.2 if "sleep" in command else 10, {}).send("failed", "x" * 100_000)
    err = capfd.readouterr().err
    assert err.startswith("warning: alerts.command: ")
    assert message in err
    assert len(err.splitlines()) == 1


def test_without_a_command_nothing_is_written(tmp_path: Path) -> None:
    Alerts(None, tmp_path / "alerts", 10, {}).send("finished")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_costs_no_alert(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    Alerts(appending(tmp_path / "sent"), tmp_path / "file" / "alerts", 10, {}).send("finished")
    assert [e["event"] for e in events(tmp_path / "sent")] == ["finished"]
    assert "cannot be written" in capfd.readouterr().err


def test_the_event_of_a_sweep_counts_its_runs(tmp_path: Path) -> None:
    config = {"runs_root": str(tmp_path / "runs"), "alerts": {"command": appending(tmp_path / "sent"), "timeout": 10}}
    send_sweep_finished(config, tmp_path / "sweep", ["finished", "failed", "finished", "skipped"])
    (event,) = events(tmp_path / "sent")
    assert event["event"] == "sweep finished"
    assert event["message"] == "2 finished, 1 failed, 1 skipped"
    assert event["states"] == {"finished": 2, "failed": 1, "skipped": 1}
    assert event["runs_root"] == str(tmp_path / "runs")
