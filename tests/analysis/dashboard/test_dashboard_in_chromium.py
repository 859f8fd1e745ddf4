"""The dashboard's page in a real browser: what it shows, what can be clicked, and that nothing leaves the machine."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("plotly", reason="the dashboard draws with plotly, which is not installed")

from analysis.commands import dashboard
from analysis.dashboard.serve import Server
from analysis.dashboard.watched_runs import WatchedRuns
from tests.support.dashboard_pages import NASTY, arguments, data_in, serving, wait_for
from tests.support.runs import event, make_logged_run, small_config, write_json
from tests.support.views import add_views, view_content, view_without_stages

NASTY_FOLDER = "<img src=x onerror=alert(1)>"
VIEWS = [view_content(1), view_content(2, size=(120, 160))]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
    binary = shutil.which("chromium")
    if binary is None:
        pytest.skip("needs Debian's chromium: apt-get install chromium")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=binary, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def browse(chromium: Any) -> Iterator[Any]:
    """Opens an address in a new tab; at the end no tab may have had an error, a dialog or a request to elsewhere."""
    problems: list[str] = []
    tabs = []

    def browse(address: str) -> Any:
        tab = chromium.new_page(viewport={"width": 1280, "height": 900})
        tabs.append(tab)
        tab.on("console", lambda said: problems.append(said.text) if said.type in ("error", "warning") else None)
        tab.on("pageerror", lambda error: problems.append(str(error)))
        tab.on("dialog", lambda dialog: (problems.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        tab.on("request", lambda sent: None if sent.url.startswith(LOCAL) else problems.append(sent.url))
        tab.goto(address)
        tab.wait_for_selector("body[data-ready]", timeout=60_000)
        settle(tab)
        return tab

    yield browse
    for tab in tabs:
        tab.close()
    assert problems == []


LOCAL = ("file:", "data:", "blob:", "http://127.0.0.1:")


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of runs of every kind."""
    root = tmp_path_factory.mktemp("many") / "runs"
    add_views(make_logged_run(root, ap=0.5), VIEWS)
    make_logged_run(root, seed=1, ap=0.48)
    six = make_logged_run(
        root, "stages_6", identity="6" * 12, ap=0.6, config=small_config(num_stages=6, optim={"lr": 0.001})
    )
    add_views(six, [view_content(1, num_stages=6, num_proposals=20, responses=False)])
    make_logged_run(root, "going_on", identity="a" * 12, state="interrupted", recipe="paper")
    make_logged_run(root, "newer", meta={"schema_version": 99})
    damaged = make_logged_run(root, "damaged", identity="d" * 12, ap=0.1)
    (damaged / "config.json").write_text('{"a":')
    (root / "baseline" / "notes").mkdir()
    nasty = make_logged_run(root, NASTY, folder=NASTY_FOLDER, identity="e" * 12, ap=0.2, classes=(NASTY, "<b>bold</b>"))
    add_views(nasty, [view_content(3, classes=(NASTY, "<b>bold</b>"))])
    out = root.parent / "page.html"
    dashboard.run(arguments("--runs", str(root), "--out", str(out)))
    return out


@pytest.fixture(scope="module")
def detectors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of three detectors: with stages and learned boxes, with stages alone, and without either."""
    root = tmp_path_factory.mktemp("detectors") / "runs"
    add_views(make_logged_run(root, ap=0.5), VIEWS)
    one_shot = make_logged_run(root, "one_shot", identity="1" * 12, ap=0.3, num_stages=0)
    add_views(one_shot, [view_without_stages(1), view_without_stages(2, num_detections=0, size=(120, 160))])
    no_boxes = make_logged_run(root, "no_boxes", identity="2" * 12, ap=0.25)
    add_views(no_boxes, [view_content(1, responses=False, has_proposals=False)])
    out = root.parent / "page.html"
    dashboard.run(arguments("--runs", str(root), "--out", str(out)))
    return out


def pick(tab: Any, *labels: str) -> None:
    tab.click("#pick-none")
    for label in labels:
        tab.check(f'input[aria-label="pick {label}"]')
    settle(tab)


def column(tab: Any, name: str) -> list[str]:
    """The texts of a column of the table, from the top."""
    heads = tab.locator("#table thead th").all_inner_texts()
    index = [head.split(" ▲")[0].split(" ▼")[0].strip() for head in heads].index(name) + 1
    return tab.locator(f"#table tbody tr > :nth-child({index})").all_inner_texts()


def settle(tab: Any) -> None:
    """Scroll to everything that waits to be seen, until it is drawn."""
    scroll = (
        "() => { const waiting = [...document.querySelectorAll('[data-pending]')].find((node) => node.offsetParent);"
        "  waiting?.scrollIntoView(); return Boolean(waiting); }"
    )
    wait_for(lambda: tab.evaluate(scroll), lambda is_waiting: not is_waiting)


def traces(tab: Any, chart: str) -> list[dict[str, Any]]:
    settle(tab)
    return tab.evaluate(
        "id => (document.getElementById(id).data ?? []).map(({ name, meta, x, y, line, marker, text }) => "
        "({ name, meta, x, y, text, color: (line ?? marker).color, dash: line?.dash }))",
        chart,
    )


def boxes_on(tab: Any, panel: int = 0) -> dict[int, list[float]]:
    """Corners of the boxes that are drawn, by proposal."""
    settle(tab)
    return {
        int(found["proposal"]): found["box"]
        for found in tab.evaluate(
            "panel => [...document.querySelectorAll(`#panel-${panel} rect.box`)].map((rect) => {"
            "  const [x, y, w, h] = ['x', 'y', 'width', 'height'].map((name) => Number(rect.getAttribute(name)));"
            "  return { proposal: rect.dataset.proposal, box: [x, y, x + w, y + h] }; })",
            panel,
        )
    }


def colors_on(tab: Any) -> dict[str, str]:
    """Colours of the boxes that are drawn, by proposal."""
    pairs = "all => all.map((rect) => [rect.dataset.proposal, rect.getAttribute('stroke')])"
    return dict(tab.locator("#panel-0 rect.box").evaluate_all(pairs))


def set_slider(tab: Any, name: str, value: float) -> None:
    tab.locator(f"#{name}").fill(str(value))


@pytest.mark.slow
class TestInChromium:
    def test_every_kind_of_folder_is_a_row_and_nothing_is_run(self, many: Path, browse: Any) -> None:
        tab = browse(many.as_uri())
        states = dict(zip([name.split("\n")[0] for name in column(tab, "Run")], column(tab, "State"), strict=True))
        assert states == {
            "baseline s0": "finished", "baseline s1": "finished", "stages_6 s0": "finished", "damaged s0": "finished",
            "going_on s0": "interrupted 50%", "newer/0123456789ab-seed0": "newer", "baseline/notes": "foreign",
            f"{NASTY} s0": "finished",
        }  # fmt: skip
        assert "no meta.json" in tab.locator('tr[data-key="baseline/notes"]').inner_text()
        assert "\nconfig.json is not valid JSON" in tab.locator('tr[data-key^="damaged/"]').inner_text()
        assert tab.locator('tr[data-key="baseline/notes"] input').is_disabled()
        assert "6 runs" in tab.locator("#summary").inner_text()
        pick(tab, "baseline s0", f"{NASTY} s0")
        tab.locator("#panel-0 select").select_option(label=f"{NASTY} s0")
        set_slider(tab, "threshold", 0)
        assert NASTY in " ".join(tab.locator("#panel-0 text").all_text_contents())
        ticks = tab.locator("#class-chart .xtick text").all_text_contents()
        assert ticks == ["disc", "square", "triangle", NASTY, "<b>bold</b>"]
        assert tab.locator("img[src='x'], [onerror]").count() == 0

    def test_sorting(self, many: Path, browse: Any) -> None:
        tab = browse(many.as_uri())
        assert column(tab, "AP") == ["60.0", "50.0", "48.0", "25.0", "20.0", "10.0", "-", "-"]
        tab.click("#table >> text='AP'")
        assert column(tab, "AP") == ["10.0", "20.0", "25.0", "48.0", "50.0", "60.0", "-", "-"]
        assert tab.locator('th[aria-sort="ascending"]').inner_text().startswith("AP")
        tab.click("#table >> text='State'")
        assert column(tab, "State") == [*["finished"] * 5, "foreign", "interrupted 50%", "newer"]
        assert set(column(tab, "APl")) == {"-"}

    def test_filters(self, many: Path, browse: Any) -> None:
        tab = browse(many.as_uri())
        tab.fill("#filter-text", "STAGES num_stages=6")
        assert column(tab, "Run") == ["stages_6 s0"]
        assert tab.locator("#counts").inner_text().startswith("1 of 8 shown")
        tab.fill("#filter-text", "nothing like it")
        assert tab.locator("#table-empty").inner_text() == "No run matches the filter."
        tab.fill("#filter-text", "")
        tab.select_option("#filter-state", "interrupted")
        assert column(tab, "Run") == ["going_on s0"]
        tab.select_option("#filter-recipe", "mini")
        assert column(tab, "Run") == []
        tab.select_option("#filter-state", "")
        assert len(column(tab, "Run")) == 5
        tab.click("#pick-none")
        tab.click("#pick-shown")
        assert len(traces(tab, "loss-chart")) == 5

    def test_factors_as_columns(self, many: Path, browse: Any) -> None:
        tab = browse(many.as_uri())
        assert column(tab, "Unusual factors")[0] == "num_stages=6, optim.betas=-, optim.lr=0.001"
        tab.check("#factor-columns")
        assert column(tab, "num_stages")[0] == "6"
        assert column(tab, "num_stages").count("3") == 4

    def test_curves_of_two_runs(self, many: Path, browse: Any) -> None:
        tab = browse(many.as_uri())
        pick(tab, "baseline s0", "stages_6 s0")
        first, second = traces(tab, "loss-chart")
        assert [first["meta"], second["meta"]] == ["baseline/0123456789ab-seed0", "stages_6/666666666666-seed0"]
        assert first["y"] == pytest.approx([10 - 0.3 * index for index in range(1, 31)])
        assert first["x"] == pytest.approx([0.1 * index for index in range(1, 31)])
        assert [trace["y"] for trace in traces(tab, "ap-chart")] == [pytest.approx([25, 50]), pytest.approx([30, 60])]
        tab.select_option("#x-axis", "seconds")
        assert traces(tab, "ap-chart")[0]["x"] == pytest.approx([150.5 / 60, 300.5 / 60])
        assert "minutes" in tab.locator("#ap-chart .xtitle").text_content()
        tab.select_option("#x-axis", "step")
        assert traces(tab, "loss-chart")[1]["x"] == list(range(10, 301, 10))
        tab.select_option("#loss", "l1")
        assert traces(tab, "loss-chart")[0]["y"][0] == pytest.approx(4.85)
        tab.select_option("#metric", "AP50")
        assert traces(tab, "ap-chart")[1]["y"] == pytest.approx([50, 80])
        tab.select_option("#metric", "APl")
        assert traces(tab, "ap-chart") == []
        assert "no evaluation with APl" in tab.locator("#ap-chart").text_content()

    def test_charts_of_the_newest_evaluation(self, many: Path, browse: Any) -> None:
        tab = browse(many.as_uri())
        pick(tab, "baseline s0")
        (stages,) = traces(tab, "stage-chart")
        assert (stages["x"], stages["y"]) == ([0, 1, 2], pytest.approx([50 / 3, 100 / 3, 50], abs=1e-3))
        (curve,) = traces(tab, "pr-chart")
        assert (curve["x"][2], curve["y"][2], curve["y"][100]) == (0.02, 0.99, 0.25)
        tab.select_option("#iou", "0.50:0.95")
        assert traces(tab, "pr-chart")[0]["y"][100] == 0.5
        (bars,) = traces(tab, "class-chart")
        assert (bars["text"], bars["y"]) == (["disc", "square", "triangle"], pytest.approx([50, 40, 30]))
        tab.select_option("#class-metric", "2")
        assert traces(tab, "class-chart")[0]["y"] == pytest.approx([60, 60, 60])

    def test_a_run_has_one_colour_and_its_seeds_a_dash(self, many: Path, browse: Any) -> None:
        tab = browse(many.as_uri())
        pick(tab, "stages_6 s0", "baseline s0", "baseline s1")
        looks = {chart: [(t["meta"], t["color"], t["dash"]) for t in traces(tab, chart)] for chart in LINES}
        assert len(set(map(str, looks.values()))) == 1
        (_, six, _), (_, zero, solid), (_, one, dash) = looks["loss-chart"]
        assert six != zero == one
        assert solid != dash
        assert [bar["color"] for bar in traces(tab, "class-chart")] == [six, zero, one]
        swatch = tab.locator('tr[data-key="baseline/0123456789ab-seed0"] .swatch line')
        assert swatch.get_attribute("stroke") == zero
        tab.click('[aria-label="unpick stages_6 s0"]')
        assert [t["color"] for t in traces(tab, "loss-chart")] == [zero, one]  # still the same

    def test_configurations_that_differ(self, many: Path, browse: Any) -> None:
        tab = browse(many.as_uri())
        pick(tab, "baseline s0", "baseline s1")
        assert tab.locator("#diff tbody tr").all_inner_texts() == ["seed\t0\t1"]
        pick(tab, "baseline s0", "stages_6 s0")
        rows = [text.split("\t") for text in tab.locator("#diff tbody tr").all_inner_texts()]
        assert rows[:2] == [["model.num_stages", "3", "6"], ["num_stages", "3", "6"]]
        assert ["optim.betas", "[0.9,0.999]", "-"] in rows
        pick(tab, "baseline s0")
        assert "Pick two or more" in tab.locator("#diff-note").inner_text()
        pick(tab)
        assert tab.locator("#nothing-picked").is_visible()
        assert not tab.locator("#comparison").is_visible()

    def test_boxes_stage_by_stage(self, many: Path, browse: Any) -> None:
        tab = browse(many.as_uri())
        pick(tab, "baseline s0")
        set_slider(tab, "threshold", 0)
        expected = [VIEWS[0]["proposals_xyxy_abs"], *(stage["boxes_xyxy_abs"] for stage in VIEWS[0]["stages"])]
        for position, boxes in enumerate(expected):
            set_slider(tab, "stage", position)
            drawn = boxes_on(tab)
            assert sorted(drawn) == list(range(10))
            for proposal, box in drawn.items():
                assert box == pytest.approx(boxes[proposal], abs=0.02)
        assert tab.locator("#stage-name").inner_text() == "stage 2"
        colors = colors_on(tab)
        tab.click("#panel-0 .picture")
        tab.keyboard.press("ArrowLeft")
        assert tab.locator("#stage-name").inner_text() == "stage 1"
        again = colors_on(tab)
        assert colors == again
        for _ in range(3):
            tab.keyboard.press("ArrowLeft")
        assert tab.locator("#stage-name").inner_text() == "learned proposals"

    def test_the_threshold_hides_boxes(self, many: Path, browse: Any) -> None:
        tab = browse(many.as_uri())
        pick(tab, "baseline s0")
        for stage, threshold in [(2, 0.35), (1, 0.35), (0, 0.28), (0, 0.99)]:
            set_slider(tab, "stage", stage + 1)
            set_slider(tab, "threshold", threshold)
            scores = VIEWS[0]["stages"][stage]["scores"]
            assert sorted(boxes_on(tab)) == [p for p, score in enumerate(scores) if score >= threshold]
        set_slider(tab, "threshold", 0.75)
        tab.select_option("#score-of", "last")  # of scores 0.1, 0.2 ... 1
        for position in range(4):
            set_slider(tab, "stage", position)
            assert sorted(boxes_on(tab)) == [7, 8, 9]

    def test_ground_truth_names_and_heat(self, many: Path, browse: Any) -> None:
        tab = browse(many.as_uri())
        pick(tab, "baseline s0")
        assert tab.locator("#panel-0 rect.truth").count() == 0
        tab.check("#truth")
        left, top, *_ = VIEWS[0]["ground_truth"]["boxes_xyxy_abs"][1]
        truth = tab.locator("#panel-0 rect.truth")
        assert truth.count() == 2
        assert [float(truth.nth(1).get_attribute(name)) for name in "xy"] == [left, top]
        assert tab.locator("#panel-0 text.truth-name").all_text_contents() == ["disc", "square"]
        tab.uncheck("#truth")
        assert tab.locator("#panel-0 rect.truth").count() == 0
        set_slider(tab, "threshold", 0.95)  # proposal 9 alone
        assert tab.locator("#panel-0 text.box-name").all_text_contents() == ["disc 1.00"]
        tab.uncheck("#names")
        assert tab.locator("#panel-0 text.box-name").count() == 0
        point_at(tab, 9)
        assert tab.locator("#panel-0 .heat rect").count() == 49
        assert tab.locator("#panel-0 .readout").inner_text() == (
            "Proposal 9, stage by stage: disc 0.33 → disc 0.67 → [disc 1.00]"
        )
        tab.mouse.move(5, 5)
        assert tab.locator("#panel-0 .heat rect").count() == 0

    def test_two_runs_side_by_side(self, many: Path, browse: Any) -> None:
        tab = browse(many.as_uri())
        pick(tab, "baseline s0", "stages_6 s0")
        set_slider(tab, "threshold", 0)
        assert (len(boxes_on(tab, 0)), len(boxes_on(tab, 1))) == (10, 20)
        assert tab.locator("#stage").get_attribute("max") == "6"
        assert "stage 2, the last" in tab.locator("#panel-0 .hint").inner_text()
        assert "stage 5, the last" in tab.locator("#panel-1 .hint").inner_text()
        tab.locator("#images button").nth(1).click()
        assert "no view of this image" in tab.locator("#panel-1 .hint").inner_text()
        assert boxes_on(tab, 1) == {}
        assert tab.locator("#stage").get_attribute("max") == "3"
        assert len(boxes_on(tab, 0)) == 10

    def test_a_detector_without_stages_shows_its_detections(self, detectors: Path, browse: Any) -> None:
        tab = browse(detectors.as_uri())
        pick(tab, "one_shot s0")
        assert not tab.locator("#stage").is_visible()
        assert not tab.locator("#stage-chart").is_visible()
        set_slider(tab, "threshold", 0.5)
        expected = view_without_stages(1)["stages"][0]["boxes_xyxy_abs"]
        drawn = boxes_on(tab)
        assert sorted(drawn) == [2, 3, 4, 5]  # of scores 1/6, 2/6 ... 1
        for index, box in drawn.items():
            assert box == pytest.approx(expected[index], abs=0.02)
        caption = tab.locator("#panel-0 .hint").inner_text()
        assert caption == "detections: 4 of 6 boxes; this detector has no stages; after step 300"
        tab.locator("#images button").nth(1).click()
        assert boxes_on(tab) == {}
        tab.locator("#images button").nth(0).click()
        point_at(tab, 5)
        assert tab.locator("#panel-0 .readout").inner_text() == "Detection 5: triangle 1.00"

    def test_with_stages_and_without_beside_each_other(self, detectors: Path, browse: Any) -> None:
        tab = browse(detectors.as_uri())
        pick(tab, "one_shot s0", "baseline s0")
        set_slider(tab, "threshold", 0)
        for position in range(4):
            set_slider(tab, "stage", position)
            assert sorted(boxes_on(tab, 0)) == list(range(6)), "whatever the stage"
            assert sorted(boxes_on(tab, 1)) == list(range(10))
        assert [trace["meta"] for trace in traces(tab, "stage-chart")] == ["baseline/0123456789ab-seed0"]
        assert tab.locator("#stage-note").inner_text() == "without stages: one_shot s0"
        differing = dict(zip(tab.locator("#diff th[scope=row]").all_inner_texts(), rows_of(tab), strict=True))
        assert differing["model._target_"] == ["library.OneShotDetector", "library.StagedDetector"]
        assert differing["num_stages"] == ["-", "3"]
        tab.check("#factor-columns")
        assert column(tab, "detector") == ["StagedDetector", "OneShotDetector", "StagedDetector"]
        assert "Detector" not in tab.locator("#table thead th").all_inner_texts()

    def test_runs_of_several_detectors_have_a_column_for_it(self, detectors: Path, many: Path, browse: Any) -> None:
        tab = browse(detectors.as_uri())
        assert column(tab, "Detector") == ["StagedDetector", "OneShotDetector", "StagedDetector"]
        assert "detector=" not in "".join(column(tab, "Unusual factors"))
        tab.click('#table thead button:text-is("Detector")')
        assert column(tab, "Detector") == ["OneShotDetector", "StagedDetector", "StagedDetector"]
        tab.fill("#filter-text", "detector=oneshot")
        assert column(tab, "Run") == ["one_shot s0"]
        of_one = browse(many.as_uri())
        assert "Detector" not in of_one.locator("#table thead th").all_inner_texts()

    def test_stages_without_learned_boxes_begin_with_stage_0(self, detectors: Path, browse: Any) -> None:
        tab = browse(detectors.as_uri())
        pick(tab, "no_boxes s0")
        set_slider(tab, "threshold", 0)
        assert tab.locator("#stage").get_attribute("min") == "1"
        content = view_content(1, has_proposals=False)
        for position, stage in enumerate(content["stages"], 1):
            set_slider(tab, "stage", position)
            for index, box in boxes_on(tab).items():
                assert box == pytest.approx(stage["boxes_xyxy_abs"][index], abs=0.02)
        pick(tab, "no_boxes s0", "baseline s0")
        set_slider(tab, "stage", 0)
        assert "no learned proposals: the boxes begin with stage 0" in tab.locator("#panel-0 .hint").inner_text()
        assert (len(boxes_on(tab, 0)), len(boxes_on(tab, 1))) == (0, 10)

    def test_picks_survive_a_reload(self, many: Path, browse: Any) -> None:
        tab = browse(many.as_uri())
        pick(tab, "going_on s0", f"{NASTY} s0")
        tab.reload()
        tab.wait_for_selector("body[data-ready]")
        assert [t["meta"] for t in traces(tab, "loss-chart")] == [
            "going_on/aaaaaaaaaaaa-seed0", f"{NASTY_FOLDER}/eeeeeeeeeeee-seed0",
        ]  # fmt: skip

    def test_no_button_uploads_a_chart(self, many: Path, browse: Any) -> None:
        tab = browse(many.as_uri())
        titles = tab.locator("#loss-chart .modebar-btn").evaluate_all("all => all.map((node) => node.dataset.title)")
        assert len(titles) == 6
        assert not re.search("cloud|share|upload|edit", " ".join(titles), re.IGNORECASE)

    def test_plotly_knows_all_that_we_ask_of_it(self, many: Path, browse: Any) -> None:
        tab = browse(many.as_uri())
        pick(tab, "baseline s0", "baseline s1")
        tab.check("#log-loss")
        for chart in CHARTS:
            wrong = tab.evaluate(
                "id => { const { data, layout } = document.getElementById(id); return Plotly.validate(data, layout); }",
                chart,
            )
            assert [item for item in wrong or [] if item["code"] != "unused"] == [], chart

    def test_a_served_page_follows_and_keeps_its_state(self, tmp_path: Path, browse: Any) -> None:
        path = make_logged_run(tmp_path, "going_on", state="running", ap=0.5)
        add_views(path, [view_content(1)])
        make_logged_run(tmp_path, "other", identity="b" * 12, ap=0.9)
        runs = WatchedRuns(tmp_path, 10**8)
        with serving(Server(("127.0.0.1", 0), runs, runs.read_or_refuse(), 0.2)) as server:
            tab = browse(server.url)
            pick(tab, "going_on s0")
            tab.click("#table >> text='Seed'")
            tab.fill("#filter-text", "s0")
            tab.select_option("#x-axis", "step")
            set_slider(tab, "threshold", 0.5)
            set_slider(tab, "stage", 1)
            tab.check("#truth")
            with (path / "metrics.jsonl").open("a") as file:
                file.write(event("train", 160, {"train/loss/total": 0.125}))
            wait_for(lambda: traces(tab, "loss-chart")[0]["y"][-1], lambda loss: loss == 0.125)
            make_logged_run(tmp_path, "third", identity="c" * 12)
            tab.wait_for_selector('tr[data-key^="third/"]', timeout=30_000)
            changed = view_content(1)
            changed["stages"][0]["scores"] = [0.9] * 10
            write_json(path / "views" / "1.json", changed)
            wait_for(lambda: boxes_on(tab), lambda boxes: len(boxes) == 10)
            assert [t["meta"] for t in traces(tab, "loss-chart")] == ["going_on/0123456789ab-seed0"]
            assert tab.locator("th[aria-sort]").inner_text().startswith("Seed")
            assert (tab.input_value("#filter-text"), tab.input_value("#x-axis")) == ("s0", "step")
            assert (tab.input_value("#stage"), tab.input_value("#threshold")) == ("1", "0.5")
            assert tab.is_checked("#truth")
            assert "Live" in tab.locator("#live").inner_text()
            tab.close()  # before the server, whose absence is an error that the browser reports

    def test_two_hundred_runs(self, tmp_path: Path, browse: Any) -> None:
        contents = [view_content(i, 6, 100, size=(640, 480)) for i in range(1, 9)]
        first = None
        for index in range(200):
            path = make_logged_run(
                tmp_path / "runs", f"row_{index // 5:02}", index % 5, f"{index // 5:012x}", ap=0.2 + index / 500,
                num_events=400, num_steps=4000, classes=[f"class number {c}" for c in range(80)],
                config=small_config(num_stages=3 + index % 4, dropout=index % 3 / 10, seed=index % 5),
            )  # fmt: skip
            if first is None:
                add_views(path, contents)
                first = path / "views"
            else:
                shutil.copytree(first, path / "views", copy_function=os.link)
        out = tmp_path / "page.html"
        dashboard.run(arguments("--runs", str(tmp_path / "runs"), "--out", str(out)))
        size = out.stat().st_size
        tab = browse(out.as_uri())
        shown = tab.evaluate("({ ...document.body.dataset })")
        print(f"\n200 runs: {size / 1e6:.1f} MB; opened in ms: {shown}")
        assert size <= 25e6
        assert tab.locator("#table tbody tr").count() == 200
        assert len(data_in(out.read_bytes(), "views")["runs"]["row_00/000000000000-seed0"]) >= 6
        assert len(boxes_on(tab)) > 0
        tab.click("#pick-shown")
        assert len(traces(tab, "loss-chart")) == 200
        assert len(traces(tab, "class-chart")) == 24
        assert "176 more" in tab.locator("#class-title").inner_text()


LINES = ("loss-chart", "ap-chart", "stage-chart", "pr-chart")
CHARTS = (*LINES, "class-chart")


def rows_of(tab: Any) -> list[list[str]]:
    """The values of the table of differing keys."""
    rows = tab.locator("#diff tbody tr")
    return [rows.nth(index).locator("td").all_inner_texts() for index in range(rows.count())]


def point_at(tab: Any, proposal: int) -> None:
    """Move the mouse to the middle of a box, as far as it lies in the picture."""
    rect = tab.locator(f'#panel-0 rect.box[data-proposal="{proposal}"]')
    rect.scroll_into_view_if_needed()
    box = rect.bounding_box()
    tab.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
