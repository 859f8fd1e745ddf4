"""Weights & Biases: what a run's own files hold, and what the writer says to it."""

from __future__ import annotations

import json
import math
import threading

import pytest
import wandb
import yaml

from experiments.config.build import build_writers, dry_build
from experiments.config.targets import ConfigError
from experiments.config.validation import validate
from experiments.tracking.wandb_history import history, wandb_files
from experiments.tracking.wandb_writer import WandbWriter, has_key, layers
from sparse_rcnn.rundir.reader import Run
from tests.support import training
from tests.support.wandb_files import WANDB, records, rows_of, settle


def test_every_number_of_the_run_is_in_its_file(run):
    rows = rows_of(run)
    logged = {("train" if row["_step"] % 2 == 0 else "eval", row["progress/step"]): row for row in rows}
    events = Run(run).events()
    assert len(rows) == len(logged) == len(events) == 8  # six steps, two evaluations
    for event in events:
        row = logged[event["event"], event["step"]]
        assert row["_step"] == 2 * event["step"] + (event["event"] == "eval")
        assert row["progress/epoch"] == pytest.approx(event["epoch"], abs=1e-6)
        for key, value in event["metrics"].items():
            assert row[key] == pytest.approx(value, rel=1e-12), key


def test_pictures_have_a_layer_for_each_stage_and_the_proposals(run):
    (path,) = wandb_files(run / "wandb", run.name)
    row = [row for row in rows_of(run) if row["_step"] % 2][-1]
    folder = path.parent / "files"
    views = [json.loads(p.read_text()) for p in sorted((run / "views").glob("*.json"))]
    assert row["val/views/count"] == len(views) == 2
    for view, files in zip(views, row["val/views/all_boxes"], strict=True):
        assert set(files) == {"ground_truth", "proposals", "stage_0", "stage_1"}
        boxes = {name: json.loads((folder / file["path"]).read_text())["box_data"] for name, file in files.items()}
        assert len(boxes["ground_truth"]) == len(view["ground_truth"]["labels"])
        assert {box["box_caption"] for box in boxes["proposals"]} == {"proposal"}
        for s, stage in enumerate(view["stages"]):
            scores = [box["scores"]["score"] for box in boxes[f"stage_{s}"]]
            assert scores == pytest.approx(sorted(stage["scores"], reverse=True), abs=5.1e-5)
    media = folder / "media"
    (table,) = [json.loads(p.read_text()) for p in media.rglob("*.table.json") if "per_class_13_" in p.name]
    assert table["columns"] == ["class", "AP", "AP50"]
    assert [row[0] for row in table["data"]] == views[0]["class_names"]


def test_what_tables_of_runs_show(run):
    (path,) = wandb_files(run / "wandb", run.name)
    (record,) = records(path, "run")
    assert (record.run_id, record.project, record.job_type) == (run.name, "sparse-rcnn", "train")
    assert record.display_name == "baseline-seed0"
    assert {"baseline", "mini", "shapes"} <= set(record.tags)
    config = {item.key: json.loads(item.value_json) for item in record.config.update}
    own = json.loads((run / "config.json").read_text())
    assert {key: config[key] for key in own if key != "log"} == {key: own[key] for key in own if key != "log"}
    summary = {}
    for item in (item for part in records(path, "summary") for item in part.update):
        summary[item.key or "/".join(item.nested_key)] = json.loads(item.value_json)
    results = Run(run).results
    assert results is not None
    assert len(results) > 40
    for key, value in results.items():
        assert summary[key] == pytest.approx(value, rel=1e-9), key
    meta, status = (json.loads((run / f"{name}.json").read_text()) for name in ("meta", "status"))
    assert status["state"] == "finished"
    copy = {"meta": meta, "status": status, "results": results, "experiments": ["baseline", "stages_3"]}
    for key, value in copy.items():
        assert summary[f"run_directory/{key}"] == value  # to the last digit: `analysis tables --wandb` reads it
    assert {"model/size/num_parameters", "model/cost/forward_gflops", "train/time/seconds", "val/stage_0/AP"} <= set(
        results
    )
    (end,) = records(path, "exit")
    assert end.exit_code == 0


def test_a_finished_run_is_written_to_the_run_that_an_agent_of_a_sweep_has_opened(run, monkeypatch):
    again = training.overrides(run.parent.parent, *WANDB, "eval.every_epochs=1")
    wandb.teardown()  # it reads the environment once
    assert training.train(again) == run
    assert len(list((run / "wandb").glob("*run-*"))) == 1  # started by nobody's agent it stays as it is
    for name, value in {"SWEEP_ID": "sweep", "RUN_ID": "of_the_agent", "PROJECT": "theirs"}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    assert training.train(again) == run
    (path,) = wandb_files(run / "wandb", "of_the_agent")
    settle(path)
    (record,) = records(path, "run")
    assert (record.run_id, record.sweep_id, record.project) == ("of_the_agent", "sweep", "theirs")
    (own,) = wandb_files(run / "wandb", run.name)
    assert [row["_step"] for row in history(path)] == [row["_step"] for row in history(own)]
    summary = {item.key or "/".join(item.nested_key): item for part in records(path, "summary") for item in part.update}
    assert (
        json.loads(summary["val/bbox/AP"].value_json) == json.loads((run / "results.json").read_text())["val/bbox/AP"]
    )
    (end,) = records(path, "exit")
    assert end.exit_code == 0
    monkeypatch.undo()
    wandb.teardown()


def test_auto_is_online_where_there_is_a_key(monkeypatch, tmp_path):
    netrc = tmp_path / "netrc"
    monkeypatch.setenv("NETRC", str(netrc))
    assert not has_key()
    netrc.write_text("machine elsewhere.example login user password x\n")
    assert not has_key()
    monkeypatch.setenv("WANDB_BASE_URL", "https://elsewhere.example:8080")
    assert has_key()
    netrc.write_text("what is this")
    assert not has_key()
    monkeypatch.setenv("WANDB_API_KEY", "x")
    assert has_key()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("log.writers.wandb.mode=on", r"log\.writers\.wandb: mode must be one of auto, online, offline, got 'on'"),
        ("log.writers.wandb.max_boxes=0", r"log\.writers\.wandb: max_boxes and timeout must be positive"),
        ("log.writers.wandb.projct=x", "projct"),
        ("+log.writers.wandb.run_id=x", r"log\.writers\.wandb\.run_id: is passed to .* by the program; remove it"),
    ],
)
def test_mistakes_are_found_before_anything_starts(tmp_path, override, message):
    with pytest.raises(Exception, match=message) as error:
        training.train(training.overrides(tmp_path / "runs", "log=wandb", override))
    assert isinstance(error.value, ConfigError) or "projct" in override
    assert not (tmp_path / "runs").exists()


def test_wandb_is_the_default_and_building_it_starts_nothing(tmp_path):
    threads = threading.enumerate()
    cfg = training.composed([o for o in training.overrides(tmp_path) if not o.startswith("log")])
    config = validate(cfg)
    assert config["log"]["writers"]["wandb"]["mode"] == "auto"
    dry_build(config)
    assert build_writers(config, tmp_path, "x")
    assert threading.enumerate() == threads
    assert list(tmp_path.iterdir()) == []
    plain = yaml.safe_load((training.ROOT / "conf/log/none.yaml").read_text())
    assert plain["writers"] == {}


def test_layers_keep_the_surest_boxes(run):
    from experiments.run.views import view_images
    from sparse_rcnn import SparseRCNN
    from sparse_rcnn.data.coco import CocoDetection

    data = training.data_root()
    dataset = CocoDetection(data / "instances_val.json", data / "val", lambda *s: s, False, 0)
    (view,) = view_images(SparseRCNN.from_pretrained(run), dataset, 1, step=0)
    found = layers(view, max_boxes=2)
    assert list(found) == ["ground_truth", "proposals", "stage_0", "stage_1"]
    assert len(found["proposals"]["box_data"]) == 6
    best = sorted(view.scores[1].tolist(), reverse=True)[:2]
    assert [box["scores"]["score"] for box in found["stage_1"]["box_data"]] == best
    box, own = found["stage_1"]["box_data"][0], view.boxes_xyxy_abs[1, view.scores[1].argmax()]
    position = [box["position"][key] for key in ("minX", "minY", "maxX", "maxY")]
    assert position == own.tolist()
    assert all(math.isfinite(v) for v in position)
    assert len(found["ground_truth"]["box_data"]) == len(dataset.ground_truth(0)[0])


def test_a_slow_run_is_told_to_the_writer_in_order(tmp_path, monkeypatch):
    """What an earlier session left behind is not written again; the rest is, once."""

    rows = []

    class Run:
        starting_step = 9  # the server has rows up to position 8

        def define_metric(self, *args, **kwargs):
            pass

        def log(self, row, step, commit):
            rows.append((step, row["progress/step"]))

        def finish(self, exit_code):
            rows.append(("exit", exit_code))

        class settings:
            mode = "online"

        url = "http://server/run"

    import wandb

    given = {}
    monkeypatch.setattr(wandb, "init", lambda **kwargs: given.update(kwargs) or Run())
    config = {"experiment_name": "a" * 80, "recipe_name": "mini", "data": {"name": "shapes"}, "seed": 3}
    writer = WandbWriter("p", None, "online", "mine", 5, 5.0, {}, tmp_path, "abc-seed3", config)
    writer.started()
    for step in (3, 4, 5, 6):
        writer.log("train", step, step / 10, {"train/loss/total": 1.0})
    writer.close()
    assert rows == [(10, 5), (12, 6), ("exit", 1)]
    assert given["id"] == "abc-seed3"
    assert given["resume"] == "allow"
    assert given["group"] == "mine"
    assert given["tags"] == ["mini", "shapes"]  # W&B refuses tags of more than 64 characters
