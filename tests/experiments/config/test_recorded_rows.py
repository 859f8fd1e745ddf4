"""Rows by what they are: a run fills every row whose configuration it equals, however it was started."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from analysis.__main__ import main as analysis
from experiments import rows as command
from experiments.config.rows import RowSource, experiments_of
from experiments.config.validation import validate
from sparse_rcnn.rundir.reader import Run
from sparse_rcnn.rundir.writer import RunDirectory
from tests.support import training
from tests.support.runs import make_run, write_json


def config_of(*overrides: str) -> dict[str, Any]:
    return validate(training.composed(overrides))


@pytest.mark.parametrize(
    ("overrides", "rows"),
    [
        ((), ["baseline", "stages_3"]),  # mini has 3 stages
        (("num_stages=1",), ["stages_1"]),
        (("experiment=stages_1",), ["stages_1"]),
        (("experiment=stages_1", "num_stages=3"), ["baseline", "stages_3"]),
        (("head=attention", "seed=4", "eval.every_epochs=1", "log=none"), ["head_attention"]),
        (("dropout=0.1",), ["dropout_0_1"]),
        (("recipe=paper", "data.root=/data/coco"), ["baseline", "stages_6"]),
        (("recipe=paper", "data.root=/data/coco", "num_stages=3"), ["stages_3"]),
    ],
)
def test_a_configuration_is_the_rows_that_it_equals(overrides: tuple[str, ...], rows: list[str]) -> None:
    assert experiments_of(config_of(*overrides)) == {name: [] for name in rows}


def test_one_that_equals_no_row_is_what_it_was_started_as_with_the_changes() -> None:
    changed = ["optim.lr: 0.0005 -> 0.001"]
    assert experiments_of(config_of("optim.lr=1e-3")) == {"baseline": changed, "stages_3": changed}
    found = experiments_of(config_of("experiment=stages_1", "optim.lr=1e-3"))
    assert found == {"stages_1": changed}
    assert experiments_of(config_of("experiment_name=mine", "optim.lr=1e-3")) == {"mine": None}
    assert experiments_of(config_of("experiment_name=mine")) == {"baseline": [], "stages_3": []}


def own_primary(folder: Path) -> RowSource:
    """A primary config ``mine`` with a row of its own."""
    (folder / "experiment").mkdir(parents=True)
    (folder / "mine.yaml").write_text("defaults: [train, _self_]\nhidden_dim: 48\n")
    (folder / "experiment" / "own.yaml").write_text("# @package _global_\nexperiment_name: own\ndropout: 0.2\n")
    return RowSource("mine", (str(folder),))


def test_rows_are_those_of_the_primary_config(tmp_path: Path) -> None:
    source = own_primary(tmp_path / "conf")
    assert experiments_of(config_of("hidden_dim=48"), source) == {"baseline": [], "stages_3": []}
    assert experiments_of(config_of("hidden_dim=48", "dropout=0.2"), source) == {"own": []}
    changed = ["hidden_dim: 48 -> 64", "model.stage.reused_dim: 48 -> 64"]
    assert experiments_of(config_of(), source) == {"baseline": changed, "stages_3": changed}


def test_older_runs_are_compared_with_the_rows_of_their_primary_config(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = own_primary(tmp_path / "conf")
    run = older_run(tmp_path / "runs", "hidden_dim=48", "dropout=0.2", config_name="mine")
    with pytest.raises(SystemExit):
        command.main([str(tmp_path / "runs")])
    assert "primary config mine: give the folder of mine.yaml with --config-dir" in capsys.readouterr().err
    command.main([str(tmp_path / "runs"), f"--config-dir={source.search_path[0]}"])
    assert list(RunDirectory(run).experiments) == ["own"]


def tiny_recipe(folder: Path) -> Path:
    """A configuration folder whose recipe ``tiny`` is a tiny training, so that plain rows of it train in seconds."""
    keys = [*training.GENERATOR, *training.DETECTOR, *training.TRAINING, f"data.root={training.data_root()}"]
    settings = OmegaConf.from_dotlist([key for key in keys if not key.startswith(("log=", "num_stages="))])
    content = OmegaConf.to_yaml(OmegaConf.merge({"recipe_name": "tiny"}, settings))
    (folder / "recipe").mkdir(parents=True)
    (folder / "recipe" / "tiny.yaml").write_text(f"# @package _global_\ndefaults: [mini]\n{content}")
    return folder


def test_a_run_started_under_another_name_fills_its_row_of_table_7(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = ["--config-dir", str(tiny_recipe(tmp_path / "conf"))]
    arguments = [*folder, "recipe=tiny", "num_stages=1", f"runs_root={tmp_path / 'runs'}", "log=none"]
    code, _, err = training.finish(training.start(arguments))
    assert (code, err) == (0, "")
    run = Run(training.only_run(tmp_path / "runs"))
    assert (run.path.parent.name, run.meta["experiment"]) == ("baseline", "baseline")
    assert json.loads((run.path / "experiments.json").read_text()) == {"stages_1": []}
    assert analysis(["tables", "--runs", str(tmp_path / "runs"), "--table", "7"]) == 0
    out = capsys.readouterr().out
    (line,) = [line for line in out.splitlines() if " stages_1 " in line and "python" not in line]
    assert run.results is not None
    assert f"{100 * run.results['val/bbox/AP']:.1f}" in line
    assert "not plain" not in out


def older_run(root: Path, *overrides: str, **meta: Any) -> Path:
    """A run from before rows were recorded."""
    config = config_of(*overrides)
    path = make_run(root, config["experiment_name"], config["seed"], recipe=config["recipe_name"], config=config)
    content = json.loads((path / "meta.json").read_text())
    write_json(path / "meta.json", {**content, **meta})
    assert not (path / "experiments.json").exists()
    return path


def test_one_command_adds_the_rows_to_older_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "runs"
    path = older_run(root, "num_stages=1", deviations=["num_stages: 3 -> 1"])
    other = older_run(root, "experiment=head_attention", deviations=[])
    damaged = make_run(root, "damaged")
    (damaged / "config.json").write_text("{")
    assert Run(path).deviations == {"baseline": ["num_stages: 3 -> 1"]}
    with pytest.raises(SystemExit, match="1"):
        command.main([str(root)])
    assert Run(path).deviations == {"stages_1": []}
    assert Run(other).experiments == ["head_attention"]
    out, err = capsys.readouterr()
    assert f"{path}: baseline -> stages_1" in out
    assert "updated 1 of 3 runs" in out
    assert f"{damaged}/config.json is not valid JSON" in err
    assert err.splitlines()[-1] == "error: 1 of 3 runs could not be compared, see above"


def test_names_that_no_row_has_now_are_kept(tmp_path: Path) -> None:
    path = older_run(tmp_path / "runs", "experiment=stages_1")
    RunDirectory(path).add_experiments({"stages_1": [], "of_another_folder": []})
    command.main([str(tmp_path / "runs")])
    assert Run(path).experiments == ["of_another_folder", "stages_1"]


def test_a_run_that_was_started_as_two_rows_keeps_both_with_todays_changes(tmp_path: Path) -> None:
    path = older_run(tmp_path / "runs", "num_stages=1", "schedule.length=77", deviations=["num_stages: 3 -> 1"])
    write_json(path / "names" / "stages_1", ["of another day"])
    shorter = "schedule.length: 2500 -> 77"
    everything = {"baseline": ["num_stages: 3 -> 1", shorter], "stages_1": [shorter]}
    command.main([str(tmp_path / "runs")])
    assert Run(path).deviations == {**everything, "stages_3": everything["baseline"]}


def test_a_name_without_a_row_keeps_what_is_recorded_of_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither a row of another folder nor a recipe that is not here turns recorded changes into none."""
    changed = {"of_another_folder": ["train.clip_norm: 1 -> 0.5"]}
    mine = older_run(tmp_path / "runs", "experiment_name=of_another_folder", "train.clip_norm=0.5")
    RunDirectory(mine).replace_experiments(lambda known: changed)
    other = older_run(
        tmp_path / "runs", "recipe_name=of_another_folder", "num_stages=1", deviations=["num_stages: 3 -> 1"]
    )
    with pytest.raises(SystemExit, match="1"):
        command.main([str(tmp_path / "runs")])
    assert Run(mine).deviations == changed
    assert Run(other).deviations == {"baseline": ["num_stages: 3 -> 1"]}
    assert "no row composes under its recipe of_another_folder here" in capsys.readouterr().err


def test_rows_of_ones_own_are_compared_where_their_folder_is_given(tmp_path: Path) -> None:
    folder = tmp_path / "mine" / "experiment"
    folder.mkdir(parents=True)
    (folder / "short.yaml").write_text("# @package _global_\nexperiment_name: short\nschedule: {length: 77}\n")
    path = older_run(tmp_path / "runs", "schedule.length=77")
    command.main([str(tmp_path / "runs")])
    assert Run(path).experiments == ["baseline", "stages_3"]
    command.main([str(tmp_path / "runs"), "--config-dir", str(tmp_path / "mine")])
    assert Run(path).deviations == {"short": []}


def test_a_config_of_another_program_is_one_line_and_the_others_are_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = older_run(tmp_path / "runs")
    write_json(odd / "config.json", {**json.loads((odd / "config.json").read_text()), "weights": None})
    path = older_run(tmp_path / "runs", "experiment=stages_1", "num_stages=3")
    with pytest.raises(SystemExit, match="1"):
        command.main([str(tmp_path / "runs")])
    assert f"error: {odd}: its config.json is of another program: " in capsys.readouterr().err
    assert Run(path).experiments == ["baseline", "stages_3"]


def test_rows_that_a_run_equals_stand_alone(tmp_path: Path) -> None:
    directory = RunDirectory(make_run(tmp_path, "baseline"))
    assert directory.add_experiments({"baseline": ["num_stages: 3 -> 1"], "stages_1": []})
    assert directory.deviations == {"stages_1": []}
    assert not directory.add_experiments({"stages_1": []}), "nothing to write"
    assert directory.replace_experiments(lambda known: {"baseline": ["optim.lr: 1 -> 2"]})
    assert directory.add_experiments({"mine": None}), "a name of which nothing is known displaces nothing"
    assert directory.recorded_experiments == {"baseline": ["optim.lr: 1 -> 2"], "mine": None}
