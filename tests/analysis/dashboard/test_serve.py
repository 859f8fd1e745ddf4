"""The dashboard's server over HTTP."""

from __future__ import annotations

import urllib.error
import urllib.request
from pathlib import Path

import pytest

pytest.importorskip("plotly", reason="the dashboard draws with plotly, which is not installed")

from analysis.commands import dashboard
from analysis.dashboard.serve import Server
from analysis.dashboard.watched_runs import PageContent, WatchedRuns
from tests.support.dashboard_pages import data_in, get, serving, wait_for
from tests.support.runs import event, make_logged_run


def test_over_http(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = make_logged_run(tmp_path / "runs", state="running")
    out = tmp_path / "page.html"
    runs = WatchedRuns(tmp_path / "runs", 10**8)
    with serving(Server(("127.0.0.1", 0), runs, runs.read_or_refuse(), 0.05, lambda c: write_to(out, c))) as server:
        data, views = get(server, "data.json"), get(server, "views.json")
        assert data["runs"][0]["train"]["step"][-1] == 150
        assert status(server, f"data.json?have={data['version']}") == 204
        assert status(server, f"views.json?have={views['version']}") == 204
        assert status(server, "data.json?have=older") == 200
        assert status(server, "") == 200
        assert status(server, "../../etc/passwd") == 404
        with (path / "metrics.jsonl").open("a") as file:
            file.write(event("train", 160, {"train/loss/total": 0.5}))
        newer = wait_for(lambda: get(server, "data.json"), lambda found: found["version"] != data["version"])
        assert newer["runs"][0]["train"]["step"][-1] == 160
        assert get(server, "views.json")["version"] == views["version"]
        wait_for(out.exists, bool)
        assert data_in(out.read_bytes())["runs"][0]["train"]["step"][-1] == 160
        (tmp_path / "runs").rename(tmp_path / "moved")
        wait_for(lambda: capsys.readouterr().err, lambda error: "the page stays as it was" in error)
        assert get(server, "data.json")["runs"][0]["train"]["step"][-1] == 160


def write_to(out: Path, content: PageContent) -> None:
    dashboard.write_page(out, content)


def status(server: Server, name: str) -> int:
    try:
        with urllib.request.urlopen(server.url + name, timeout=20) as response:
            return response.status
    except urllib.error.HTTPError as error:
        return error.code
