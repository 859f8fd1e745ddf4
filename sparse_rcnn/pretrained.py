"""ImageNet weights for the backbone: torchvision's by name, or a local file."""

from __future__ import annotations

from pathlib import Path
from urllib.error import URLError

import torch
from torch import Tensor, nn
from torchvision.models import get_model_weights

from sparse_rcnn.backbone import ResNet
from sparse_rcnn.errors import CheckpointError, UserError
from sparse_rcnn.state_dicts import misfits


def locate_backbone_weights(bottom_up: nn.Module, weights: str) -> Path:
    """The file of weights that are named as torchvision does (``IMAGENET1K_V1``) or by their path.

    A named file that is not in torch's cache is downloaded.

    Raises:
        UserError: not a name and not a file, or offline; says which file to put where.
    """
    if not isinstance(bottom_up, ResNet):
        raise UserError(f"weights {weights!r}: {type(bottom_up).__name__} has no pretrained weights; give none")
    if Path(weights).is_file():
        return Path(weights)
    known = get_model_weights(f"resnet{bottom_up.depth}")
    if weights not in known.__members__:
        raise UserError(
            f"weights {weights!r} are neither a file nor one of torchvision's for resnet{bottom_up.depth}: "
            f"{', '.join(known.__members__)}"
        )
    url = known[weights].url
    file = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[1]
    if not file.is_file():
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(file), progress=True)
        except (URLError, OSError) as error:
            raise UserError(
                f"weights {weights!r} cannot be downloaded ({error}): put the file {file.name} of torchvision "
                f"into {file.parent}, or give the path of a local file"
            ) from error
    return file


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """A state dict saved by torch, unwrapped from a ``model`` or ``state_dict`` entry.

    Raises:
        CheckpointError: corrupt, or no state dict.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # on bytes that are no pickle, the unpickler fails in every way there is
        first = (str(error).splitlines() or [type(error).__name__])[0][:160]
        raise CheckpointError(f"{path} cannot be read as a PyTorch checkpoint ({first})") from error
    for key in ("model", "state_dict"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise CheckpointError(f"{path} holds no state dict of tensors")
    return state


def load_backbone_weights(bottom_up: ResNet, path: Path) -> None:
    """Load an ImageNet classifier in torchvision's layout, float16 or float32; the classifier itself is left out.

    Raises:
        CheckpointError: names the first tensors that do not fit.
    """
    state = {
        name: tensor.float()
        for name, tensor in read_state_dict(path).items()
        if not name.startswith("fc.") and not name.endswith("num_batches_tracked")
    }
    problems = misfits(bottom_up.state_dict(), state)
    if problems:
        raise CheckpointError(f"{path} is no resnet{bottom_up.depth}: {problems}")
    bottom_up.load_state_dict(state)
