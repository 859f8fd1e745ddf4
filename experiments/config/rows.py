"""The rows of ``conf/experiment``: composed under a recipe, and which of them a configuration is."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.cli.hydra_entry import CONF_DIR, version_base
from sparse_rcnn.errors import UserError
from sparse_rcnn.rundir.changes import Change, changes, shorten, texts
from sparse_rcnn.rundir.identity import CONTENT_KEYS, compared_config
from sparse_rcnn.rundir.writer import RunDirectory

if TYPE_CHECKING:
    from omegaconf import DictConfig

STAND_IN = "/not-given"  # for paths of data that only the user knows; nothing is read


@dataclass(frozen=True)
class PlainRow:
    """A row as its recipe and nothing else makes it.

    Attributes:
        config: resolved, with a stand-in for the user's paths.
        has_user_data: whether the user names the data, so that any data are the row's.
    """

    config: dict[str, Any]
    has_user_data: bool


def compose_row(recipe: str, name: str, overrides: Sequence[str], conf_dir: Path = CONF_DIR) -> dict[str, Any]:
    """The validated configuration of a row; paths of data that only the user knows get a stand-in.

    Raises:
        UserError, Hydra's and OmegaConf's errors: as for experiments.train.
    """
    from hydra import compose, initialize_config_dir

    from experiments.config import schema
    from experiments.config.validation import validate

    schema.register()
    with initialize_config_dir(str(conf_dir.resolve()), **version_base()):
        cfg = compose("train", overrides=[f"recipe={recipe}", f"experiment={name}", *overrides])
    fill_missing(cfg.data)
    return validate(cfg)


def experiments_of(config: dict[str, Any]) -> dict[str, list[str] | None]:
    """The experiments, under its own recipe, that a configuration is: those whose result is the same.

    Returns:
        By name what overrides changed of it (`num_stages: 6 -> 1`): nothing where it equals the plain experiment. Where
        it equals none, the experiment that it was started as, and those equal to that one, with the changes; None in
        their place for a name that has no file to compare with.
    """
    rows = dict(_plain_rows(config["recipe_name"]))
    equal = [name for name, row in rows.items() if not _changes(row, config)]
    if equal:
        return {name: [] for name in equal}
    own = config["experiment_name"]
    if own not in rows:
        return {own: None}
    deviations = texts(shorten(_changes(rows[own], config)))
    same = [name for name, row in rows.items() if not _changes(row, rows[own].config)]
    return dict.fromkeys(sorted({own, *same}), deviations)


def record_row(path: Path, config: dict[str, Any]) -> None:
    """Record in a run's directory the rows that a configuration is, which leads to it under a name not yet recorded."""
    directory = RunDirectory(path)
    if config["experiment_name"] not in (directory.meta["experiment"], *directory.experiments):
        directory.record_experiments({**directory.deviations, **experiments_of(config)})


def compare_with_rows(directory: RunDirectory) -> bool:
    """Record the rows that a run is today; whether that changed anything. Names that no row has now are kept.

    Raises:
        UserError: its configuration cannot be read, or is of another program.
    """
    config = directory.config
    try:
        known = dict(_plain_rows(config["recipe_name"]))
        others = {name: lines for name, lines in directory.deviations.items() if name not in known}
        return directory.record_experiments({**others, **experiments_of(config)})
    except (KeyError, TypeError) as error:
        raise UserError(f"{directory.path}: its config.json is of another program: {error!r}") from error


def deviations_of(config: dict[str, Any]) -> list[str] | None:
    """What overrides changed of the experiment that a configuration was started as, of all that changes a run's result.

    None where the name has no file in ``conf/experiment``: there is nothing to compare with.
    """
    row = dict(_plain_rows(config["recipe_name"])).get(config["experiment_name"])
    return None if row is None else texts(shorten(_changes(row, config)))


def fill_missing(node: DictConfig) -> bool:
    """Put the stand-in where a configuration of data has no value yet; whether there was such a place."""
    from omegaconf import OmegaConf

    filled = False
    for key in map(str, node):
        if OmegaConf.is_missing(node, key):
            node[key] = STAND_IN
            filled = True
        elif not OmegaConf.is_interpolation(node, key) and OmegaConf.is_dict(node[key]):
            filled |= fill_missing(node[key])
    return filled


def _changes(row: PlainRow, config: dict[str, Any]) -> list[Change]:
    # Which data and weights an identity tells by content. Here the data's name and its generator's settings tell it,
    # but for data that are the user's own to name, and of weights whether there are any: the path is the user's.
    keys = set(CONTENT_KEYS) - ({"data.name"} if row.has_user_data else set())
    first, second = (compared_config(_without_paths(item), keys) for item in (row.config, config))
    return [change for change in changes(first, second) if change.old != STAND_IN]


def _without_paths(config: dict[str, Any]) -> dict[str, Any]:
    weights = {name: None if path is None else "given" for name, path in config["weights"].items()}
    return {**config, "weights": weights}


def _plain_rows(recipe: str) -> tuple[tuple[str, PlainRow], ...]:
    with _hydra() as (folders, search_path):
        return _composed_rows(recipe, folders, search_path)


@functools.cache
def _composed_rows(
    recipe: str, folders: tuple[str, ...], search_path: tuple[str, ...]
) -> tuple[tuple[str, PlainRow], ...]:
    """The rows of these configuration folders that compose; ``experiments.check`` names the others."""
    from hydra import compose
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    from experiments.config.validation import resolve

    rows = []
    for name in GlobalHydra.instance().config_loader().get_group_options("experiment"):
        try:
            cfg = compose("train", overrides=[f"recipe={recipe}", f"experiment={name}", *search_path])
            has_user_data = fill_missing(cfg.data)
            rows.append((name, PlainRow(resolve(cfg), has_user_data)))
        except (HydraException, OmegaConfBaseException, UserError, YAMLError):
            continue
    return tuple(rows)


@contextmanager
def _hydra() -> Iterator[tuple[tuple[str, ...], tuple[str, ...]]]:
    """Hydra ready to compose: that of the running command, with the folders that it was given, or one of ours."""
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.hydra_config import HydraConfig

    from experiments.config import schema

    schema.register()
    if GlobalHydra.instance().is_initialized():
        given = HydraConfig.get().overrides.hydra if HydraConfig.initialized() else []
        search_path = tuple(override for override in given if override.startswith("hydra.searchpath="))
        yield _folders(), search_path
        return
    with initialize_config_dir(str(CONF_DIR), **version_base()):
        yield _folders(), ()


def _folders() -> tuple[str, ...]:
    from hydra.core.global_hydra import GlobalHydra

    return tuple(source.path for source in GlobalHydra.instance().config_loader().get_sources())
