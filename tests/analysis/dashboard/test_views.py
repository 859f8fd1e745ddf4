"""The views of all runs: shared pictures, and a budget of bytes."""

from __future__ import annotations

import json
from pathlib import Path

from analysis.dashboard.record import read_record
from analysis.dashboard.views import collect_views
from tests.support.runs import make_logged_run
from tests.support.views import add_views, view_content


def test_runs_share_pictures_and_scenes(tmp_path: Path) -> None:
    paths = [make_logged_run(tmp_path, name) for name in "ab"]
    for path in paths:
        add_views(path, [view_content(1), view_content(2)])
    made = collect_views({str(path): read_record(path, tmp_path).views for path in paths}, 10**7)
    assert (len(made["pictures"]), len(made["scenes"]), made["notes"]) == (2, 2, [])
    assert [[item["scene"] for item in items] for items in made["runs"].values()] == [[0, 1], [0, 1]]
    assert all(item["responses"] for items in made["runs"].values() for item in items)


def test_a_budget_drops_heat_maps_and_then_images(tmp_path: Path) -> None:
    views = {}
    for name in "abc":
        path = make_logged_run(tmp_path, name)
        add_views(path, [view_content(i, 6, 100) for i in range(1, 5)])
        views[name] = read_record(path, tmp_path).views
    whole = len(json.dumps(collect_views(views, 10**9)))
    assert not collect_views(views, 10**9)["notes"]
    seen = []
    for budget in [whole + 5000, whole // 2, whole // 5, whole // 10, 1000, 0, -5]:
        made = collect_views(views, budget)
        assert len(json.dumps({**made, "notes": []})) <= max(budget, 200)
        kept = {len(items) for items in made["runs"].values()}
        heat = sum(item["responses"] is not None for items in made["runs"].values() for item in items) // 3
        assert len(kept) == 1  # all runs the same images
        seen.append((kept.pop(), heat))
        assert bool(made["notes"]) == (seen[-1] != (4, 4))
    assert seen == [(4, 4), (4, 1), (3, 0), (1, 0), (0, 0), (0, 0), (0, 0)]
    assert collect_views(views, 0)["notes"][0] == "To stay within its size this page holds no images."
