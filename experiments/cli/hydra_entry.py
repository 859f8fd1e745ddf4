"""The entry point of a command that Hydra configures."""

from __future__ import annotations

import functools
import importlib.metadata
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from experiments.cli.mistakes import one_line_errors
from sparse_rcnn.places import conf_dir

CONF_DIR = conf_dir()


def hydra_main(config_name: str, config_dir: Path = CONF_DIR) -> Callable[[Callable[..., Any]], Callable[[], None]]:
    """Like `hydra.main`, for a config of this repository, with mistakes ended as `one_line_errors` does."""

    def decorate(function: Callable[[DictConfig], Any]) -> Callable[[], None]:
        @functools.wraps(function)
        def job(cfg: DictConfig) -> Any:
            if HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN:
                return function(cfg)  # the sweeper collects failures, so that the other jobs still run
            with one_line_errors():  # here, before Hydra adds lines of its own
                return function(cfg)

        main = hydra.main(config_path=str(config_dir), config_name=config_name, **version_base())(job)

        @functools.wraps(function)
        def command() -> None:
            with one_line_errors(), _unformatted_hydra_errors():
                main()

        return command

    return decorate


@contextmanager
def _unformatted_hydra_errors() -> Iterator[None]:
    """Let Hydra raise what it would print, so that it reaches `one_line_errors`."""
    before = os.environ.get("HYDRA_FULL_ERROR")
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = before


def version_base() -> dict[str, Any]:
    """Keyword arguments of Hydra's entry points: 1.3 needs its `version_base`, 1.4 deprecates it."""
    major, minor = importlib.metadata.version("hydra-core").split(".")[:2]
    return {"version_base": "1.3"} if (int(major), int(minor)) < (1, 4) else {}
