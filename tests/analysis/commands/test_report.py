"""python -m analysis report: the page of a suite."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from analysis.tables.formats import DASH
from tests.support.coco_numbers import random_coco
from tests.support.commands import run_command
from tests.support.runs import edit_meta, make_evaluated_run, make_run


def make_suite(root: Path) -> None:
    coco, found = random_coco(0)
    rng = np.random.default_rng(1)
    for experiment, share in (("baseline", 1.0), ("head_attention", 0.5), ("stages_6", 0.8)):
        for seed in range(2):
            kept = [record for record in found if rng.random() < share - 0.05 * seed]
            make_evaluated_run(root, experiment, coco, kept, seed, stages=[found, kept], evaluations={10.0: 0.4})


def test_the_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_suite(tmp_path / "runs")
    out = tmp_path / "results"
    out.mkdir()
    (out / "comments.md").write_text("Not taken.\n\n## table8\nAs the paper says.\n\nTwice.\n## order\nSo so.\n")
    arguments = ["--runs", str(tmp_path / "runs"), "--recipe", "mini", "--out", str(out), "--resamples", "20"]
    assert run_command("report", arguments) == 0
    assert capsys.readouterr().out == f"{out / 'README.md'}\n"
    page = (out / "README.md").read_text()
    numbers = re.search(r"^Numbers `([0-9a-f]{12})`\.$", page, re.MULTILINE)
    assert numbers is not None
    assert f"| stages_12 | 41.6 | {DASH} | python -m experiments.train experiment=stages_12 recipe=paper |" in page
    assert "3 of the 32 rows have finished runs, 6 runs in all; missing: " in page
    headings = re.findall(r"^## (.*)$", page, re.MULTILINE)
    assert [heading.split(":")[0] for heading in headings[3:12]] == [f"Table {number}" for number in range(1, 10)]
    eight = page[page.index("## Table 8:") : page.index("## Table 9:")]
    assert "### Differences to baseline, tested" in eight
    assert re.search(r"\| head_attention \| 2 \| \d+\.\d\d \| -\d+\.\d\d \|", eight)
    assert eight.rstrip().endswith("As the paper says.\n\nTwice.")
    seven = page[page.index("## Table 7:") : page.index("## Table 8:")]
    assert "tested" not in seven, "its baseline row is alone there"
    assert "So so." in page[page.index("## Does") : page.index("## Table 1")]
    assert "Not taken" not in page
    assert "![AP over epochs and over time of work](figure1.png)" in page
    assert "evaluated once, at their end" in page
    nms = page[page.index("## Duplicates before and after NMS") : page.index("## Where the baseline")]
    assert re.search(r"^\| baseline \| detections \| no \|", nms, re.MULTILINE)
    assert "### Duplicates by stage: baseline" in page
    assert {path.name for path in out.iterdir()} == {"README.md", "comments.md", "figure1.png", "figure1.pdf"}
    assert run_command("report", arguments) == 0
    assert (out / "README.md").read_text() == page, "the same runs, the same page"
    with (out / "comments.md").open("r+") as file:
        text = file.read()
        file.seek(0)
        file.write(f"<!-- written for numbers {numbers[1]} -->\n{text}")
    assert run_command("report", arguments) == 0
    assert (out / "README.md").read_text() == page, "the prose fits"
    make_run(tmp_path / "runs", "dropout_0_1", ap=0.123)
    assert run_command("report", arguments) == 0
    page = (out / "README.md").read_text()
    assert f"The prose was written for `{numbers[1]}`: it may not fit these numbers." in page
    assert "| dropout_0_1 | 1 | 12.3 | trained or evaluated on other data |" in page


def test_one_row_that_cannot_be_tested_leaves_the_others(tmp_path: Path) -> None:
    make_suite(tmp_path / "runs")
    make_run(tmp_path / "runs", "stages_1", ap=0.2)
    for meta in (tmp_path / "runs" / "stages_1").glob("*/meta.json"):
        data = json.loads(next((tmp_path / "runs" / "baseline").glob("*/meta.json")).read_text())["data"]
        edit_meta(meta.parent, data=data)
    make_run(tmp_path / "runs", "stages_12", ap=0.2, val="ef" * 32)
    arguments = ["--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "out"), "--resamples", "20"]
    assert run_command("report", arguments) == 0
    page = (tmp_path / "out" / "README.md").read_text()
    assert "stages_12 (trained or evaluated on other data), stages_1 (a run has no detections.json)." in page
    assert "### Differences to baseline, tested" in page


def test_the_report_of_runs_without_detections(tmp_path: Path) -> None:
    make_run(tmp_path / "runs", "baseline", ap=0.5)
    make_run(tmp_path / "runs", "head_attention", ap=0.4)
    arguments = ["--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "out")]
    assert run_command("report", arguments) == 0
    page = (tmp_path / "out" / "README.md").read_text()
    assert "No tests of differences: fewer than two rows have finished runs to test." in page
    assert "head_attention (a run has no detections.json)" in page
    assert "No breakdown: the validation annotations of" in page
    assert "No figure: none of the rows of table 1" in page
    assert "| head_attention | 1 | 40.0 (-10.0) |" in page
