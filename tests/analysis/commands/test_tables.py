"""python -m analysis tables: its formats, and what is refused."""

from __future__ import annotations

import csv
import io
import random
import statistics
from pathlib import Path

import pytest

from tests.support.commands import run_command
from tests.support.runs import make_run


def command(arguments: list[str]) -> int:
    return run_command("tables", arguments)


@pytest.mark.parametrize("style", ["text", "markdown", "latex", "csv", "html"])
def test_the_same_runs_give_the_same_bytes_wherever_they_lie(tmp_path: Path, style: str) -> None:
    rows = [("baseline", s, 0.5 + s / 50) for s in range(3)] + [("stages_1", 0, 0.2), ("stages_12", 1, 0.6)]
    outputs = []
    for order, place in enumerate(("first", "second/place")):
        random.Random(order).shuffle(rows)
        for name, seed, ap in rows:
            path = make_run(tmp_path / place / "runs", name, seed, ap)
            if name == "stages_12":
                (path / "results.json").write_text("damaged")
        out = tmp_path / place / "tables"
        assert command(["--runs", str(tmp_path / place / "runs"), "--format", style, "--out", str(out)]) == 0
        outputs.append(out.read_bytes())
    assert outputs[0] == outputs[1]
    assert b"52.0" in outputs[0]


def test_csv_has_one_value_a_column(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for seed, ap in enumerate((0.5, 0.6)):
        make_run(tmp_path, "baseline", seed, ap)
    make_run(tmp_path, "head_attention", ap=0.3)
    assert command(["--runs", str(tmp_path), "--table", "8", "7", "--format", "csv"]) == 0
    records = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert {(record["table"], record["recipe"]) for record in records} == {("7", "mini"), ("8", "mini")}
    own = {(r["experiment"], r["metric"]): r for r in records if r["table"] == "8"}
    assert float(own["baseline", "AP"]["std"]) == pytest.approx(statistics.stdev((50, 60)))
    attention = own["head_attention", "AP"]
    assert [float(attention[key]) for key in ("mean", "n", "difference", "published")] == pytest.approx(
        [30, 1, -25, 35.7]
    )
    assert float(attention["published_difference"]) == pytest.approx(-6.6)
    assert (attention["std"], attention["command"]) == ("", "")


def test_latex_pastes(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for seed, ap in enumerate((0.5, 0.6)):
        make_run(tmp_path, "baseline", seed, ap)
    assert command(["--runs", str(tmp_path), "--table", "8", "--format", "latex"]) == 0
    out = capsys.readouterr().out
    assert r"head\_attention\textsuperscript{a} & -- & -- & -- & -- \\" in out
    assert r"baseline & 2 & 55.0 $\pm$ 7.1 & --" in out
    assert r"35.7 ($-$6.6)" in out
    assert out.count(r"\toprule") == out.count(r"\bottomrule") == 1
    assert "_" not in out.replace(r"\_", "")


def test_what_a_user_gets_wrong(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert command(["--runs", str(tmp_path / "absent")]) == 2
    assert "absent does not exist" in capsys.readouterr().err
    make_run(tmp_path / "runs")
    (tmp_path / "file").touch()
    assert command(["--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "file" / "x")]) == 2
    assert capsys.readouterr().err.startswith(f"error: cannot write {tmp_path / 'file' / 'x'}: ")
    with pytest.raises(SystemExit):
        command(["--runs", str(tmp_path), "--table", "10"])
