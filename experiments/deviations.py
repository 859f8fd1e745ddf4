"""What a run's configuration has that its experiment and recipe by themselves would not give."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from experiments.cli import CONF_DIR, version_base

if TYPE_CHECKING:
    from omegaconf import DictConfig

STAND_IN = "/not-given"  # for what only the user knows of data; nothing is read


def deviations(config: dict[str, Any]) -> list[str] | None:
    """What overrides changed (`num_stages: 6 -> 1`), of all that changes a run's result; empty for a plain run.

    Such a run has the name of an experiment and is not that experiment. None where the name has no file in
    ``conf/experiment``: there is nothing to compare with.
    """
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from experiments.build import INJECTED
    from experiments.config import validate
    from sparse_rcnn.errors import UserError
    from sparse_rcnn.rundir.changes import changes, shorten, texts
    from sparse_rcnn.rundir.identity import CONTENT_KEYS, compared_config

    try:
        cfg = _compose([f"recipe={config['recipe_name']}", f"experiment={config['experiment_name']}"])
        is_users_data = fill_missing(cfg.data)
        plain = validate(cfg, INJECTED)
    except (HydraException, OmegaConfBaseException, UserError):
        return None
    # Which data and weights an identity tells by content. Here the data's name and its generator's settings say it,
    # but for data that are the user's own to name, and of weights whether there are any: the path is the user's.
    keys = set(CONTENT_KEYS) - ({"data.name"} if is_users_data else set())
    first, second = (compared_config(_without_paths(item), keys) for item in (plain, config))
    return texts(shorten([change for change in changes(first, second) if change.old != STAND_IN]))


def fill_missing(node: DictConfig) -> bool:
    """Put the stand-in where a configuration of data has no value yet; whether there was such a place."""
    from omegaconf import OmegaConf

    filled = False
    for key in node:
        if OmegaConf.is_missing(node, key):
            node[key] = STAND_IN
            filled = True
        elif not OmegaConf.is_interpolation(node, key) and OmegaConf.is_dict(node[key]):
            filled |= fill_missing(node[key])
    return filled


def _without_paths(config: dict[str, Any]) -> dict[str, Any]:
    weights = {name: None if path is None else "given" for name, path in config["weights"].items()}
    return {**config, "weights": weights}


def _compose(overrides: list[str]) -> DictConfig:
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.hydra_config import HydraConfig

    if GlobalHydra.instance().is_initialized():  # a running command, with the configuration folders that it was given
        if HydraConfig.initialized():
            given = HydraConfig.get().overrides.hydra
            overrides = [*overrides, *(override for override in given if override.startswith("hydra.searchpath="))]
        return compose("train", overrides=overrides)
    with initialize_config_dir(str(CONF_DIR), **version_base()):
        return compose("train", overrides=overrides)
