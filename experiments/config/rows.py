"""The rows of ``conf/experiment``: composed under a recipe, and which of them a configuration is."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
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


def experiments_of(config: dict[str, Any], search_path: Sequence[str] = ()) -> dict[str, list[str] | None]:
    """The experiments whose configuration equals this one, under its recipe.

    Returns:
        By name what overrides changed of it (`num_stages: 6 -> 1`): nothing where it equals the plain experiment. Where
        it equals none, the experiment that it was started as, and those equal to that one, with the changes; None in
        their place for a name that has no file to compare with.
    """
    rows = dict(_plain_rows(config["recipe_name"], search_path))
    equal = [name for name, row in rows.items() if not _changes(row, config)]
    if equal:
        return {name: [] for name in equal}
    own = config["experiment_name"]
    if own not in rows:
        return {own: None}
    deviations = _deviations(rows[own], config)
    same = [name for name, row in rows.items() if not _changes(row, rows[own].config)]
    return dict.fromkeys(sorted({own, *same}), deviations)


def record_row(path: Path, config: dict[str, Any]) -> None:
    """Record a configuration's rows in its run if the experiment's name is new there."""
    directory = RunDirectory(path)
    if config["experiment_name"] not in (directory.meta["experiment"], *directory.experiments):
        directory.add_experiments(experiments_of(config))


def compare_with_rows(directory: RunDirectory, search_path: Sequence[str] = ()) -> bool:
    """Record the rows that a run is today; returns whether the record changed.

    Names that no row has here are kept as they are recorded. A run that equals no row keeps all names that it was
    started as, each with the changes of today.

    Args:
        directory: of the run.
        search_path: more configuration folders, as ``--config-dir`` of the train command.

    Raises:
        UserError: its configuration cannot be read or is of another program, or its recipe has no rows here.
    """
    config = directory.config
    try:
        rows = dict(_plain_rows(config["recipe_name"], search_path))
        found = experiments_of(config, search_path)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError(f"{directory.path}: its config.json is of another program: {error!r}") from error
    if not rows:
        raise UserError(f"{directory.path}: no row composes under its recipe {config['recipe_name']} here")
    if None in found.values():  # no row that it equals, and none of its name: nothing to compare with
        return False
    equals_one = not all(found.values())

    def renewed(known: Mapping[str, Sequence[str] | None]) -> dict[str, Sequence[str] | None]:
        kept: dict[str, Sequence[str] | None] = {}
        for name, lines in known.items():
            if name not in rows:
                kept[name] = lines
            elif not equals_one:  # it was also started as this row, and is that with changes
                kept[name] = _deviations(rows[name], config)
        return {**kept, **found}

    return directory.replace_experiments(renewed)


def deviations_of(config: dict[str, Any]) -> list[str] | None:
    """The changes that overrides made to the experiment a configuration was started as, if they change the result.

    None where the name has no file in ``conf/experiment``: there is nothing to compare with.
    """
    row = dict(_plain_rows(config["recipe_name"])).get(config["experiment_name"])
    return None if row is None else _deviations(row, config)


def fill_missing(node: DictConfig) -> bool:
    """Replace missing values of a data node by the stand-in; returns whether any were missing."""
    from omegaconf import OmegaConf

    filled = False
    for key in map(str, node):
        if OmegaConf.is_missing(node, key):
            node[key] = STAND_IN
            filled = True
        elif not OmegaConf.is_interpolation(node, key) and OmegaConf.is_dict(node[key]):
            filled |= fill_missing(node[key])
    return filled


def _deviations(row: PlainRow, config: dict[str, Any]) -> list[str]:
    return texts(shorten(_changes(row, config)))


def _changes(row: PlainRow, config: dict[str, Any]) -> list[Change]:
    # Identities hash the content of data and weights. Here the data's name and its generator's settings are compared in
    # its place (not the name of the user's own data), and whether there are weights: their path is the user's.
    keys = set(CONTENT_KEYS) - ({"data.name"} if row.has_user_data else set())
    first, second = (compared_config(_without_paths(item), keys) for item in (row.config, config))
    return [change for change in changes(first, second) if change.old != STAND_IN]


def _without_paths(config: dict[str, Any]) -> dict[str, Any]:
    weights = {name: None if path is None else "given" for name, path in config["weights"].items() if name != "strict"}
    return {**config, "weights": weights}


def _plain_rows(recipe: str, search_path: Sequence[str] = ()) -> tuple[tuple[str, PlainRow], ...]:
    with _hydra(search_path) as (folders, overrides):
        return _composed_rows(recipe, folders, overrides)


@functools.cache
def _composed_rows(
    recipe: str, folders: tuple[str, ...], overrides: tuple[str, ...]
) -> tuple[tuple[str, PlainRow], ...]:
    """The rows of these configuration folders that compose; ``experiments.check`` names the others."""
    from hydra import compose
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    from experiments.config.validation import resolve

    rows = []
    for name in _row_names(overrides):
        try:
            cfg = compose("train", overrides=[f"recipe={recipe}", f"experiment={name}", *overrides])
            has_user_data = fill_missing(cfg.data)
            rows.append((name, PlainRow(resolve(cfg), has_user_data)))
        except (HydraException, OmegaConfBaseException, UserError, YAMLError):
            continue
    return tuple(rows)


def _row_names(overrides: Sequence[str]) -> list[str]:
    from hydra.core.global_hydra import GlobalHydra

    names = set(GlobalHydra.instance().config_loader().get_group_options("experiment"))
    for override in overrides:  # a searchpath given as an override is no source of the loader's own
        folders = override.removeprefix("hydra.searchpath=[").removesuffix("]").split(",")
        names |= {file.stem for f in folders for file in Path(f.removeprefix("file://"), "experiment").glob("*.yaml")}
    return sorted(names)


@contextmanager
def _hydra(search_path: Sequence[str]) -> Iterator[tuple[tuple[str, ...], tuple[str, ...]]]:
    """Hydra ready to compose: that of the running command, with the folders that it was given, or one of ours."""
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.hydra_config import HydraConfig

    from experiments.config import schema

    schema.register()
    if GlobalHydra.instance().is_initialized():
        given = HydraConfig.get().overrides.hydra if HydraConfig.initialized() else []
        yield _folders(), tuple(override for override in given if override.startswith("hydra.searchpath="))
        return
    folders = ",".join(f"file://{Path(folder).resolve()}" for folder in search_path)
    with initialize_config_dir(str(CONF_DIR), **version_base()):
        yield _folders(), (f"hydra.searchpath=[{folders}]",) if folders else ()


def _folders() -> tuple[str, ...]:
    from hydra.core.global_hydra import GlobalHydra

    return tuple(source.path for source in GlobalHydra.instance().config_loader().get_sources())
