"""The runs of a command and their recipe."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from analysis.summaries import choose_recipe, load_summaries
from sparse_rcnn.errors import UserError
from tests.support.runs import make_run


def test_a_copy_of_a_run_is_no_second_seed(tmp_path: Path) -> None:
    run_path = make_run(tmp_path / "a", "baseline", ap=0.5)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    (tmp_path / "b" / "baseline" / run_path.name / "results.json").unlink()
    summaries = load_summaries([tmp_path / "a", tmp_path / "b"])
    assert [summary.finished for summary in summaries] == [True]


def test_recipes_never_mix_unasked(tmp_path: Path) -> None:
    make_run(tmp_path, "baseline", ap=0.5)
    make_run(tmp_path, "baseline", ap=0.4, recipe="paper")
    summaries = load_summaries([tmp_path])
    with pytest.raises(UserError, match=r"several recipes, mini, paper, .* choose one with --recipe"):
        choose_recipe(summaries, None)
    with pytest.raises(UserError, match=r"no run of recipe big; .*--recipe: mini, overfit, paper"):
        choose_recipe(summaries, "big")
    with pytest.raises(UserError, match=r"there is no run: .*--runs"):
        choose_recipe([], None)
    assert choose_recipe(summaries, "paper") == "paper"


def test_folders_that_are_no_runs_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(tmp_path)
    (tmp_path / "baseline" / "half").mkdir()
    load_summaries([tmp_path])
    assert f"skipped, not a run or damaged: {tmp_path / 'baseline' / 'half'}" in capsys.readouterr().err
