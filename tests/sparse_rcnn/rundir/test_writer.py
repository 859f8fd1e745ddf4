"""The run directory: created once, found again, locked, written atomically, refused where it is not ours."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import sparse_rcnn.rundir.find
import sparse_rcnn.rundir.reader
from sparse_rcnn.errors import UserError
from sparse_rcnn.rundir import layout
from sparse_rcnn.rundir.identity import run_identity
from sparse_rcnn.rundir.json_files import write_json_atomic
from sparse_rcnn.rundir.summary import summarise
from sparse_rcnn.rundir.writer import RunDescription, RunDirectory
from tests.support.paths import ROOT, names

CONFIG: dict[str, Any] = {"seed": 3, "experiment": "base", "model": {"num_stages": 3}, "train": {"lr": 0.1}}
META = {"recipe": "mini", "device": "cpu", "world_size": 1, "data": {"train": "abc"}}


def open_run(root: Path, experiment: str = "base", config: dict | None = None, **changes: Any) -> RunDirectory:
    config = config or CONFIG
    identity = changes.pop("identity", None) or run_identity(config, META["data"])
    overrides = ["train.lr=0.1", "x=[1, 2]"]
    return RunDirectory.open(root, RunDescription(experiment, identity, 3, config, overrides, {experiment: []}, META))


def test_a_new_run_has_its_config_overrides_and_provenance(tmp_path: Path) -> None:
    run = open_run(tmp_path / "deep" / "runs")
    identity = run_identity(CONFIG, META["data"])
    assert run.created
    assert run.path == tmp_path / "deep" / "runs" / "base" / f"{identity}-seed3"
    assert names(run.path) == ["config.json", "experiments.json", "meta.json", "overrides.txt"]
    assert json.loads((run.path / "config.json").read_text()) == CONFIG
    assert (run.path / "overrides.txt").read_text() == "train.lr=0.1\nx=[1, 2]\n"
    meta = json.loads((run.path / "meta.json").read_text())
    assert {key: meta[key] for key in META} == META
    assert (meta["schema_version"], meta["identity"], meta["seed"]) == (1, identity, 3)
    assert (meta["run_id"], meta["experiment"]) == (f"{identity}-seed3", "base")
    assert meta["versions"]["python"] == sys.version.split()[0]
    assert meta["versions"]["hydra-core"]
    assert set(meta["git"]) == {"sha", "dirty"}
    assert meta["resumes"] == []


def test_the_same_run_is_found_again_under_any_experiment(tmp_path: Path) -> None:
    first = open_run(tmp_path)
    meta = (first.path / "meta.json").read_bytes()
    again = open_run(tmp_path, experiment="other")
    assert (again.path, again.created) == (first.path, False)
    assert (first.path / "meta.json").read_bytes() == meta
    assert not (tmp_path / "other").exists()
    assert RunDirectory.find(tmp_path, first.meta["identity"], 4) is None
    assert RunDirectory.find(tmp_path / "absent", first.meta["identity"], 3) is None


def test_the_reader_and_the_writer_agree(tmp_path: Path) -> None:
    run = open_run(tmp_path)
    run.write_evaluation(40, {"metrics": {"val/bbox/AP": 0.25}})
    run.set_status("running", step=40, num_steps=80, epoch=2)
    [read] = sparse_rcnn.rundir.find.find_runs(tmp_path)
    assert (read.path, read.run_id, read.config) == (run.path, run.meta["run_id"], CONFIG)
    assert read.evaluations == [{"step": 40, "metrics": {"val/bbox/AP": 0.25}}]
    assert read.status["step"] == 40


def test_status_keeps_what_is_not_given_and_a_run_is_finished_only_with_results(tmp_path: Path) -> None:
    run = open_run(tmp_path)
    assert run.status == {"state": "created"}
    run.set_status("running", step=5, num_steps=10, epoch=1)
    before = run.status
    run.set_status("failed", error="train.lr: too high", step=7)
    assert {**before, "state": "failed", "step": 7, "error": "train.lr: too high"}.items() <= {
        **run.status,
        "updated_at": before["updated_at"],
    }.items()
    assert (run.status["pid"], run.status["num_steps"]) == (os.getpid(), 10)
    run.set_status("finished")
    assert run.status["error"] is None
    assert not run.is_finished
    run.write_json("results.json", {"val/bbox/AP": 0.5})
    assert run.is_finished
    run.set_status("running")
    assert not run.is_finished


def test_every_file_and_key_is_documented(tmp_path: Path) -> None:
    run = open_run(tmp_path)
    run.record_resume([], META)
    run.set_status("running")
    documented = (ROOT / "docs" / "run_directory.md").read_text()
    assert f"Schema version {layout.SCHEMA_VERSION}." in documented
    with run.lock():
        written = [*names(run.path), *run.meta, *run.meta["resumes"][0], *run.status, *layout.STATES]
        written += json.loads((run.path / "lock_holder.json").read_text())
    assert [x for x in written if f"`{x}`" not in documented and f"### {x}" not in documented] == []


def test_a_damaged_status_is_replaced(tmp_path: Path) -> None:
    run = open_run(tmp_path)
    (run.path / "status.json").write_text('{"state": "runn')
    run.set_status("running", step=1)
    assert run.status["step"] == 1


def test_a_resume_is_noted_with_its_provenance(tmp_path: Path) -> None:
    open_run(tmp_path).record_resume(["train.device=cuda"], {"device": "cuda", "world_size": 2})
    [resume] = RunDirectory(open_run(tmp_path).path).meta["resumes"]
    assert (resume["overrides"], resume["device"], resume["world_size"]) == (["train.device=cuda"], "cuda", 2)
    assert {"git", "versions", "host", "command", "resumed_at"} <= set(resume)


def test_a_directory_that_holds_another_identity_is_refused_with_the_differing_keys(tmp_path: Path) -> None:
    run = open_run(tmp_path)
    other = {**CONFIG, "model": {"num_stages": 6}, "train": {"lr": 0.2}, "runs_root": "elsewhere"}
    target = run.path.with_name(f"{run_identity(other, META['data'])}-seed3")
    run.path.rename(target)
    before = {name: (target / name).read_bytes() for name in names(target)}
    with pytest.raises(UserError, match=r"holds another run .* model\.num_stages: 3 -> 6, train\.lr: 0\.1 -> 0\.2;"):
        open_run(tmp_path, config=other)
    assert {name: (target / name).read_bytes() for name in names(target)} == before


def test_a_directory_whose_config_was_changed_by_hand_is_refused(tmp_path: Path) -> None:
    run = open_run(tmp_path)
    write_json_atomic(run.path / "config.json", {**CONFIG, "train": {"lr": 0.3}})
    with pytest.raises(UserError, match=r"train\.lr: 0\.3 -> 0\.1"):
        open_run(tmp_path)


def test_changed_data_is_named_where_the_config_is_the_same(tmp_path: Path) -> None:
    run = open_run(tmp_path)
    run.path.rename(run.path.with_name("ffffffffffff-seed3"))
    with pytest.raises(UserError, match="the content of the data or of the weights"):
        open_run(tmp_path, identity="ffffffffffff")


def test_a_foreign_folder_in_the_runs_place_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "base" / f"{run_identity(CONFIG, META['data'])}-seed3"
    path.mkdir(parents=True)
    (path / "holiday.jpg").write_bytes(b"x")
    with pytest.raises(UserError, match=r"is not a run directory: it has no meta\.json, but holiday\.jpg"):
        open_run(tmp_path)
    assert names(path) == ["holiday.jpg"]


def test_a_creation_that_was_cut_short_is_completed(tmp_path: Path) -> None:
    path = tmp_path / "base" / f"{run_identity(CONFIG, META['data'])}-seed3"
    path.mkdir(parents=True)
    (path / "config.json").write_text('{"seed": 1}')
    (path / ".meta.json.99.tmp").write_text('{"sch')
    run = open_run(tmp_path)
    assert (run.path, run.created, run.config) == (path, True, CONFIG)
    with run.lock():
        assert ".meta.json.99.tmp" not in names(path)


def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    run = open_run(tmp_path)
    run.write_json("meta.json", {**run.meta, "schema_version": 99})
    with pytest.raises(UserError, match=r"schema version 99.*update it"):
        open_run(tmp_path)
    run.write_json("meta.json", {"name": "not ours"})
    with pytest.raises(UserError, match="does not describe a run"):
        RunDirectory(run.path)


@pytest.mark.parametrize("experiment", ["", "a/b", "..", ".hidden", "a b"])
def test_an_experiment_that_is_no_folder_name_is_refused(tmp_path: Path, experiment: str) -> None:
    with pytest.raises(UserError, match=f"experiment_name={experiment}: letters"):
        open_run(tmp_path, experiment=experiment)
    assert names(tmp_path) == []


@pytest.mark.parametrize("below", ["", "runs"])
def test_an_unwritable_runs_root_is_named(tmp_path: Path, below: str) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(UserError, match=f"^runs_root={blocked / below}: cannot be written: "):
        open_run(blocked / below)


def test_damaged_checkpoints_stay_in_the_status(tmp_path: Path) -> None:
    run = open_run(tmp_path)
    run.record_set_aside("damaged-step_00000004", "model.safetensors is missing")  # before there is a status
    run.set_status("running", step=2)
    for _ in range(2):  # killed before it was renamed, it is found again
        run.record_set_aside("damaged-step_00000002", "digests.json is missing")
    run.set_status("finished", step=6)
    status = run.status
    assert (status["state"], status["step"]) == ("finished", 6)
    assert [item["checkpoint"] for item in status["set_aside"]] == ["damaged-step_00000004", "damaged-step_00000002"]
    assert summarise(run).set_aside == (
        "damaged-step_00000004: model.safetensors is missing",
        "damaged-step_00000002: digests.json is missing",
    )


def test_a_full_disk_is_one_line_and_leaves_nothing_half_written(tiny_disk: Path) -> None:
    run = open_run(tiny_disk)
    run.write_json("results.json", {"val/bbox/AP": 0.5})
    before = names(run.path)
    with pytest.raises(UserError, match=r"cannot write .*detections\.json: No space left on device"):
        run.write_json("detections.json", ["x" * 1000] * 100)
    with pytest.raises(UserError, match=r"cannot write .*results\.json: No space left on device"):
        run.write_json("results.json", ["x" * 1000] * 100)
    assert names(run.path) == before
    assert json.loads((run.path / "results.json").read_text()) == {"val/bbox/AP": 0.5}


def test_a_read_only_disk_is_named(tiny_disk: Path) -> None:
    run = open_run(tiny_disk)
    subprocess.run(["mount", "-o", "remount,ro", str(tiny_disk)], check=True)
    with pytest.raises(UserError, match=f"^runs_root={tiny_disk}: cannot be written: Read-only file system"):
        open_run(tiny_disk)
    with pytest.raises(UserError, match=r"cannot be locked: Read-only file system"), run.lock():
        pass


def test_a_creation_that_fails_leaves_no_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace = os.replace

    def fail_at_meta(source: Any, target: Any) -> None:
        if Path(target).name == "meta.json":
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", fail_at_meta)
    with pytest.raises(UserError, match=r"cannot write .*meta\.json"):
        open_run(tmp_path)
    assert [name for name in names(tmp_path) if name != ".lock"] == []


CREATOR = """
import json, sys
from sparse_rcnn.rundir.summary import summarise
from sparse_rcnn.rundir.writer import RunDescription, RunDirectory
root, experiment = sys.argv[1:]
sys.stdin.readline()
run = RunDirectory.open(root, RunDescription(experiment, "0123456789ab", 0, {"a": 1}, [], {experiment: []}, {}))
print(run.path, run.created)
"""


def test_processes_that_create_one_run_at_once_get_one_directory(tmp_path: Path) -> None:
    creators = [
        subprocess.Popen(
            [sys.executable, "-c", CREATOR, str(tmp_path), f"experiment{index}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        for index in range(3)
    ]
    for creator in creators:
        assert creator.stdin is not None
        creator.stdin.write("go\n")
        creator.stdin.flush()
    answers = [creator.communicate(timeout=60)[0].split() for creator in creators]
    assert len({path for path, _ in answers}) == 1
    assert sorted(created for _, created in answers) == ["False", "False", "True"]


def test_the_lock_is_released_after_an_error_and_can_be_taken_again(tmp_path: Path) -> None:
    run = open_run(tmp_path)
    with pytest.raises(ZeroDivisionError), run.lock():
        raise ZeroDivisionError
    with run.lock(), pytest.raises(UserError, match=f"in use by process {os.getpid()}"), run.lock():
        pass
