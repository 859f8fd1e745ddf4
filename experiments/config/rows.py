"""The rows of ``conf/experiment``: composed under a recipe, and which of them a configuration is."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.cli.hydra_entry import CONF_DIR, version_base
from experiments.config.row_files import detector_of_row
from experiments.config.row_store import RowStore, open_store
from sparse_rcnn.errors import UserError
from sparse_rcnn.rundir.changes import Change, changes, shorten, texts
from sparse_rcnn.rundir.identity import CONTENT_KEYS, compared_config
from sparse_rcnn.rundir.writer import RunDirectory

if TYPE_CHECKING:
    from omegaconf import DictConfig

PRIMARY = "train"  # the name of the primary config without --config-name
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


@dataclass(frozen=True)
class RowSource:
    """Where rows are composed from.

    Attributes:
        config_name: of the primary config, as ``--config-name`` of the train command.
        search_path: more configuration folders, as ``--config-dir`` of the train command.
        overrides: those of a running command that add folders.
    """

    config_name: str = PRIMARY
    search_path: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()

    @staticmethod
    def of_command(hydra: DictConfig | None = None) -> RowSource:
        """That of a command with this ``hydra`` node, by default of the job that runs here, if one does."""
        from hydra.core.hydra_config import HydraConfig

        if hydra is None and not HydraConfig.initialized():
            return RowSource()
        node: Any = HydraConfig.get() if hydra is None else hydra
        added = tuple(o for o in node.overrides.hydra if o.startswith("hydra.searchpath="))
        return RowSource(node.job.config_name or PRIMARY, overrides=added)


def added_folders(config_dirs: Sequence[Path]) -> tuple[str, ...]:
    """The folders of a command's ``--config-dir`` as a search path.

    Raises:
        UserError: one of them is no folder.
    """
    for folder in config_dirs:
        if not folder.is_dir():
            raise UserError(f"--config-dir {folder}: there is no such folder")
    return tuple(str(folder.resolve()) for folder in config_dirs)


def compose_row(
    recipe: str,
    name: str,
    overrides: Sequence[str],
    conf_dir: Path = CONF_DIR,
    stand_ins: bool = True,
    search_path: Sequence[str] = (),
) -> dict[str, Any]:
    """The validated configuration of a row; paths of data that only the user knows get a stand-in if asked for.

    Args:
        search_path: more configuration folders, as ``--config-dir`` of the train command.

    Raises:
        UserError, Hydra's and OmegaConf's errors: as for experiments.train.
    """
    from hydra import compose

    from experiments.config import schema
    from experiments.config.validation import validate

    schema.register()
    with _reading(conf_dir.resolve(), search_path):
        cfg = compose(PRIMARY, overrides=[f"recipe={recipe}", f"experiment={name}", *overrides])
    if stand_ins:
        fill_missing(cfg.data)
    return validate(cfg, overrides=overrides)


def experiments_of(config: dict[str, Any], source: RowSource | None = None) -> dict[str, list[str] | None]:
    """The experiments whose configuration equals this one, under its recipe.

    Args:
        config: of a run.
        source: of the rows; None: that of the job that runs here.

    Returns:
        By name what overrides changed of it (`num_stages: 6 -> 1`): nothing where it equals the plain experiment. Where
        it equals none, the experiment that it was started as, and those equal to that one, with the changes; None in
        their place for a name that has no file to compare with.
    """
    rows = dict(_plain_rows(config, source))
    equal = [name for name, row in rows.items() if not _changes(row, config)]
    if equal:
        return {name: [] for name in equal}
    own = config["experiment_name"]
    if own not in rows:
        return {own: None}
    deviations = _deviations(rows[own], config)
    same = [name for name, row in rows.items() if not _changes(row, rows[own].config)]
    return dict.fromkeys(sorted({own, *same}), deviations)


def record_row(path: Path, config: dict[str, Any], source: RowSource | None = None) -> None:
    """Record a configuration's rows in its run if the experiment's name is new there.

    Args:
        path: of the run.
        config: that leads to it.
        source: of the rows; None: that of the job that runs here.
    """
    directory = RunDirectory(path)
    if config["experiment_name"] not in (directory.meta["experiment"], *directory.experiments):
        directory.add_experiments(experiments_of(config, source))


def compare_with_rows(directory: RunDirectory, search_path: Sequence[str] = ()) -> bool:
    """Record the rows that a run is today; returns whether the record changed.

    The rows are those of the primary config that it was started with. Names that no row has here are kept as they are
    recorded. A run that equals no row keeps all names that it was started as, each with the changes of today.

    Args:
        directory: of the run.
        search_path: more configuration folders, as ``--config-dir`` of the train command.

    Raises:
        UserError: its configuration cannot be read or is of another program, or its recipe has no rows here.
    """
    config = directory.config
    name = str(directory.meta.get("config_name", PRIMARY))
    source = RowSource(name, tuple(str(Path(folder).resolve()) for folder in search_path))
    try:
        rows = dict(_plain_rows(config, source))
        found = experiments_of(config, source)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError(f"{directory.path}: its config.json is of another program: {error!r}") from error
    if not rows:
        under = f"no row composes under its recipe {config['recipe_name']}"
        hint = (
            "" if name == PRIMARY else f" and primary config {name}: give the folder of {name}.yaml with --config-dir"
        )
        raise UserError(f"{directory.path}: {under}{hint or ' here'}")
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
    row = dict(_plain_rows(config)).get(config["experiment_name"])
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


def _plain_rows(config: Mapping[str, Any], source: RowSource | None = None) -> list[tuple[str, PlainRow]]:
    """The rows that a configuration may be, under its recipe: those of its detector, and the one of its name.

    Rows that do not compose are left out; ``experiments.check`` names them.
    """
    source = RowSource.of_command() if source is None else source
    detector = config.get("detector", {}).get("name")
    rows = []
    with _hydra(source) as folders:
        default = _default_detector(source, folders)
        for name in _row_names(source, folders):
            own = detector_of_row(name, folders, default)
            if name == config["experiment_name"] or detector is None or own in (None, detector):
                row = _composed_row(config["recipe_name"], name, source, folders)
                rows += [(name, row)] if row is not None else []
        _store(config["recipe_name"], source, folders).save()
    return rows


@functools.cache
def _row_names(source: RowSource, folders: tuple[str, ...]) -> list[str]:
    from hydra.core.global_hydra import GlobalHydra

    loader = GlobalHydra.instance().config_loader()
    options = loader.get_group_options("experiment", config_name=source.config_name, overrides=list(source.overrides))
    return sorted(options)


@functools.cache
def _default_detector(source: RowSource, folders: tuple[str, ...]) -> str | None:
    """The detector of a primary config as it stands; None where that does not compose."""
    from hydra import compose
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    try:
        return str(compose(source.config_name, overrides=list(source.overrides)).detector.name)
    except (HydraException, OmegaConfBaseException):
        return None


def _composed_row(recipe: str, name: str, source: RowSource, folders: tuple[str, ...]) -> PlainRow | None:
    from hydra import compose
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    from experiments.config.validation import resolve

    def compose_anew() -> dict[str, Any] | None:
        try:
            overrides = [f"recipe={recipe}", f"experiment={name}", *source.overrides]
            cfg = compose(source.config_name, overrides=overrides)
            has_user_data = fill_missing(cfg.data)
            return {"config": resolve(cfg), "has_user_data": has_user_data}
        except (HydraException, OmegaConfBaseException, UserError, YAMLError):
            return None

    row = _store(recipe, source, folders).get(name, compose_anew)
    return None if row is None else PlainRow(**row)


def _store(recipe: str, source: RowSource, folders: tuple[str, ...]) -> RowStore:
    return open_store(folders, recipe, source.config_name, *source.overrides)


@contextmanager
def _hydra(source: RowSource) -> Iterator[tuple[str, ...]]:
    """Hydra ready to compose, that of the running command or one of ours; gives the folders that it reads."""
    from hydra.core.global_hydra import GlobalHydra

    from experiments.config import schema

    schema.register()
    if GlobalHydra.instance().is_initialized():
        yield _folders()
        return
    with _reading(CONF_DIR, source.search_path):
        yield _folders()


@contextmanager
def _reading(conf_dir: Path, search_path: Sequence[str]) -> Iterator[None]:
    """A Hydra of ours that reads a folder of configuration, and more of them where ``--config-dir`` has them."""
    from hydra import initialize_config_dir
    from hydra._internal.hydra import Hydra
    from hydra._internal.utils import create_config_search_path
    from hydra.core.config_search_path import SearchPathQuery
    from hydra.core.global_hydra import GlobalHydra

    with initialize_config_dir(str(conf_dir), **version_base()):
        if search_path:
            folders = create_config_search_path(str(conf_dir))
            for folder in search_path:
                anchor = SearchPathQuery(provider="schema")
                folders.prepend(provider="command-line", path=f"file://{folder}", anchor=anchor)
            GlobalHydra.instance().clear()
            Hydra.create_main_hydra2(task_name="rows", config_search_path=folders)
        yield


def _folders() -> tuple[str, ...]:
    from hydra.core.global_hydra import GlobalHydra

    return tuple(source.path for source in GlobalHydra.instance().config_loader().get_sources())
