"""ImageNet weights: torchvision's layout by name or file, and every way in which that fails."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError

import pytest
import torch
from torch import Tensor
from torchvision.models import resnet18

from sparse_rcnn.backbone import ResNet, SmallNet
from sparse_rcnn.errors import CheckpointError, UserError
from sparse_rcnn.pretrained import load_backbone_weights, locate_backbone_weights, read_state_dict
from tests.support.paths import shared

NAME = "IMAGENET1K_V1"
FILE = "resnet18-f37072fd.pth"


def net(depth: int = 18, stride_in_1x1: bool = False) -> ResNet:
    return ResNet(depth=depth, stride_in_1x1=stride_in_1x1, num_frozen_stages=2)


@pytest.fixture(scope="module")
def imagenet() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return resnet18(weights=None).state_dict()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """torch's cache in a temporary folder, and no network."""

    def offline(*_: Any, **__: Any) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    return tmp_path / "hub" / "checkpoints"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("wrapped", [None, "model", "state_dict"])
def test_torchvisions_layout_loads(
    imagenet: dict[str, Tensor], tmp_path: Path, dtype: torch.dtype, wrapped: str | None
) -> None:
    state = {n: t.to(dtype) if t.is_floating_point() else t for n, t in imagenet.items()}
    torch.save(state if wrapped is None else {wrapped: state, "epoch": 3}, tmp_path / "w.pth")
    model = net()
    load_backbone_weights(model, tmp_path / "w.pth")
    loaded = model.state_dict()
    assert set(imagenet) - set(loaded) == {"fc.weight", "fc.bias"} | {n for n in imagenet if "num_batches" in n}
    for name, tensor in loaded.items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, state[name].float()), name
    frozen = [n for n, p in model.named_parameters() if not p.requires_grad]
    assert len(frozen) == 5, "loading thaws nothing"


def test_a_file_is_taken_before_a_name_and_a_cached_name_without_network(
    imagenet: dict[str, Tensor], tmp_path: Path, cache: Path
) -> None:
    torch.save(imagenet, tmp_path / "w.pth")
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


def test_the_small_network_has_no_pretrained_weights() -> None:
    small = SmallNet(widths=[16, 16, 16, 16], num_blocks=[0, 0, 0, 0])
    with pytest.raises(UserError, match=f"^weights {NAME!r}: SmallNet has no pretrained weights; give none$"):
        locate_backbone_weights(small, NAME)


def test_weights_of_another_depth_are_refused_naming_tensors(imagenet: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save(imagenet, tmp_path / "w.pth")
    model = net(34)
    before = {n: t.clone() for n, t in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"w\.pth is no resnet34: layer1\.2\.conv1\.weight is missing; .* more$"):
        load_backbone_weights(model, tmp_path / "w.pth")
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items()), "nothing half-loaded"
    changed = imagenet | {"conv1.weight": torch.zeros(64, 1, 7, 7)}
    torch.save(changed, tmp_path / "grey.pth")
    with pytest.raises(CheckpointError, match=r"conv1\.weight has shape \(64, 1, 7, 7\), not \(64, 3, 7, 7\)"):
        load_backbone_weights(net(), tmp_path / "grey.pth")


def corrupt(kind: str, path: Path, state: dict[str, Tensor]) -> None:
    torch.save({n: t for n, t in state.items() if n.startswith("layer1.0")}, path)
    data = path.read_bytes()
    contents = {
        "empty": b"",
        "truncated": data[: len(data) // 2],
        "truncated at once": data[:10],
        "text": b"<html><body>404 Not Found</body></html>\n",
        "zeros": bytes(5000),
        "random": bytes((i * i * 31 + i * 7) % 251 for i in range(4000)),
        "flipped": data[:-400] + bytes(b ^ 255 for b in data[-400:]),
        "a pickle": pickle.dumps({"model": [1, 2, 3]}, protocol=2),
        "an unsafe pickle": pickle.dumps(Path("x"), protocol=2),
        "binary pickle start": b"\x80\x02" + bytes(range(200)),
        "one letter": b"\x80",
        "memo": b"\x80\x02h\x05.",
    }
    path.write_bytes(contents[kind])


@pytest.mark.parametrize(
    "kind",
    [
        "empty", "truncated", "truncated at once", "text", "zeros", "random", "flipped", "a pickle",
        "an unsafe pickle", "binary pickle start", "one letter", "memo",
    ],
)  # fmt: skip
def test_corrupt_files_are_refused_naming_the_file(kind: str, imagenet: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    corrupt(kind, path, imagenet)
    with pytest.raises(CheckpointError) as caught:
        read_state_dict(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message


@pytest.mark.parametrize("content", [[1, 2], 3.0, {"model": {"a": 1}}, {"a": torch.zeros(1), "b": "x"}])
def test_what_is_no_state_dict_is_refused(content: Any, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=r"w\.pth holds no state dict of tensors"):
        read_state_dict(tmp_path / "w.pth")


def test_imagenet_resnet50_with_the_stride_on_the_1x1() -> None:
    path = shared("weights/resnet50_imagenet_stride_in_1x1_fp16.pth")
    model = net(50, stride_in_1x1=True)
    assert locate_backbone_weights(model, str(path)) == path
    load_backbone_weights(model, path)
    given = read_state_dict(path)
    for name in ("conv1.weight", "bn1.running_var", "layer4.2.conv3.weight", "layer2.0.downsample.1.bias"):
        assert torch.equal(model.state_dict()[name], given[name].float())
    with torch.no_grad():
        maps = model.eval()(torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
    assert all(m.isfinite().all() and 0.01 < m.mean() < 10 for m in maps), (
        "trained statistics keep activations in range"
    )
