"""The dashboard's page as HTML: text of runs is harmless in it, and it loads nothing."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from pathlib import Path

import pytest

pytest.importorskip("plotly", reason="the dashboard draws with plotly, which is not installed")

from analysis.dashboard import page
from analysis.dashboard.page import build_page, script_json
from analysis.dashboard.watched_runs import WatchedRuns
from tests.support.dashboard_pages import NASTY, data_in
from tests.support.runs import make_logged_run
from tests.support.views import add_views, view_content


def test_json_is_harmless_in_html() -> None:
    value = {NASTY: "<!--\u2028\u2029&amp;\ud800"}
    text = script_json(value)
    assert not re.search(r"[<>&\u2028\u2029]", text)
    assert text.isascii()
    assert json.loads(text) == value
    with pytest.raises(ValueError, match="Out of range"):
        script_json(math.nan)


def test_text_of_runs_breaks_out_nowhere(tmp_path: Path) -> None:
    path = make_logged_run(tmp_path, NASTY, folder="<img src=x onerror=alert(1)>", classes=(NASTY, "b"))
    add_views(path, [view_content(1, classes=(NASTY, "b"))])
    made = WatchedRuns(tmp_path, 10**8).read()
    html = build_page(made.data, made.views)
    assert b"onerror=alert(1)>" not in html
    assert html.count(b"</script>") == build_page("null", "null").count(b"</script>")
    row = data_in(html)["runs"][0]
    assert (row["name"], row["classes"][0][0]) == (NASTY, NASTY)
    assert data_in(html, "views")["scenes"][0]["classes"][0] == NASTY


def test_our_own_parts_name_no_address() -> None:
    for file in page.STATIC.iterdir():
        assert not re.search(r"https?:|//www|@import|url\(", file.read_text()), file
    assert {file.name for file in page.STATIC.iterdir()} == {*page.SCRIPTS, "style.css", "page.html"}


def test_our_own_scripts_make_no_html_of_text() -> None:
    for name in page.SCRIPTS:
        code = (page.STATIC / name).read_text()
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function", code), name
        assert len(code.splitlines()) <= 300, name


def test_the_policy_allows_just_these_scripts() -> None:
    html = build_page("null", "null").decode()
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', html)
    assert policy is not None
    assert "default-src 'none'" in policy[1]
    assert "connect-src 'none'" in policy[1]
    hashes = re.findall(r"'sha256-([^']*)'", policy[1])
    scripts = re.findall(r'<script(?: type="text/plain" id="plotly")?>(.*?)</script>', html, re.DOTALL)
    made = {base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts}
    assert set(hashes) == made
    assert len(hashes) == 2
    assert "\r" not in html  # an HTML parser would change it, and the hash with it
    assert "connect-src 'self'" in build_page("null", "null", 5).decode()
