"""A user's mistake ends a command as one line."""

from __future__ import annotations

import difflib
import errno
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

from hydra.errors import (
    CompactHydraException,
    HydraException,
    InstantiationException,
    MissingConfigException,
    OverrideParseException,
)
from omegaconf import OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from experiments.cli.argument_names import KEYS, as_typed, one_line_warnings
from experiments.cli.missing_options import describe_missing_option
from experiments.cli.overrides import (
    OverrideError,
    describe_addition,
    describe_refusal,
    describe_sweep_without_multirun,
)
from sparse_rcnn.errors import UserError

TRACEBACK_VARIABLE = "SPARSE_RCNN_TRACEBACK"
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)

T = TypeVar("T")


def run_cli(function: Callable[[], T], names: Mapping[str, str] = KEYS) -> T:
    """Call `function` as a command line: a user's mistake is one line on stderr and exit code 1.

    Args:
        names: what a user types, by the argument that a message of the library advises.
    """
    with one_line_errors(names):
        return function()


@contextmanager
def one_line_errors(names: Mapping[str, str] = KEYS) -> Iterator[None]:
    """End a user's mistake as one line `error: ...` on stderr and exit code 1 (2: unreadable command line).

    Words on data are one line as well, `warning: ...`.

    Mistakes are `UserError`, what Hydra and OmegaConf say of a config, a full or read-only disk, and Ctrl-C.
    Other exceptions are faults of the program and keep their traceback; with SPARSE_RCNN_TRACEBACK=1 all do.
    """
    try:
        with one_line_warnings(names):
            yield
    except (Exception, KeyboardInterrupt) as error:
        message = describe_mistake(error, names)
        if message is None or os.environ.get(TRACEBACK_VARIABLE) == "1":
            raise
        sys.stdout.flush()
        print(f"error: {message}", file=sys.stderr, flush=True)
        sys.exit(2 if isinstance(error, (OverrideParseException, OverrideError)) else 1)


def describe_mistake(error: BaseException, names: Mapping[str, str] = KEYS) -> str | None:
    """The one line for a user's mistake, or None for a fault of the program."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    if isinstance(error, OverrideError):
        return str(error)  # its spaces are those of a value to type
    if isinstance(error, UserError):
        return as_typed(_one_line(_with_key(str(error), error)), names)
    if isinstance(error, OverrideParseException):
        return describe_refusal(error)
    if isinstance(error, HydraException) and (several := describe_sweep_without_multirun(error)) is not None:
        return several
    if isinstance(error, MissingConfigException):
        return describe_missing_option(error) or _one_line(str(error).split("Config search path")[0])
    cause = error.__cause__
    if isinstance(error, InstantiationException):
        # 1.3 wraps what a constructor raises; a ValueError is how it refuses a value.
        if isinstance(cause, ValueError):
            return _one_line(_with_key(str(cause), error))
        return _one_line(str(error)) if cause is None else None
    if isinstance(error, CompactHydraException):
        if not isinstance(cause, OmegaConfBaseException):
            return _one_line(str(error))
        return describe_addition(error, cause) or _describe_omegaconf(cause)
    if isinstance(error, OmegaConfBaseException):
        # In a job, asking a config for a key that it lacks is the program's fault.
        is_lookup = isinstance(error, (ConfigKeyError, ConfigAttributeError))
        return None if is_lookup else _describe_omegaconf(error)
    if isinstance(error, ValueError) and _full_key(error):  # 1.4 notes the key on what a constructor raises
        return _one_line(_with_key(str(error), error))
    if isinstance(error, ValueError) and str(error).startswith("Config group override must be a string"):
        return "a group has the value null: choose one of its options by name (--help lists them)"
    if isinstance(error, OSError) and error.errno in _DISK_ERRORS:
        return _one_line(f"{error.filename or 'writing a file'}: {error.strerror}")
    return None


def _describe_omegaconf(error: OmegaConfBaseException) -> str:
    key = str(error.full_key or "")
    if isinstance(error, (ConfigKeyError, ConfigAttributeError)) and OmegaConf.is_dict(error.parent_node):
        accepted = [str(name) for name in error.parent_node if name != "hydra"]
        close = difflib.get_close_matches(str(error.key), accepted, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        return _one_line(f"{key}: unknown key{hint} (accepted: {', '.join(accepted) or 'nothing'})")
    lines = str(error).strip().splitlines() or [type(error).__name__]
    hint = f"; give a list, {key}=[...]" if "is not a ListConfig" in lines[0] else ""
    return _one_line(f"{key}: {lines[0].rstrip('.')}{hint}" if key else lines[0])


def _with_key(message: str, error: BaseException) -> str:
    key = _full_key(error)
    return f"{key}: {message}" if key and not message.startswith(key) else message


def _full_key(error: BaseException) -> str:
    """The config key that Hydra gives with an error: in the message (1.3) or as a note (1.4)."""
    lines = [*str(error).splitlines(), *getattr(error, "__notes__", ())]
    keys = [line.split(":", 1)[1].strip() for line in lines if line.strip().startswith("full_key:")]
    return keys[-1] if keys else ""


def _one_line(text: str) -> str:
    return " ".join(text.split())
