"""python -m analysis dashboard: the file it writes, and what is refused."""

from __future__ import annotations

import re
import socket
from pathlib import Path

import pytest

pytest.importorskip("plotly", reason="the dashboard draws with plotly, which is not installed")

from analysis.__main__ import main
from analysis.commands import dashboard
from analysis.dashboard import page
from sparse_rcnn.errors import UserError
from tests.support.dashboard_pages import arguments, data_in
from tests.support.runs import make_logged_run
from tests.support.views import add_views, view_content


def test_one_file_in_a_new_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_logged_run(tmp_path / "runs")
    out = tmp_path / "new" / "folder" / "page.html"
    assert main(["dashboard", "--runs", str(tmp_path / "runs"), "--out", str(out)]) == 0
    assert data_in(out.read_bytes())["runs"][0]["ap"][0] == 50.0
    assert [file.name for file in out.parent.iterdir()] == ["page.html"]
    assert "1 runs" in capsys.readouterr().out
    assert out.stat().st_mode & 0o777 == 0o644


def test_no_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    out = tmp_path / "page.html"
    assert main(["dashboard", "--runs", str(tmp_path), "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: there is no run under {tmp_path}: runs lie in <runs_root>/<experiment>/<run id>/")
    assert not out.exists()


@pytest.mark.parametrize(
    ("given", "message"),
    [([], "--out page.html, --serve, or both"),
     (["--out", "x", "--max-mb", "0"], "--max-mb must be above 0, got 0"),
     (["--serve", "--interval", "-1"], "--interval must be above 0"),
     (["--serve", "--interval", "nan"], "--interval must be above 0"),
     (["--serve", "--port", "70000"], "choose another --port")],
)  # fmt: skip
def test_wrong_arguments(tmp_path: Path, given: list[str], message: str) -> None:
    make_logged_run(tmp_path)
    with pytest.raises(UserError, match=re.escape(message)):
        dashboard.run(arguments("--runs", str(tmp_path), *given))


def test_a_port_in_use(tmp_path: Path) -> None:
    make_logged_run(tmp_path)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        with pytest.raises(UserError, match=f"cannot serve at 127.0.0.1:{port}: .*choose another --port"):
            dashboard.run(arguments("--runs", str(tmp_path), "--serve", "--port", port))


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    make_logged_run(tmp_path / "runs")
    (tmp_path / "page.html").mkdir()
    with pytest.raises(UserError, match=r"cannot write .*page\.html: "):
        dashboard.run(arguments("--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "page.html")))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["page.html", "runs"]


def test_the_size_limit_counts_the_whole_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in "abc":
        add_views(make_logged_run(tmp_path / "runs", name), [view_content(i, 6, 100) for i in range(1, 5)])
    out = tmp_path / "page.html"
    limit = (page.fixed_size() + 150_000) / 1e6
    dashboard.run(arguments("--runs", str(tmp_path / "runs"), "--out", str(out), "--max-mb", f"{limit:.6f}"))
    assert out.stat().st_size <= limit * 1e6
    assert "of 4 images" in data_in(out.read_bytes(), "views")["notes"][0]
    dashboard.run(arguments("--runs", str(tmp_path / "runs"), "--out", str(out), "--max-mb", "1"))
    assert "more than the 1 MB of --max-mb" in capsys.readouterr().out
