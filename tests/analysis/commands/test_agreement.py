"""python -m analysis agreement."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from tests.support.commands import run_command
from tests.support.paper_rows import rows_with_aps


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows_with_aps(tmp_path, {"head_attention": [30], "baseline": [40]})
    assert run_command("agreement", ["--runs", str(tmp_path), "--format", "csv"]) == 0
    rows_read = [list(row.values())[1:-1] for row in csv.DictReader(io.StringIO(capsys.readouterr().out))]
    assert rows_read[7][:3] == ["8", "2 of 2", "+1.00"]
    assert rows_read[7][-2:] == ["1 of 1", "1 of 1"]
    assert rows_read[-1][0] == "all"
    assert rows_read[-1][-2:] == ["1 of 1", "115 of 126"]
