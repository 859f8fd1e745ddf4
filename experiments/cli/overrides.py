"""The overrides of a command line: read as they were meant, or refused with the quoting that works."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.errors import CompactHydraException, HydraException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from sparse_rcnn.errors import UserError

_KEY_AND_VALUE = re.compile(r"(\+{0,2}[^=~+][^=]*)=(.*)", re.DOTALL)
_QUOTES = "'\""
_BRACKETS = "[]{}()"


class OverrideError(UserError):
    """A command line that Hydra cannot read; shows the quoting that works."""


def readable_overrides(overrides: Sequence[str], is_text: Callable[[str], bool], multirun: bool) -> list[str]:
    """Overrides that Hydra reads as they were meant: quotes are added where a text can mean one thing only.

    The value of a key whose values are texts, paths among them, is taken as it is typed: ``runs_root=~/runs``,
    ``data.root=/data/photos (1)``, ``experiment_name=1e3``. Hydra would refuse it, or read a number, a list or a
    function. What can mean two things is left to the user: a comma, and a quote that comes first.

    Args:
        overrides: as typed.
        is_text: whether the values of a key are texts.
        multirun: whether commas separate the values of a sweep.

    Raises:
        OverrideError: Hydra cannot read one of them.
    """
    return [_readable(override, is_text, multirun) for override in overrides]


def quoted(text: str) -> str | None:
    """A text in quotes that Hydra reads as the same text, also after a sweep wrote it anew; None where none do."""
    for quote in (Quote.double, Quote.single):
        candidate = QuotedString(text, quote).with_quotes()
        first = _parsed(f"key={candidate}")
        if first is None or first.is_sweep_override() or first.value() != text:
            continue
        again = _parsed(f"key={first.get_value_element_as_str()}")
        if again is not None and again.value() == text:
            return candidate
    return None


def describe_refusal(error: OverrideParseException, multirun: bool = False) -> str:
    """An override that Hydra refuses, in one line: which, at what, and how to type it."""
    override = str(error.override)
    message = f"cannot read the command line at {override!r}: {_reason(error)}"
    match = _KEY_AND_VALUE.fullmatch(override)
    if match is None or "\n" in override:
        return message
    return f"{message}{_advice(match[1], match[2], multirun)}"


def describe_sweep_without_multirun(error: HydraException) -> str | None:
    """Several values for one key of a single run, in one line; None where the error is another one."""
    found = re.search(r"Ambiguous value for argument '(.*?)'\n", str(error), re.DOTALL)
    match = found and _KEY_AND_VALUE.fullmatch(found[1])
    if found is None or match is None:
        return None
    key, value = match.groups()
    shown = [f"for a list type {shlex.quote(f'{key}=[{value}]')}"]
    if (text := quoted(value)) is not None:
        shown.append(f"for one text type {shlex.quote(f'{key}={text}')}")
    return f"{found[1]!r} has several values: for a run each add -m, {', '.join(shown)}"


def describe_addition(error: CompactHydraException, cause: OmegaConfBaseException) -> str | None:
    """An override of a key that a mapping of the user's own keys lacks: how to add it, in one line.

    None where the key is one of a node whose keys are fixed.
    """
    node = cause.parent_node
    found = re.search(r"^(To append to your config use|Error merging override) \+*(.*)", str(error), re.M | re.S)
    match = found and _KEY_AND_VALUE.fullmatch(found[2])
    if not found or not match or not isinstance(node, DictConfig) or node._metadata.element_type is Any:
        return None
    path, (key, value) = str(node._get_full_key(None)), match.groups()
    if not key.startswith(f"{path}."):
        return None
    name = key.removeprefix(f"{path}.")
    if "." not in name and found[1].startswith("Error"):
        return None  # it is its value that does not fit
    # A dot in an override's key goes down a level; in a mapping's it is part of the name.
    shown = f"+{path}={{{name}:{value}}}" if "." in name else f"+{key}={value}"
    there = f" (there are: {', '.join(map(str, node))})" if len(node) else ""
    return f"{key}: is not there yet; to add it type {shlex.quote(shown)}{there}"


def _readable(override: str, is_text: Callable[[str], bool], multirun: bool) -> str:
    parsed, refusal = None, None
    try:
        parsed = _parse(override)
    except OverrideParseException as error:
        refusal = error
    match = _KEY_AND_VALUE.fullmatch(override)
    if match is not None and is_text(match[1].lstrip("+")):
        literal = _literal(match[2], parsed, multirun)
        if literal is not None and _parsed(f"{match[1]}={literal}") is not None:
            return f"{match[1]}={literal}"
    if refusal is not None:
        raise OverrideError(describe_refusal(refusal, multirun)) from refusal
    return override


def _literal(value: str, parsed: Override | None, multirun: bool) -> str | None:
    """The value of a text as typed, in quotes; None where it stays as it is."""
    if parsed is not None:
        is_one = not parsed.is_sweep_override() and "," not in value
        return quoted(value) if is_one and isinstance(parsed.value(), (int, float, list, dict)) else None
    if value.startswith(tuple(_QUOTES)):
        return None
    if "," not in value:
        return quoted(value)
    return _several(value) if multirun else None


def _several(value: str) -> str | None:
    """The quoted values of a sweep over texts, None where it is not clear what the commas separate."""
    pieces = [piece.strip() for piece in value.split(",")]
    if len(pieces) < 2 or not all(pieces) or set(value) & set(_QUOTES + _BRACKETS):
        return None
    texts = [text for piece in pieces if (text := quoted(piece)) is not None]
    return ",".join(texts) if len(texts) == len(pieces) else None


def _advice(key: str, value: str, multirun: bool) -> str:
    """The advice on quoting, as the end of a message; empty where no quotes help."""
    text = quoted(value)
    if text is None or _parsed(f"{key}={text}") is None:
        return ""
    advice = f"; for one text type {shlex.quote(f'{key}={text}')}"
    if (several := _several(value)) is None:
        return advice
    return f"{advice}, for a run each {'' if multirun else 'add -m and '}type {shlex.quote(f'{key}={several}')}"


def _reason(error: OverrideParseException) -> str:
    override = str(error.override)
    lines = str(error.message).split("See https")[0].rstrip().splitlines() or [""]
    if lines[-1].strip() == "^":  # the lexer's: a caret under what it stopped at
        index = len(lines[-1]) - 1 - len("LexerNoViableAltException: ")
        place = override[index : index + 1]
        return f"{place!r} {'needs quotes' if '=' in override[:index] else 'cannot be part of a key'}"
    if "=" not in override and not override.startswith("~"):
        return "it is not key=value"
    if unknown := re.search(r"Unknown function '.*?'", str(error.message)):
        return unknown[0]
    refused = re.match(r"(?:mismatched|extraneous) input '(.*?)' expecting ", lines[-1].strip())
    if refused is not None and refused[1] not in ("", "<EOF>"):
        return f"{refused[1].strip()!r} needs quotes"
    return lines[-1].strip()


def _parse(override: str) -> Override:
    return OverridesParser.create().parse_overrides([override])[0]


def _parsed(override: str) -> Override | None:
    try:
        return _parse(override)
    except OverrideParseException:
        return None
