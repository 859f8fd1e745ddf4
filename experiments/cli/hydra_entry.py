"""The entry point of a command that Hydra configures."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from experiments.cli.mistakes import one_line_errors
from experiments.cli.overrides import OverrideError, readable_overrides
from sparse_rcnn.places import conf_dir

CONF_DIR = conf_dir()
FOLDER_OPTIONS = ("--config-dir", "-cd", "--config-path", "-cp")


def hydra_main(
    config_name: str, config_dir: Path = CONF_DIR, is_text: Callable[[str], bool] = lambda key: False
) -> Callable[[Callable[..., Any]], Callable[[], None]]:
    """Like `hydra.main`, for a config of this repository, with mistakes ended as `one_line_errors` does.

    Args:
        config_name: of the primary config.
        config_dir: the folder that it lies in.
        is_text: whether the values of a key are texts, which are taken as they are typed (`readable_overrides`).
    """

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
                sys.argv[1:] = readable_arguments(sys.argv[1:], is_text)
                main()

        return command

    return decorate


def readable_arguments(arguments: Sequence[str], is_text: Callable[[str], bool]) -> list[str]:
    """A command line as Hydra reads it: overrides quoted where that is clear, in any order with the options.

    Raises:
        OverrideError: an override cannot be read, or has the form of an option.
    """
    args, unknown = get_args_parser().parse_known_intermixed_args(list(arguments))
    for word in unknown:
        if key := re.match(r"--?([a-z_]\w*(?:[./]\w+)*)(=|$)", word):
            shown = word.lstrip("-") if key[2] else f"{key[1]}=VALUE"
            agent = "; in the command of a W&B sweep write ${args_no_hyphens}" if "WANDB_SWEEP_ID" in os.environ else ""
            raise OverrideError(f"unrecognized option {word!r}; a key is set without dashes: {shown}{agent}")
    modes = (args.run, args.multirun, args.cfg, args.info, args.shell_completion)
    if sum(bool(mode) for mode in modes) > 1:
        raise OverrideError(
            "only one of --run, --multirun (-m), --cfg (-c), --info (-i) and --shell-completion at a time"
        )
    if args.resolve and not (args.cfg or args.help):
        raise OverrideError("--resolve goes with --cfg: --cfg job --resolve")
    typed = [word for word in args.overrides if word not in unknown]
    multirun = args.multirun or any(re.fullmatch(r"\+*hydra\.mode=MULTIRUN", word) for word in typed)
    left = Counter(typed)
    options: list[str] = []
    for word in arguments:
        if left[word]:
            left[word] -= 1
        elif options and options[-1] in FOLDER_OPTIONS:
            options.append(os.path.expanduser(word))
        else:
            name, equals, folder = word.partition("=")
            options.append(f"{name}={os.path.expanduser(folder)}" if equals and name in FOLDER_OPTIONS else word)
    return [*readable_overrides(typed, is_text, multirun), *options]


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
