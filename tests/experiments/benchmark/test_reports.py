"""Reports of measured speeds: numbers by hand, reading back, comparison, mistakes."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments.benchmark.compare import compare, holm
from experiments.benchmark.report import COLUMNS, Report, Row
from sparse_rcnn.errors import UserError

MACHINE = {
    "device": "abacus", "kind": "cpu", "num_cores": 2, "num_threads": 1, "torch": "2", "python": "3",
    "gflops_fp32": 100.0, "gflops_bf16": 400.0, "copy_gb_per_second": 10.0,
}  # fmt: skip


def report(*rows: Row) -> Report:
    return Report(dict(MACHINE), list(rows))


def test_cells_by_hand() -> None:
    cells = report(
        Row("model", "float32", "head", [0.010, 0.020, 0.040], gflop=1.0, gigabytes=0.05),
        Row("model", "float32", "total", [0.080], gflop=4.0),
        Row("model", "bfloat16", "head", [0.005], gflop=1.0, dtype="bf16"),
        Row("model", "bfloat16", "total", [0.020]),
    ).cells()
    # 1 GFLOP in 20 ms is 50 GFLOP/s, half of 100; 20 of 80 ms; the median's median distance is 10 ms.
    # 0.05 GB in 20 ms are 2.5 GB/s, a quarter of 10.
    assert cells[0] == ("model", "float32", "head", "20.0", "10.0", "25%", "50", "50%", "2.5", "25%", "1.00 x")
    assert cells[1] == ("model", "float32", "total", "80.0", "0.0", "100%", "50", "50%", "", "", "1.00 x")
    assert cells[2] == ("model", "bfloat16", "head", "5.0", "0.0", "25%", "200", "50%", "", "", "4.00 x")
    assert cells[3][5:] == ("100%", "", "", "", "", "4.00 x")


def test_a_report_comes_back_and_its_table_pastes(tmp_path: Path) -> None:
    written = report(Row("data", "64 images", "total", [0.5, 0.6]))
    written.write_json(tmp_path / "a.json")
    assert Report.read(tmp_path / "a.json") == written
    lines = written.markdown().splitlines()
    assert lines[0].startswith("abacus, 2 cores, 1 threads, torch 2; measured peaks: 100 GFLOP/s in float32")
    assert lines[2] == f"| {' | '.join(COLUMNS)} |"
    assert lines[4] == "| data | 64 images | total | 550.0 | 50.0 | 100% |  |  |  |  | 1.00 x |"


def test_files_that_are_not_reports_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"absent\.json: cannot be read: No such file"):
        Report.read(tmp_path / "absent.json")
    (tmp_path / "b.json").write_text("[]")
    with pytest.raises(UserError, match=r"b\.json is not a report: --json FILE of experiments\.benchmark writes one"):
        Report.read(tmp_path / "b.json")


def test_equal_samples_are_undecided_and_twice_the_speed_is_faster() -> None:
    slow, fast = [1.0 + 0.01 * i for i in range(10)], [0.5 + 0.005 * i for i in range(10)]
    first = report(Row("a", "s", "total", slow), Row("b", "s", "total", slow), Row("c", "s", "total", fast))
    second = report(Row("a", "s", "total", slow), Row("b", "s", "total", fast), Row("c", "s", "total", slow))
    same, faster, slower = compare(first, second)
    assert (same.verdict, same.ratio, same.p) == ("undecided", 1.0, 1.0)
    assert (faster.verdict, slower.verdict) == ("faster", "slower")
    assert faster.ratio == pytest.approx(2.0)
    assert faster.low < 2.0 < faster.high
    assert slower.ratio == pytest.approx(0.5)


def test_few_passes_decide_nothing() -> None:
    # Of three against three passes the smallest possible p is 0.1.
    first, second = report(Row("a", "s", "total", [1.0, 1.1, 1.2])), report(Row("a", "s", "total", [0.1, 0.2, 0.3]))
    (difference,) = compare(first, second)
    assert difference.verdict == "undecided"


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.6, 0.9]) == [1.0, 1.0]


def test_reports_without_a_common_part_are_refused() -> None:
    with pytest.raises(UserError, match="the two reports have no part in common"):
        compare(report(Row("a", "s", "total", [1.0])), report(Row("b", "s", "total", [1.0])))
