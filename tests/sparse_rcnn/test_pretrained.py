"""Where ImageNet weights are: a file, or one of torchvision's by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError

import pytest
import torch

from sparse_rcnn.backbone import ResNet, SmallNet
from sparse_rcnn.errors import UserError
from sparse_rcnn.pretrained import locate_backbone_weights

NAME = "IMAGENET1K_V1"
FILE = "resnet18-f37072fd.pth"


def net() -> ResNet:
    with torch.device("meta"):
        return ResNet(depth=18, stride_in_1x1=False, num_frozen_stages=2)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """torch's cache in a temporary folder, and no network."""

    def offline(*_: Any, **__: Any) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    return tmp_path / "hub" / "checkpoints"


def test_a_file_is_taken_before_a_name_and_a_cached_name_without_network(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "w.pth").write_bytes(b"a file")
    assert locate_backbone_weights(net(), str(tmp_path / "w.pth")) == tmp_path / "w.pth"
    cache.mkdir(parents=True)
    (cache / FILE).write_bytes(b"cached")
    assert locate_backbone_weights(net(), NAME) == cache / FILE


@pytest.mark.parametrize("error", [URLError("offline"), HTTPError("u", 403, "Forbidden", None, None), OSError("disk")])  # type: ignore[arg-type]
def test_absent_weights_offline_name_the_file_and_the_folder(
    cache: Path, monkeypatch: pytest.MonkeyPatch, error: OSError
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    with pytest.raises(UserError) as caught:
        locate_backbone_weights(net(), NAME)
    message = str(caught.value)
    assert message.startswith(f"weights {NAME!r} cannot be downloaded ")
    assert f"put the file {FILE} of torchvision into {cache}, or give the path of a local file" in message
    assert "\n" not in message
    assert not cache.exists() or not list(cache.iterdir()), "nothing half-written stays"


def test_neither_a_name_nor_a_file() -> None:
    with pytest.raises(UserError, match=r"^weights 'IMAGENET' are neither a file nor .* resnet18: IMAGENET1K_V1"):
        locate_backbone_weights(net(), "IMAGENET")
    with pytest.raises(UserError, match=r"/nowhere/w.pth' are neither a file"):
        locate_backbone_weights(net(), "/nowhere/w.pth")


def test_a_folder_names_the_file_in_it(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match=r"' are a folder: give the file in it$"):
        locate_backbone_weights(net(), str(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match=r"' are a folder: give the file in it, model\.safetensors$"):
        locate_backbone_weights(net(), str(tmp_path))


def test_the_small_network_has_no_pretrained_weights() -> None:
    small = SmallNet(widths=[16, 16, 16, 16], num_blocks=[0, 0, 0, 0])
    with pytest.raises(UserError, match=f"^weights {NAME!r}: SmallNet has no pretrained weights; give none$"):
        locate_backbone_weights(small, NAME)
