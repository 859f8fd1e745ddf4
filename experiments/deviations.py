"""What a run's configuration has that its experiment and recipe by themselves would not give."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from experiments.cli import CONF_DIR, hydra_version

if TYPE_CHECKING:
    from omegaconf import DictConfig

STAND_IN = "/not-given"  # for what only the user knows of data; nothing is read


def deviations(config: dict[str, Any]) -> list[str]:
    """What overrides changed (`num_stages: 6 -> 1`), of all that changes a run's result; empty for a plain run.

    Such a run has the name of an experiment and is not that experiment. Where the name has no file in
    ``conf/experiment`` there is nothing to compare with, and the result is empty too.
    """
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from experiments.build import INJECTED
    from experiments.config import validate
    from experiments.differences import compact
    from experiments.identity import EXCLUDE, explain_difference, identity_config
    from sparse_rcnn.errors import UserError

    try:
        cfg = _compose([f"recipe={config['recipe_name']}", f"experiment={config['experiment_name']}"])
        fill_missing(cfg.data)
        plain = validate(cfg, INJECTED)
    except (HydraException, OmegaConfBaseException, UserError):
        return []
    # Which data an identity tells by content; here its name and its generator's settings say it.
    excluded = [pattern for pattern in EXCLUDE if pattern not in ("data.name", "data.generator")]
    lines = explain_difference(identity_config(plain, excluded), identity_config(config, excluded))
    return compact([line for line in lines if f'"{STAND_IN}" -> ' not in line])


def fill_missing(node: DictConfig) -> None:
    """Put the stand-in where a configuration of data has no value yet."""
    from omegaconf import OmegaConf

    for key in node:
        if OmegaConf.is_missing(node, key):
            node[key] = STAND_IN
        elif not OmegaConf.is_interpolation(node, key) and OmegaConf.is_dict(node[key]):
            fill_missing(node[key])


def _compose(overrides: list[str]) -> DictConfig:
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    if GlobalHydra.instance().is_initialized():  # a running command, with the configuration folders that it was given
        return compose("train", overrides=overrides)
    options = {"version_base": "1.3"} if hydra_version() < (1, 4) else {}
    with initialize_config_dir(str(CONF_DIR), **options):
        return compose("train", overrides=overrides)
