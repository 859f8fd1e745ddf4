"""python -m analysis compare: its table, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from analysis.statistics.comparison import group_rows
from sparse_rcnn.errors import UserError
from sparse_rcnn.rundir.reader import Run
from tests.support.commands import run_command
from tests.support.compared_runs import Suite, ap, make_compared_runs
from tests.support.runs import edit_meta, make_run


@pytest.fixture
def suite(tmp_path: Path) -> Suite:
    return make_compared_runs(tmp_path)


def test_the_command(suite: Suite, capsys: pytest.CaptureFixture[str]) -> None:
    root = suite["bad0"].parent.parent
    paths = [str(root / "bad"), str(suite["good0"]), str(suite["same"])]
    arguments = ["--resamples", "40", "--format", "csv"]
    assert run_command("compare", [*paths, *arguments]) == 0
    lines = [line.split(",") for line in capsys.readouterr().out.splitlines()]
    assert [line[1:4] for line in lines[1:]] == [
        ["bad", "2", f"{(ap(suite['bad0']) + ap(suite['bad1'])) / 2:.2f}"],
        ["good", "1", f"{ap(suite['good0']):.2f}"],
        ["same", "1", f"{ap(suite['same']):.2f}"],
    ]
    assert "p Holm" in lines[0]
    assert run_command("compare", ["bad", "--baseline", "good", "--runs", str(root)]) == 0
    out = capsys.readouterr().out
    assert out.startswith("Against good\n")
    assert "p Welch" in out.splitlines()[2]
    assert "1000 resamples of the 30 validation images" in " ".join(out.split())


def error(arguments: list[object], capsys: pytest.CaptureFixture[str]) -> str:
    assert run_command("compare", [*map(str, arguments), "--resamples", "2"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    return err.removeprefix("error: ").strip()


def test_what_a_user_gets_wrong(suite: Suite, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, bad = suite["good0"], suite["bad0"]

    def message(*arguments: object) -> str:
        return error(list(arguments), capsys)

    assert "this is one run; name at least two" in message(good)
    assert "neither a folder nor an experiment with a finished run" in message(
        good, "goof", "--runs", tmp_path / "runs"
    )
    assert "needs --runs, and elsewhere is no folder" in message(good, "goof", "--runs", "elsewhere")
    assert "--confidence 2.0: give a number between 0 and 1" in message(good, bad, "--confidence", 2)
    assert "--seed -1" in message(good, bad, "--seed", -1)
    (tmp_path / "empty").mkdir()
    assert "holds no run" in message(good, tmp_path / "empty")
    other = make_run(tmp_path / "others", "other")
    assert message(good, other).endswith("were evaluated on different data: they cannot be compared")
    unfinished = make_run(tmp_path / "others", "unfinished", state="running")
    assert "holds no finished run" in message(good, unfinished)
    with pytest.raises(UserError, match=r"is not finished \(running\): finish it first"):
        group_rows([Run(unfinished)])
    no_data = make_run(tmp_path / "others", "no_data")
    edit_meta(no_data, data=None)
    assert "does not say what the run was evaluated on (data.val.fingerprint)" in message(no_data, good)
    (bad / "detections.json").write_text('[{"image_id": 1')
    assert "detections.json is no COCO results list" in message(good, bad)
    (bad / "detections.json").unlink()
    assert "detections.json cannot be read: No such file or directory; is the run finished?" in message(good, bad)


def test_what_does_not_exist_is_named_whatever_recipes_there_are(
    suite: Suite, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, root = suite["good0"], suite["good0"].parent.parent
    make_run(root, "of_another_recipe", recipe="paper")
    wanted = "give a run directory, a folder of runs, or the name of an experiment under --runs"
    for absent in (root / "absent", tmp_path / "no" / "where"):
        assert error([good, absent, "--runs", root], capsys) == f"{absent} does not exist: {wanted}"
        assert error([absent, good, "--runs", "elsewhere"], capsys) == f"{absent} does not exist: {wanted}"
    assert error([good, good / "meta.json", "--runs", root], capsys) == f"{good / 'meta.json'} is a file: {wanted}"
    neither = f"goof is neither a folder nor an experiment with a finished run under {root}"
    assert error([good, "goof", "--runs", root], capsys) == neither
    assert "the runs are of several recipes, mini, paper" in error([good, "bad", "--runs", root], capsys)
