"""A run's identity changes with what changes its result, and with nothing else."""

from __future__ import annotations

import copy
import os
import re
from pathlib import Path
from typing import Any

import pytest

from sparse_rcnn.errors import UserError
from sparse_rcnn.rundir.changes import flatten
from sparse_rcnn.rundir.identity import file_fingerprint, identity_config, is_excluded, run_identity

CONFIG: dict[str, Any] = {
    "seed": 0,
    "experiment_name": "baseline",
    "runs_root": "runs",
    "model": {"_target_": "x.Model", "num_stages": 6, "dropout": 0.0, "strides": [4, 8]},
    "data": {
        "root": "/a",
        "num_workers": 2,
        "num_classes": 3,
        "train": {"annotations": "a.json", "images": "i"},
    },
    "train": {
        "device": "cpu",
        "num_micro_batches": 1,
        "batch_size": 16,
        "checkpoint_every": 5,
        "log_every": 1,
    },
    "eval": {"every_epochs": 1, "backend": "hotcoco", "batch_size": 4},
    "log": {"progress": True, "writers": {}},
}
EXTRA = {"train": "abc"}


def changed(key: str, value: Any) -> dict[str, Any]:
    config = copy.deepcopy(CONFIG)
    node = config
    *parents, last = key.split(".")
    for parent in parents:
        node = node[parent]
    node[last] = value
    return config


def test_an_identity_is_twelve_hex_digits_and_does_not_change_between_versions() -> None:
    assert re.fullmatch("[0-9a-f]{12}", run_identity(CONFIG, EXTRA))
    # sha256 of {"config":{"a":1},"extra":{"f":"x"}}, computed with sha256sum
    assert run_identity({"a": 1.0, "seed": 3}, {"f": "x"}) == "049256200ee1"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seed", 1),
        ("experiment_name", "other"),
        ("runs_root", "/elsewhere"),
        ("data.root", "/b"),
        ("data.num_workers", 8),
        ("data.train.annotations", "b.json"),
        ("data.train.images", "j"),
        ("train.device", "cuda"),
        ("train.num_micro_batches", 4),
        ("train.checkpoint_every", 50),
        ("eval.backend", "pycocotools"),
        ("log", {"progress": False, "writers": {"wandb": {"project": "p"}}}),
    ],
)
def test_what_does_not_change_the_result_does_not_change_the_identity(key: str, value: Any) -> None:
    assert run_identity(changed(key, value), EXTRA) == run_identity(CONFIG, EXTRA)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model.num_stages", 3),
        ("model.dropout", None),
        ("model.dropout", False),
        ("model.strides", [8, 4]),
        ("model._target_", "x.Other"),
        ("model.log", 1),
        ("data.train.max_images", 8),
        ("train.batch_size", "16"),
    ],
)
def test_what_changes_the_result_changes_the_identity(key: str, value: Any) -> None:
    assert run_identity(changed(key, value), EXTRA) != run_identity(CONFIG, EXTRA)


def test_the_data_and_weights_are_part_of_the_identity() -> None:
    assert run_identity(CONFIG, {"train": "abd"}) != run_identity(CONFIG, EXTRA)
    assert run_identity(CONFIG, {**EXTRA, "weights": "f"}) != run_identity(CONFIG, EXTRA)


def test_order_of_keys_and_spelling_of_numbers_do_not_matter() -> None:
    reordered = dict(reversed(CONFIG.items()))
    reordered["model"] = {"strides": (4.0, 8), "dropout": 0, "num_stages": 6.0, "_target_": "x.Model"}
    assert run_identity(reordered, EXTRA) == run_identity(CONFIG, EXTRA)


def test_patterns_take_what_lies_below_and_a_star_is_one_part() -> None:
    config = {"log": {"a": {"b": 1}}, "data": {"x": {"images": 1}, "images": 2, "x2": {"y": {"images": 3}}}}
    assert identity_config(config, ("log", "data.*.images")) == {"data": {"images": 2, "x2": {"y": {"images": 3}}}}
    assert identity_config({"log": {"a": 1}, "empty": {}}, ("log.*",)) == {"empty": {}}


def test_file_fingerprint_follows_the_content_and_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b"abc")
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, appendix B.1
    assert file_fingerprint(path) == known

    def no_reading(*args: Any) -> None:
        raise AssertionError("read again")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", no_reading)
        assert file_fingerprint(path) == known
    path.write_bytes(b"abd")  # same size
    os.utime(path, ns=(1, 1))
    assert file_fingerprint(path) != known


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"absent\.json: cannot be read: No such file"):
        file_fingerprint(tmp_path / "absent.json")


def test_a_later_key_stays_out_while_it_means_as_before() -> None:
    before = identity_config({"train": {"batch_size": 16}})

    def with_key(value: Any) -> dict[str, Any]:
        config = {"train": {"batch_size": 16, "new": value}}
        return identity_config(config, values_as_before={"train.new": None})

    assert with_key(None) == before
    for value in (0, False, "", 1.0):
        assert with_key(value) == {"train": {"batch_size": 16, "new": value}}


def test_a_later_key_is_compared_as_numbers_and_lists_are() -> None:
    assert identity_config({"a": {"b": 1.0, "c": (1, 2)}}, (), {"a.b": 1, "a.c": [1.0, 2]}) == {}
    assert identity_config({"b": None, "a": {"b": None}}, (), {"b": None}) == {"a": {"b": None}}, "by its whole name"
    whole_node = {"new": {"x": 1}}
    assert identity_config({"old": 1, **whole_node}, (), whole_node) == {"old": 1}
    assert identity_config({"old": 1, "new": {"x": 2}}, (), whole_node) == {"old": 1, "new": {"x": 2}}


@pytest.mark.parametrize(
    ("key", "excluded"),
    [
        ("seed", True),
        ("log.writers.wandb.mode", True),
        ("data.train.annotations", True),
        ("data.extra.images", True),
        ("eval", True),
        ("hydra.x[0].y", True),
        ("data.generator.sizes[1]", True),
        ("data.train", False),
        ("data.train.crop", False),
        ("data.images", False),
        ("model.seed", False),
        ("train", False),
        ("train.batch_size", False),
        ("seeds", False),
        ("model.strides[0]", False),
    ],
)
def test_keys_that_stay_out_of_identities(key: str, excluded: bool) -> None:
    assert is_excluded(key) is excluded


def test_what_is_excluded_is_what_an_identity_leaves_out() -> None:
    kept = set(flatten(identity_config(CONFIG)))
    assert kept == {key for key in flatten(CONFIG) if not is_excluded(key)}
