"""Which rows the sweeps of conf/sweep/ hold."""

from __future__ import annotations

import yaml

from tests.support.paths import ROOT

ROWS = sorted(path.stem for path in (ROOT / "conf" / "experiment").glob("*.yaml"))


SWEEPS = sorted(path.stem for path in (ROOT / "conf" / "sweep").glob("*.yaml"))


def rows_of(name: str) -> list[str]:
    params = yaml.safe_load((ROOT / "conf" / "sweep" / f"{name}.yaml").read_text()) or {}
    chosen = params.get("hydra", {}).get("sweeper", {}).get("params", {}).get("experiment", "")
    return [row for row in chosen.replace("\n", "").replace(" ", "").split(",") if row]


def test_every_row_is_in_a_study_and_all_holds_each_once() -> None:
    everything = rows_of("all")
    assert sorted(everything) == ROWS
    studied = {row for name in SWEEPS if name not in ("all", "none") for row in rows_of(name)}
    assert studied == set(ROWS)
    for name in SWEEPS:
        assert len(set(rows_of(name))) == len(rows_of(name)), name


def test_every_study_has_the_baseline_or_says_what_it_builds_up_from() -> None:
    for name in SWEEPS:
        if name not in ("none", "feature_reuse"):
            assert {"baseline", "stages_6"} & set(rows_of(name)), name
