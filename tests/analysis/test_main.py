"""python -m analysis: its output on a terminal that lacks characters."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from tests.support.commands import run_command
from tests.support.runs import make_run


def test_a_terminal_without_a_character_gets_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_run(tmp_path, "baseline", 0, 0.5)
    make_run(tmp_path, "baseline", 1, 0.6)
    arguments = ["--runs", str(tmp_path), "--table", "8"]
    for errors, expected in (("strict", b"55.0 ? 7.1"), ("xmlcharrefreplace", b"55.0 &#177; 7.1")):
        printed = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(printed, "ascii", errors=errors))
        assert run_command("tables", arguments) == 0
        sys.stdout.flush()
        assert expected in printed.getvalue()
    assert run_command("tables", [*arguments, "--out", str(tmp_path / "table.txt")]) == 0
    assert "55.0 ± 7.1" in (tmp_path / "table.txt").read_text(encoding="utf-8")
