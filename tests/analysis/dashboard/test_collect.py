"""The dashboard's rows together: labels, and runs that have gone silent."""

from __future__ import annotations

from pathlib import Path

from analysis.dashboard.collect import collect
from analysis.dashboard.record import read_record
from tests.support.dashboard_rows import NOW
from tests.support.runs import START, make_logged_run


def test_a_running_run_is_silent_after_ten_minutes(tmp_path: Path) -> None:
    record = read_record(make_logged_run(tmp_path, state="running"), tmp_path)
    last_event = START + 150.5  # half-way; the status is older
    fresh, old = (collect([record], "runs", last_event + seconds)["runs"][0] for seconds in (599, 601))
    assert (fresh["state"], fresh["problems"]) == ("running", [])
    assert old["state"] == "silent"
    assert old["problems"] == ["silent: no sign of life since 2026-01-01T00:02:30+00:00"]


def test_labels_say_as_much_as_it_takes(tmp_path: Path) -> None:
    paths = [
        make_logged_run(tmp_path, "a"),
        make_logged_run(tmp_path, "a", 1),
        make_logged_run(tmp_path, "b", identity="b" * 12),
        make_logged_run(tmp_path, "b", identity="c" * 12, recipe="paper"),
        make_logged_run(tmp_path, "c", folder="x"),
        make_logged_run(tmp_path, "c", folder="y"),
    ]
    rows = collect([read_record(path, tmp_path) for path in paths], "", NOW)["runs"]
    labels = [row["label"] for row in rows]
    assert labels[:4] == ["a s0", "a s1", "b s0 mini", "b s0 paper"]
    assert labels[4].endswith("x/0123456789ab-seed0")
    assert len(set(labels)) == len(labels)
