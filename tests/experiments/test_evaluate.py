"""python -m experiments.evaluate."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from experiments import evaluate as command
from sparse_rcnn.errors import CheckpointError, DataError, UserError
from sparse_rcnn.evaluation import evaluate_detections
from sparse_rcnn.weights import save_detector
from tests.support.coco_numbers import cats_and_dogs
from tests.support.detectors import NUM_PROPOSALS, NUM_STAGES, small_card, small_detector
from tests.support.paths import ROOT

CATEGORIES = small_card().categories


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    content = cats_and_dogs(5)
    rng = np.random.default_rng(0)
    for image in content["images"]:
        pixels = rng.integers(0, 256, (image["height"], image["width"], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / image["file_name"])
    (folder / "instances.json").write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="module")
def weights(data: Path) -> Path:
    model = small_detector(card=small_card()).eval()
    save_detector(model, model.card, data / "m.safetensors")
    return data / "m.safetensors"


def run(weights: Path, data: Path | None, *options: Any) -> None:
    where = [] if data is None else ["--annotations", data / "instances.json", "--images", data]
    command.main([str(item) for item in (weights, *where, "--num-workers", 0, *options)])


def make_run(data: Path, weights: Path, path: Path) -> Path:
    """What the command reads of a run directory."""
    path.mkdir()
    config = {
        "data": {
            "generator": None,
            "num_workers": 0,
            "drop_degenerate_boxes": True,
            "val": {"annotations": str(data / "instances.json"), "images": str(data), "max_images": 4},
        },
        "eval": {"batch_size": 3},
        "train": {"precision": "fp32", "channels_last": False},
    }
    meta = {"schema_version": 1, "run_id": "x-seed0", "identity": "x", "seed": 0, "experiment": "x"}
    (path / "config.json").write_text(json.dumps(config))
    (path / "meta.json").write_text(json.dumps({**meta, "data": {"val": {"fingerprint": "of another file"}}}))
    (path / "model.safetensors").write_bytes(weights.read_bytes())
    return path


def test_weights_on_a_data_set(weights: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "out"
    run(weights, data, "--out", out, "--all-stages", "--per-class", "--max-dets-300", "--batch-size", 2)
    printed = capsys.readouterr().out
    for text in (
        "stage 0",
        "detector",
        "maxDets 300",
        "AR100/AR300",
        "cat",
        "dog",
        "5 images in",
        "images/s",
    ):
        assert text in printed

    assert sorted(path.name for path in out.iterdir()) == ["detections.json", "metrics.json"]
    detections = json.loads((out / "detections.json").read_text())
    assert 0 < len(detections) <= 5 * NUM_PROPOSALS
    metrics = json.loads((out / "metrics.json").read_text())
    expected = evaluate_detections(data / "instances.json", detections, "pycocotools")
    for name, value in expected.summary.items():
        assert metrics["metrics"][f"test/bbox/{name}"] == value
        assert metrics["metrics"][f"test/stage_{NUM_STAGES - 1}/{name}"] == value
    assert len(metrics["metrics"]) == 12 * (2 + NUM_STAGES)
    assert metrics["per_class"]["dog"]["AP"] == expected.per_class["dog"]
    assert (metrics["num_images"], metrics["backend"], metrics["split"]) == (5, "pycocotools", "test")


def test_deep_pictures_are_read_in_the_range_of_the_weights_or_of_the_option(tmp_path: Path) -> None:
    content = cats_and_dogs(2)
    for image in content["images"]:
        ramp = np.linspace(0, 4095, image["height"] * image["width"]).reshape(image["height"], image["width"])
        Image.fromarray(ramp.astype(np.uint16)).save(tmp_path / Path(image["file_name"]).with_suffix(".png"))
        image["file_name"] = str(Path(image["file_name"]).with_suffix(".png"))
    (tmp_path / "instances.json").write_text(json.dumps(content))
    for pixel_range, options in (("uint12", []), ("auto", ["--pixel-range", "uint12"]), ("auto", [])):
        card = replace(small_card(), pixel_range=pixel_range)
        save_detector(small_detector(card=card).eval(), card, tmp_path / "m.safetensors")
        if pixel_range == "auto" and not options:
            with pytest.raises(
                DataError, match=r"\(image id .* which value is white cannot be known; give pixel_range"
            ):
                run(tmp_path / "m.safetensors", tmp_path)
        else:
            run(tmp_path / "m.safetensors", tmp_path, "--out", tmp_path / pixel_range, *options)
    results = [(tmp_path / name / "detections.json").read_text() for name in ("uint12", "auto")]
    assert results[0] == results[1] != "[\n\n]\n"
    with pytest.raises(DataError, match="give a larger max_megapixels"):
        run(tmp_path / "m.safetensors", tmp_path, "--max-megapixels", "0.0001")


def test_the_detector_alone_and_the_fast_backend_give_the_same_numbers(
    weights: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(weights, data, "--out", tmp_path / "a", "--all-stages")
    run(weights, data, "--out", tmp_path / "b", "--backend", "hotcoco")
    printed = capsys.readouterr().out
    assert printed.count("stage 0") == 1
    assert "maxDets 300" not in printed  # there are 6 proposals
    a, b = (json.loads((tmp_path / name / "metrics.json").read_text())["metrics"] for name in "ab")
    assert len(b) == 24
    assert b == pytest.approx({name: a[name] for name in b}, abs=1e-12)
    assert (tmp_path / "a/detections.json").read_text() == (tmp_path / "b/detections.json").read_text()


def test_a_run_is_evaluated_on_its_own_images(
    weights: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = make_run(data, weights, tmp_path / "run")
    run(path, None, "--out", tmp_path / "out")
    output = capsys.readouterr()
    assert "4 images in" in output.out  # as its configuration says
    assert "has changed since the training" in output.err
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["split"] == "val"
    assert "val/bbox/AP" in metrics["metrics"]

    run(path, None, "--max-images", 2)
    assert "2 images in" in capsys.readouterr().out
    run(path, data)
    assert "5 images in" in capsys.readouterr().out


def test_classes_of_another_data_set_are_refused(data: Path, weights: Path, tmp_path: Path) -> None:
    content = json.loads((data / "instances.json").read_text())
    content["categories"] = [{"id": 3, "name": "cat"}, {"id": 7, "name": "wolf"}]
    (tmp_path / "wolves.json").write_text(json.dumps(content))
    with pytest.raises(
        UserError,
        match=r"wolves.json and .* 'wolf' of the first is not in the second \(which has 'dog' in their place\)",
    ):
        command.main([str(weights), "--annotations", str(tmp_path / "wolves.json"), "--images", str(data)])


def test_mistakes_are_named_and_nothing_is_written(weights: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for arguments, message in (
        ((tmp_path / "nope", data), "nope: there is no such file or run directory"),
        ((weights, None), "not a run directory, so it has no data: give --annotations and --images"),
        ((weights, None, "--images", data), "--annotations and --images belong together"),
        ((weights, data, "--batch-size", 0), "--batch-size 0: at least 1"),
        ((weights, data, "--max-images", 0), "--max-images 0: at least 1"),
        ((weights, data, "--device", "cuda:77"), "--device: device 'cuda:77'"),
    ):
        with pytest.raises(UserError, match=message):
            run(*arguments, "--out", out)
    with pytest.raises(DataError, match=r"absent.json cannot be read"):
        run(weights, None, "--annotations", data / "absent.json", "--images", data, "--out", out)
    with pytest.raises(CheckpointError, match="is a JSON file, not the weights"):
        run(data / "instances.json", data, "--out", out)
    assert not out.exists()


def test_the_command_line_answers_in_one_line_and_without_torch(weights: Path) -> None:
    loaded = "import sys; sys.argv = ['x', '--help']\nimport experiments.{0} as c\ntry: c.main()\n"
    loaded += "except SystemExit: print('torch' in sys.modules)"
    for name in ("evaluate", "predict", "convert"):
        help_ = subprocess.run(
            [sys.executable, "-c", loaded.format(name)], cwd=ROOT, capture_output=True, text=True, check=True
        )
        assert help_.stdout.startswith(f"usage: python -m experiments.{name}")
        assert help_.stdout.endswith("False\n")
    wrong = [sys.executable, "-m", "experiments.evaluate", str(weights)]
    failed = subprocess.run(wrong, cwd=ROOT, capture_output=True, text=True, check=False)
    assert failed.returncode == 1
    assert failed.stderr.startswith(f"error: {weights} is not a run directory")
    assert failed.stderr.count("\n") == 1


@pytest.mark.slow
def test_two_processes_give_the_numbers_of_one(weights: Path, data: Path, tmp_path: Path) -> None:
    run(weights, data, "--out", tmp_path / "one", "--batch-size", 1)
    launch = f"{sys.executable} -m torch.distributed.run --standalone --nproc-per-node 2"
    options = f"--annotations {data / 'instances.json'} --images {data} --num-workers 0 --batch-size 1"
    line = f"{launch} -m experiments.evaluate {weights} {options} --device cpu --out {tmp_path / 'two'}"
    subprocess.run(line.split(), cwd=ROOT, capture_output=True, check=True, timeout=300)
    one, two = (json.loads((tmp_path / n / "metrics.json").read_text())["metrics"] for n in ("one", "two"))
    assert two == pytest.approx(one, abs=1e-9)
    counts = [len(json.loads((tmp_path / n / "detections.json").read_text())) for n in ("one", "two")]
    assert counts[0] == counts[1]


def test_a_file_that_lists_some_classes_under_other_numbers(
    data: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same numbers as on the file itself, reduced to its dogs; ids in the results are those of the file."""
    content = json.loads((data / "instances.json").read_text())
    dog = next(category for category in CATEGORIES if category["name"] == "dog")
    dogs = [record for record in content["annotations"] if record["category_id"] == dog["id"]]
    content |= {
        "categories": [{"id": "d", "name": "dog"}],
        "annotations": [{**record, "category_id": "d"} for record in dogs],
    }
    (tmp_path / "dogs.json").write_text(json.dumps(content))
    where = ["--annotations", str(tmp_path / "dogs.json"), "--images", str(data), "--num-workers", "0"]
    command.main([str(weights), *where, "--out", str(tmp_path / "out"), "--max-dets", "500"])
    assert "maxDets 500" in capsys.readouterr().out
    results = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert "d" in {record["category_id"] for record in results}
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    expected = evaluate_detections(
        tmp_path / "dogs.json", [r for r in results if r["category_id"] == "d"], "pycocotools"
    )
    assert metrics["metrics"]["test/bbox/AP"] == pytest.approx(expected.summary["AP"], abs=1e-9)
    assert metrics["per_class"]["dog"]["AP"] == pytest.approx(expected.per_class["dog"], abs=1e-9)
    assert metrics["per_class"]["cat"]["AP"] is None


def test_nothing_to_score_names_the_command_that_scores_nothing(data: Path, weights: Path, tmp_path: Path) -> None:
    content = json.loads((data / "instances.json").read_text())
    del content["annotations"]
    (tmp_path / "image_info.json").write_text(json.dumps(content))
    where = ["--annotations", str(tmp_path / "image_info.json"), "--images", str(data)]
    with pytest.raises(
        DataError, match=r"no annotations: there is nothing to score; python -m experiments.predict PATH"
    ):
        command.main([str(weights), *where])
