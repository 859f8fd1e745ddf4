"""Configurations composed from conf/ as the commands compose them."""

from __future__ import annotations

import re
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from experiments.cli.hydra_entry import version_base
from experiments.config import schema
from experiments.config.targets import ConfigError
from experiments.config.validation import validate
from tests.support.paths import ROOT

CONF = ROOT / "conf"


def compose_run(*overrides: str) -> DictConfig:
    """conf/train.yaml with overrides, and Hydra's own node."""
    schema.register()
    with initialize_config_dir(str(CONF), **version_base()):
        return compose("train", overrides=list(overrides), return_hydra_config=True)


def checked(*overrides: str) -> dict[str, Any]:
    """The validated configuration of a run; what only the user can know (paths of data) gets a stand-in."""
    cfg = compose_run(*overrides)
    OmegaConf.set_struct(cfg, False)
    del cfg["hydra"]
    try:
        return validate(cfg)
    except ConfigError as error:
        missing = re.match(r"(data\.\S+): has no value", str(error))
        if missing is None:
            raise
        return checked(*overrides, f"{missing[1]}=/nowhere")
