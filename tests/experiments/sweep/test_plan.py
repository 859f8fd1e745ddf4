"""Which runs a sweep stands for, which are left to train, and how it went."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from experiments.sweep.plan import PlannedRun, SweepError, check, pending, plan, print_rows, record, record_stop
from sparse_rcnn.errors import UserError
from sparse_rcnn.rundir.lock import lock_run
from tests.support import training


def test_equal_rows_are_one_run_under_all_their_names(tmp_path: Path) -> None:
    base = [o for o in training.overrides(tmp_path) if not o.startswith(("num_stages=", "num_proposals="))]
    jobs = [[*base, f"experiment={name}", "num_stages=3"] for name in ("baseline", "stages_3", "head_attention")]
    rows = plan(jobs, training.composed)
    assert [row.names for row in rows] == [["baseline", "stages_3"], ["head_attention"]]
    assert [row.state for row in rows] == ["missing"] * 2
    assert not tmp_path.joinpath("baseline").exists()


def test_seeds_and_roots_are_runs_of_their_own(tmp_path: Path) -> None:
    jobs = [[*training.overrides(tmp_path / root), f"seed={seed}"] for root in ("a", "b") for seed in (0, 1)]
    assert len(plan(jobs, training.composed)) == 4


def test_a_sweep_of_nothing_is_refused() -> None:
    with pytest.raises(UserError, match="the sweep selects nothing"):
        plan([], training.composed)


def test_a_wrong_configuration_names_its_job(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"num_stages must be at least 1, got 0 \(in the job .*num_stages=0"):
        plan([[*training.overrides(tmp_path), "num_stages=0"]], training.composed)


def test_a_run_that_another_process_trains_is_left_to_it(tmp_path: Path) -> None:
    (row,) = plan([training.overrides(tmp_path)], training.composed)
    run = tmp_path / "baseline" / f"{row.identity}-seed0"
    run.mkdir(parents=True)
    (run / "meta.json").write_text(
        json.dumps({"schema_version": 1, "run_id": run.name, "identity": row.identity, "seed": 0})
    )
    with lock_run(run):
        assert pending([row]) == []
    assert row.state == "busy"
    with pytest.raises(SweepError, match="of 1 runs 1 busy"):
        check([row])


def test_what_a_job_said_counts_only_where_the_run_is_not_finished(tmp_path: Path) -> None:
    (row,) = plan([training.overrides(tmp_path)], training.composed)
    record(row, RuntimeError("first line\nsecond"), tmp_path / "log")
    assert (row.state, row.error, row.log) == ("failed", "first line", tmp_path / "log")
    record(row, None, None)
    assert row.state == "missing"
    training.train(training.overrides(tmp_path))
    record(row, RuntimeError("the connection was lost"), None)
    assert row.state == "finished"
    check([row])


def test_what_a_signal_stopped_is_not_called_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    training.train(training.overrides(tmp_path, "seed=1"))
    jobs = [training.overrides(tmp_path, f"seed={seed}") for seed in range(4)]
    rows = plan(jobs, training.composed)
    begun = tmp_path / "baseline" / f"{rows[2].identity}-seed2"
    begun.mkdir()
    meta = {
        "schema_version": 1,
        "run_id": begun.name,
        "identity": rows[2].identity,
        "seed": 2,
        "experiment": "baseline",
    }
    (begun / "meta.json").write_text(json.dumps(meta))
    record_stop(pending(rows), going_on={tuple(rows[3].overrides)})
    assert [row.state for row in rows] == ["stopped", "skipped", "stopped", "going on"]
    print_rows(rows)
    out = capsys.readouterr().out
    assert "missing" not in out
    assert out.count("the sweep was stopped before this run began; start it again to train it") == 1
    assert out.count(f"stopped before its end; start the sweep again to go on: {begun}") == 1
    assert out.count("its job goes on without the sweep; start the sweep again to wait for it") == 1


def test_an_old_failure_is_not_told_as_todays(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="NaN or infinity"):
        training.train(training.overrides(tmp_path, "optim.lr=1e30"))
    (row,) = plan([training.overrides(tmp_path, "optim.lr=1e30")], training.composed)
    assert pending([row]) == [row]
    record(row, RuntimeError("[pair.cc:534] killed by SIGKILL"), tmp_path / "today.log")
    assert (row.state, row.error, row.log) == ("failed", "[pair.cc:534] killed by SIGKILL", tmp_path / "today.log")
    print_rows([row])  # brackets are no markup
    assert row.path is not None
    (row.path / "status.json").write_text("{")
    record(row, None, None)
    assert (row.state, "status.json" in row.error) == ("failed", True)


def test_only_failures_and_missing_runs_end_a_sweep_badly() -> None:
    rows = [PlannedRun([], [{"experiment_name": "a"}], "x", 0, state) for state in ("finished", "skipped")]
    check(rows)
    rows += [PlannedRun([], [{"experiment_name": "b"}], "y", 0, state) for state in ("failed", "missing", "failed")]
    with pytest.raises(SweepError, match="of 5 runs 2 failed, 1 missing"):
        check(rows)


def table_of(tmp_path: Path, jobs: list[list[str]], capsys: pytest.CaptureFixture[str]) -> list[list[str]]:
    """The cells of the table of a sweep of which nothing is trained yet, without the last three columns."""
    base = [o for o in training.overrides(tmp_path) if not o.startswith(("num_stages=", "model.backbone.bottom_up.w"))]
    print_rows(plan([[*base, *job] for job in jobs], training.composed))
    lines = [line for line in capsys.readouterr().out.splitlines() if "missing" in line]
    return [[cell.strip() for cell in line.strip("│").split("│")][:-3] for line in lines]


def test_the_table_shows_what_tells_runs_of_one_name_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    widths = "model.backbone.bottom_up.widths"
    jobs = [[f"{widths}={value}", f"num_stages={n}"] for value in ("[16,16,32,32]", "[16,16,32,64]") for n in (1, 2)]
    assert table_of(tmp_path, jobs, capsys) == [["baseline", "0", " ".join(job), "missing"] for job in jobs]


def test_the_table_shows_names_and_seeds_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    jobs = [[f"experiment={name}", f"seed={seed}"] for name in ("baseline", "head_attention") for seed in (0, 1)]
    rows = table_of(tmp_path, jobs, capsys)
    assert rows == [[job[0].split("=")[1], job[1].split("=")[1], "missing"] for job in jobs]
