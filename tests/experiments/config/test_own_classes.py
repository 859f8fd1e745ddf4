"""A user's own class: found by `_target_`, trusted in a configuration and not in a file."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from experiments import convert, evaluate, predict
from experiments.config.build import build
from experiments.run.embedded_data import ensure_data
from sparse_rcnn.errors import CheckpointError, UserError
from sparse_rcnn.weights import save_detector
from tests.support.detectors import small_card, small_detector

MODULE = "my_layouts"
SOURCE = '''
import torch

class CornerInit:
    """Every box lies in the upper left corner."""

    def __init__(self, size: float) -> None:
        self.size = size

    def __call__(self, num_proposals: int) -> torch.Tensor:
        return torch.tensor([self.size / 2, self.size / 2, self.size, self.size]).repeat(num_proposals, 1)

class Generator:
    def ensure(self, root) -> None:
        root.mkdir()
'''


@pytest.fixture(autouse=True)
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A module of the user's in a folder that Python searches."""
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / f"{MODULE}.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path / "own")
    yield
    sys.modules.pop(MODULE, None)


def own_architecture() -> dict[str, Any]:
    architecture = small_card().architecture
    architecture["proposals"]["init"] = {"_target_": f"{MODULE}.CornerInit", "size": 0.5}
    return architecture


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A weights file whose card names the user's class."""
    card = small_card()
    save_detector(
        small_detector(card=card), replace(card, architecture=own_architecture()), tmp_path / "own.safetensors"
    )
    return tmp_path / "own.safetensors"


def test_a_configuration_may_name_it_and_no_version_of_hydra_warns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYDRA_DEPRECATION_WARNINGS_AS_ERRORS", "1")  # read by 1.4
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = build({"model": own_architecture()}, "model")
    assert torch.equal(model.proposals.boxes_cxcywh_norm[0], torch.tensor([0.25, 0.25, 0.5, 0.5]))


@pytest.mark.parametrize(
    ("command", "arguments", "later"),
    [
        (evaluate, ("--annotations", "absent.json", "--images", "."), "absent.json"),
        (predict, ("no_picture.png", "--out", "out"), "none of the 1 images"),
        (convert, ("released.pth",), "the released layout has no name"),
    ],
)
def test_a_file_may_name_it_where_the_command_line_trusts_it(
    command: ModuleType, arguments: tuple[str, ...], later: str, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(weights.parent)
    Path("no_picture.png").touch()
    refused = f"^model.proposals.init: class {MODULE}.CornerInit is not part of .* {MODULE!r} in .*; .*--trust MODULE$"
    with pytest.raises(CheckpointError, match=refused):
        command.main([str(weights), *arguments])
    for name in (MODULE, f"{MODULE}.CornerInit"):  # the class, where its module would do
        with pytest.raises(UserError, match=later):  # it is built, and what comes after that fails
            command.main([str(weights), *arguments, "--trust", name])


def test_a_trusted_module_that_is_not_found_is_named(weights: Path, tmp_path: Path) -> None:
    (tmp_path / "own" / f"{MODULE}.py").unlink()
    with pytest.raises(CheckpointError, match=f"does not exist in this version: No module named '{MODULE}'"):
        predict.main([str(weights), str(weights), "--out", str(tmp_path / "out"), "--trust", MODULE])


def test_the_generator_of_a_run_directory_is_a_file_s_too(tmp_path: Path) -> None:
    data = {"name": "mine", "root": str(tmp_path / "data"), "generator": {"_target_": f"{MODULE}.Generator"}}
    with pytest.raises(CheckpointError, match=f"^data.generator: class {MODULE}.Generator is not part of sparse_rcnn"):
        ensure_data({"data": data}, ("sparse_rcnn",))
    assert not (tmp_path / "data").exists()
    ensure_data({"data": data}, ("sparse_rcnn", MODULE))
    assert (tmp_path / "data").is_dir()
    ensure_data({"data": {**data, "root": str(tmp_path / "other")}})  # a configuration's is the user's own
    assert (tmp_path / "other").is_dir()
