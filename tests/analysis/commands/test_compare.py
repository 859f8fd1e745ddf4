"""python -m analysis compare: rows and seeds, what is found, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from analysis.statistics.coco_columns import load_detections, load_ground_truth
from analysis.statistics.comparison import compare, group_rows, measure
from sparse_rcnn.errors import UserError
from sparse_rcnn.rundir.reader import Run
from tests.support.coco_numbers import random_coco
from tests.support.commands import run_command
from tests.support.runs import edit_meta, make_evaluated_run, make_run

Suite = dict[str, Path]


@pytest.fixture
def suite(tmp_path: Path) -> Suite:
    """Two seeds of a good row and of a bad one, and one run of a third that is as the first."""
    coco, found = random_coco(0)
    rng = np.random.default_rng(0)
    fewer = [[record for record in found if rng.random() < 0.4] for _ in range(2)]
    most = [record for record in found if rng.random() < 0.95]
    root = tmp_path / "runs"
    return {
        "good0": make_evaluated_run(root, "good", coco, found),
        "good1": make_evaluated_run(root, "good", coco, most, seed=1),
        "bad0": make_evaluated_run(root, "bad", coco, fewer[0]),
        "bad1": make_evaluated_run(root, "bad", coco, fewer[1], seed=1),
        "same": make_evaluated_run(root, "same", coco, found),
    }


def ap(path: Path) -> float:
    results = Run(path).results
    assert results is not None
    return 100 * results["val/bbox/AP"]


def test_seeds_of_a_configuration_are_one_row(suite: Suite) -> None:
    rows = group_rows([Run(suite[name]) for name in ("good1", "bad0", "good0", "bad1")])
    assert [(row.name, [run.path for run in row.runs]) for row in rows] == [
        ("good", [suite["good0"], suite["good1"]]),
        ("bad", [suite["bad0"], suite["bad1"]]),
    ]
    alone = group_rows([Run(suite["good0"]), Run(suite["good1"])])
    assert [row.name for row in alone] == [suite["good0"].name, suite["good1"].name]
    assert len(group_rows([Run(suite["good0"])] * 2)) == 1


def test_what_is_measured_is_what_the_run_says(suite: Suite) -> None:
    rows = group_rows([Run(suite[name]) for name in ("good0", "bad0", "bad1", "same")])
    measured = measure(rows, None, 50, 0)
    expected = [ap(suite["good0"]), (ap(suite["bad0"]) + ap(suite["bad1"])) / 2, ap(suite["same"])]
    assert 100 * measured.estimates[:, 0] == pytest.approx(expected, abs=1e-10)
    assert 100 * np.array(measured.seeds[1]) == pytest.approx([ap(suite["bad0"]), ap(suite["bad1"])], abs=1e-10)
    bad, same = compare(measured, 0, [1, 2])
    assert bad.metrics[0].estimate == pytest.approx(expected[1] - expected[0])
    assert bad.metrics[0].high < 0
    assert bad.metrics[0].p_value == pytest.approx(2 / 51)
    assert bad.adjusted == pytest.approx(4 / 51)
    assert (same.metrics[0].estimate, same.metrics[0].low, same.metrics[0].high) == (0, 0, 0)
    assert same.metrics[0].p_value == same.adjusted == 1
    assert bad.seeds is None, "one seed of the other"
    both = measure(group_rows([Run(suite[name]) for name in sorted(suite)]), None, 5, 0)
    names = list(both.names)
    (welch,) = compare(both, names.index("good"), [names.index("bad")])
    assert welch.seeds is not None
    assert welch.seeds.difference == pytest.approx(
        100 * np.diff([np.mean(both.seeds[names.index(n)]) for n in ("good", "bad")])[0]
    )


def test_the_order_of_runs_changes_nothing(suite: Suite) -> None:
    runs = [Run(path) for path in suite.values()]
    a, b = (measure(group_rows(order), None, 10, 0) for order in (runs, runs[::-1]))
    for name in a.names:
        np.testing.assert_array_equal(a.draws[:, a.names.index(name)], b.draws[:, b.names.index(name)])


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


def test_the_annotations_are_found_above_the_run_or_given(suite: Suite, tmp_path: Path) -> None:
    run = Run(suite["good0"])
    truth = load_ground_truth(run)
    assert len(truth.image_ids) == 30
    assert len(load_detections(run, truth)) > 30
    moved = (tmp_path / "val.json").rename(tmp_path / "elsewhere.json")
    with pytest.raises(UserError, match=r"the validation annotations of .*, val.json, are not found: .*--annotations"):
        load_ground_truth(run)
    assert load_ground_truth(run, moved).image_ids.tolist() == truth.image_ids.tolist()
    moved.write_text(json.dumps(json.loads(moved.read_text()) | {"info": {}}))
    with pytest.raises(
        UserError, match=r"elsewhere.json is not what .* was evaluated on \(its fingerprint is another\)"
    ):
        load_ground_truth(run, moved)
