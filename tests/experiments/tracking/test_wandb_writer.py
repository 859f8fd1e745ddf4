"""Weights & Biases: what a run's own files hold, over kills and resumes; and a server that is not there."""

from __future__ import annotations

import json
import math
import os
import signal
import socket
import threading
import time
from pathlib import Path

import pytest
import yaml

from experiments.config.build import dry_build
from experiments.config.targets import ConfigError
from experiments.config.validation import validate
from experiments.tracking.wandb_history import history, last_position, wandb_files
from experiments.tracking.wandb_writer import WandbWriter, has_key, layers
from sparse_rcnn.rundir.reader import Run
from tests.support import training
from tests.support.wandb_stand_in import StandIn

WANDB = ("log=wandb", "log.writers.wandb.mode=offline", "+log.writers.wandb.settings.x_disable_stats=true")


@pytest.fixture(autouse=True)
def no_key(monkeypatch, tmp_path_factory):
    """Whoever runs the tests may be logged in; nothing of it may leave this machine."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NETRC", str(tmp_path_factory.mktemp("home") / "netrc"))
    monkeypatch.setenv("WANDB_MODE", "offline")


def records(path: Path, kind: str) -> list:
    """The records of one kind in a .wandb file."""
    from wandb.proto import wandb_internal_pb2

    from experiments.tracking import wandb_history

    found = []
    for content in wandb_history._records(path.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(content)
        if record.WhichOneof("record_type") == kind:
            found.append(getattr(record, kind))
    return found


def settle(path: Path) -> None:
    """Wait for the end of a file: W&B's process may write it a moment after ``finish`` has returned."""
    deadline = time.monotonic() + 20
    while not records(path, "exit"):
        assert time.monotonic() < deadline, f"{path} does not come to its end"
        time.sleep(0.02)


def rows_of(run: Path) -> list[dict]:
    return [row for path in wandb_files(run / "wandb", run.name) for row in history(path)]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setenv("WANDB_MODE", "offline")
    path = training.train(training.overrides(tmp_path_factory.mktemp("wandb"), *WANDB, "eval.every_epochs=1"))
    patch.undo()
    settle(wandb_files(path / "wandb", path.name)[0])
    return path


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
    results = json.loads((run / "results.json").read_text())
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


@pytest.mark.slow
def test_two_sweeps_one_of_their_runs_killed(tmp_path):
    """The right groups and ids, no step twice, and none missing, over a kill, a stop and a resume."""
    finished = tmp_path / "runs"
    base = ["eval.every_epochs=1", *WANDB]
    sweeps = {
        "num_stages": ["experiment=baseline,proposal_init_center", "seed=0"],
        "initialization": ["experiment=proposal_init_grid", "seed=0,1"],
    }
    for name, rows in sweeps.items():
        common = training.overrides(finished, *base, f"sweep={name}", "hydra/launcher=basic")
        process = training.start(["-m", *common, *rows], WANDB_MODE="offline")
        code, _, err = training.finish(process, timeout=300)
        assert code == 0, err
    groups = {}
    for path in finished.glob("*/*/wandb/*/*.wandb"):
        (record,) = records(path, "run")
        groups[record.display_name] = record.run_group
        assert record.run_id == path.parents[2].name
    assert groups == {
        "baseline-seed0": "num_stages",
        "proposal_init_center-seed0": "num_stages",
        "proposal_init_grid-seed0": "initialization",
        "proposal_init_grid-seed1": "initialization",
    }

    # One more, killed in the middle without a word, then stopped by a signal, then finished.
    arguments = training.overrides(finished, *base, "seed=7", "schedule.length=120", "train.checkpoint_every=20")
    driver = training.slow_driver(tmp_path, 0.05)
    killed = training.start(arguments, driver, WANDB_MODE="offline")
    path = _wait_for_step(finished, 50)
    killed.send_signal(signal.SIGKILL)
    training.finish(killed)
    stopped = training.start(arguments, driver, WANDB_MODE="offline")
    _wait_for_step(finished, 90)
    stopped.send_signal(signal.SIGTERM)
    assert training.finish(stopped)[0] == 128 + signal.SIGTERM
    code, _, err = training.finish(training.start(arguments, WANDB_MODE="offline"))
    assert code == 0, err

    files = wandb_files(path / "wandb", path.name)
    assert len(files) == 3
    assert [end.exit_code for file in files[1:] for end in records(file, "exit")] == [1, 0]
    steps = [row["_step"] for row in rows_of(path)]
    assert steps == sorted(set(steps))  # each position once, and the axis goes on where it was
    expected = [2 * event["step"] + (event["event"] == "eval") for event in Run(path).events()]
    assert steps == sorted(expected)


def _wait_for_step(root: Path, step: int) -> Path:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        for status in root.glob("*/*-seed7/status.json"):
            events = Run(status.parent).events("train")
            if events and events[-1]["step"] >= step:
                return status.parent
        time.sleep(0.05)
    raise AssertionError("the run does not get there")


@pytest.mark.slow
def test_online_a_killed_run_goes_on_in_the_same_run(tmp_path):
    """Against a stand-in of the server: one run, every row once, the axis going on after the kill."""
    with StandIn() as server:
        key = {"WANDB_MODE": "online", "WANDB_API_KEY": "0" * 40, "WANDB_BASE_URL": server.url}
        arguments = training.overrides(
            tmp_path, "log=wandb", "seed=7", "schedule.length=600", "train.checkpoint_every=50", "eval.every_epochs=25",
            "+log.writers.wandb.settings.x_file_stream_transmit_interval=0.2",
        )  # fmt: skip
        killed = training.start(arguments, training.slow_driver(tmp_path, 0.1), **key)
        path = _wait_for_step(tmp_path, 50)
        deadline = time.monotonic() + 60
        while "run_directory/status" not in server.run(path.name)["summary"]:
            assert time.monotonic() < deadline, "W&B is told nothing"
            time.sleep(0.05)
        killed.send_signal(signal.SIGKILL)
        training.finish(killed)
        assert 50 <= Run(path).events("train")[-1]["step"] < 600
        assert server.run(path.name)["summary"]["run_directory/status"]["state"] == "running"
        code, _, err = training.finish(training.start(arguments, **key))
        assert code == 0, err
        assert "goes on without it" not in err
        assert list(server.runs) == [path.name]
        run = server.runs[path.name]
    assert {upsert["groupName"] for upsert in run["upserts"]} <= {None}
    assert run["summary"]["run_directory/status"] == json.loads((path / "status.json").read_text())
    assert run["upserts"][0]["jobType"] == "train"
    steps = [row["_step"] for row in run["history"]]
    assert steps == sorted(set(steps))
    expected = {2 * event["step"] + (event["event"] == "eval") for event in Run(path).events()}
    assert set(steps) == expected  # what the killed process had not sent, the next one sends
    assert len(wandb_files(path / "wandb", path.name)) == 2


def test_a_file_cut_anywhere_gives_the_rows_before_the_cut(run, tmp_path):
    (path,) = wandb_files(run / "wandb", run.name)
    whole, data = history(path), path.read_bytes()
    last = 0
    for length in range(7, len(data), 997):
        (tmp_path / "cut.wandb").write_bytes(data[:length])
        rows = history(tmp_path / "cut.wandb")
        assert rows == whole[: len(rows)]
        assert len(rows) >= last
        last = len(rows)
    assert last_position(tmp_path / "absent", "x") == -1


def test_records_that_span_blocks_are_put_together(run, tmp_path, monkeypatch):
    """A row larger than W&B's 32 KiB blocks."""
    import wandb

    with wandb.init(project="p", id="big", dir=str(tmp_path), mode="offline", settings={"silent": True}) as wandb_run:
        for step in range(4):
            wandb_run.log({f"key_{i:05d}": step + i for i in range(3000)}, step=step)
    (path,) = wandb_files(tmp_path / "wandb", "big")
    settle(path)
    rows = history(path)
    assert [row["_step"] for row in rows] == [0, 1, 2, 3]
    assert all(rows[step][f"key_{i:05d}"] == step + i for step in range(4) for i in (0, 1234, 2999))


def test_a_server_that_is_down_costs_one_warning(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    run = _online(tmp_path, address)
    assert training.status(run)["state"] == "finished"


def test_a_server_that_never_answers_holds_nothing_up(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = []

        def take() -> None:
            while True:
                try:
                    taken.append(server.accept()[0])  # and never says a word
                except OSError:
                    return

        threading.Thread(target=take, daemon=True).start()
        run = _online(tmp_path, f"http://127.0.0.1:{server.getsockname()[1]}")
        for connection in taken:
            connection.close()
    assert taken
    assert training.status(run)["state"] == "finished"


def _online(tmp_path: Path, address: str) -> Path:
    """A training in a process of its own: it has to come to its end as well, and not wait for W&B there."""
    arguments = ("log=wandb", "log.writers.wandb.timeout=4", "+log.writers.wandb.settings.init_timeout=2")
    key = {"WANDB_MODE": "online", "WANDB_API_KEY": "0" * 40, "WANDB_BASE_URL": address}
    code, _, err = training.finish(training.start(training.overrides(tmp_path, *arguments), **key), timeout=90)
    assert code == 0, err
    assert err.count("the training goes on without it") == 1, err
    assert "Traceback" not in err
    return training.only_run(tmp_path)


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


def test_wandb_is_the_default_and_building_it_starts_nothing(tmp_path, monkeypatch):

    monkeypatch.setattr("experiments.tracking.wandb_writer.CallQueue", None)
    cfg = training.composed([o for o in training.overrides(tmp_path) if not o.startswith("log")])
    config = validate(cfg)
    assert config["log"]["writers"]["wandb"]["mode"] == "auto"
    dry_build(config)
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
