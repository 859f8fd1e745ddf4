"""The option ``--device`` of the commands."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sparse_rcnn.errors import UserError

if TYPE_CHECKING:
    from sparse_rcnn.distributed import World


def init_option_world(device_name: str) -> World:
    """``init_world``, whose errors name a key of the training's configuration, for ``--device``."""
    from sparse_rcnn.distributed import init_world

    try:
        return init_world(device_name)
    except UserError as error:
        raise UserError(str(error).replace("train.device=", "--device ")) from error
