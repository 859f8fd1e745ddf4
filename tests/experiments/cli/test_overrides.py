"""Overrides as users type them: paths of every kind, and what is refused with the quoting that works."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from experiments.cli.hydra_entry import readable_arguments, version_base
from experiments.cli.overrides import OverrideError, quoted, readable_overrides
from experiments.config import schema
from experiments.config.validation import validate
from tests.support.configs import CONF

PATHS = [
    "~/runs", "~", "/data/ü", "/data/日本", "/data/a#b", "/data/it's", "/data/photos (1)", "/data/a=b", "/data/[x]",
    "[x]", "/data/{x}", "/data/a b", "/data/$HOME", "C:\\data", "/data/a:", "/data/a\\", "/data/\"q\"", "/data/a;b&c!",
    "1e3", "1_000", "007", "true", "2024", "photos(1)", "<a>", "${oc.env:HOME}/a (1)", "/data/a\\ü", "\\\\srv\\ü",
]  # fmt: skip


def value_of(override: str) -> object:
    (parsed,) = OverridesParser.create().parse_overrides([override])
    # As a sweep writes it for its jobs, who read it once more.
    again = f"{parsed.get_key_element()}={parsed.get_value_element_as_str()}"
    assert OverridesParser.create().parse_overrides([again])[0].value() == parsed.value()
    return parsed.value()


@pytest.mark.parametrize("multirun", [False, True])
@pytest.mark.parametrize("path", PATHS)
def test_a_path_is_taken_as_it_is_typed(path: str, multirun: bool) -> None:
    (override,) = readable_overrides([f"runs_root={path}"], schema.is_text, multirun)
    assert value_of(override) == path
    assert readable_overrides([override], schema.is_text, multirun) == [override]  # a job reads it once more


def test_what_hydra_reads_and_what_it_was_told_to_read_stays_as_it_is() -> None:
    overrides = [
        "runs_root=runs", "data.root=null", "weights.detector=", "runs_root='/data/ü'", "data.root=/data/a\\ b",
        "runs_root=${oc.env:HOME}/x", "seed=1", "num_stages=1e3", "optim.betas=[0.9,0.99]", "~weights.detector",
        "+data.train.max_images=3", "experiment=glob(head_*)", "log.writers.wandb.timeout=4",
    ]  # fmt: skip
    assert readable_overrides(overrides, schema.is_text, multirun=False) == overrides


def test_a_sweep_over_paths() -> None:
    (override,) = readable_overrides(["weights.detector=~/ä.st, /data/b c"], schema.is_text, multirun=True)
    (parsed,) = OverridesParser.create().parse_overrides([override])
    assert [text.strip('"') for text in parsed.sweep_string_iterator()] == ["~/ä.st", "/data/b c"]


@pytest.mark.parametrize(
    ("override", "multirun", "refused"),
    [
        ("optim.name=/data/ü", False, "'ü'"),
        ("optim.name=/a (1)", True, r"'\('"),
        ("optim.name=a=b", False, "'='"),
        ("optim.name=it's", False, '"\'"'),
        ("+optim.name=a  #  b", False, "'#'"),
        ("optim.name=photos(1)", False, "Unknown function 'photos'"),
        ("runs_root='/data/ü", False, '"\'"'),
        ("runs_root=/data/ü,/data/b", False, "'ü'"),
        ("runs_root=/data/(a,b)", True, r"'\('"),
        ("num_stages=[", False, r"no viable alternative at input '\['"),
    ],
)
def test_a_refused_value_is_shown_with_the_quoting_that_works(override: str, multirun: bool, refused: str) -> None:
    with pytest.raises(OverrideError) as caught:
        readable_overrides([override], schema.is_text, multirun)
    message = str(caught.value)
    assert message.startswith(f"cannot read the command line at {override!r}: ")
    assert re.search(refused, message)
    typed = message.split("for one text type ")[1].split(", for a run each")[0]
    (word,) = shlex.split(typed)
    key, _, value = override.partition("=")
    assert word.startswith(f"{key}=")
    assert value_of(word) == value
    assert readable_overrides([word], schema.is_text, multirun) == [word]


def test_commas_are_shown_both_ways() -> None:
    with pytest.raises(OverrideError) as caught:
        readable_overrides(["optim.name=ä,ö"], schema.is_text, multirun=True)
    assert str(caught.value).endswith(
        'for one text type \'optim.name="ä,ö"\', for a run each type \'optim.name="ä","ö"\''
    )
    with pytest.raises(OverrideError, match="for a run each add -m and type"):
        readable_overrides(["optim.name=ä,ö"], schema.is_text, multirun=False)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.batch_size", "it is not key=value"),
        ("data.root =/data", "' ' cannot be part of a key"),
        ("größe=3", "'ö' cannot be part of a key"),
        ("optim.name=a\nb", r"'\\n' needs quotes"),
    ],
)
def test_what_no_quotes_help(override: str, message: str) -> None:
    with pytest.raises(OverrideError, match=message) as caught:
        readable_overrides([override], schema.is_text, multirun=False)
    assert "type '" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_quotes_for_what_none_can_hold() -> None:
    for text in ("a", "", "a b", 'a"b', "a'b", "a\\", 'a\\"', "\\'\"", "ü\\\\"):
        value = quoted(text)
        assert value is None or value_of(f"key={value}") == text
    assert quoted("it's") == '"it\'s"'


def test_options_and_overrides_in_any_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    arguments = ["seed=0,1", "-m", "--config-dir=~/conf", "runs_root=~/runs", "-cd", "~/more", "--config-name", "mine"]
    read = ["seed=0,1", 'runs_root="~/runs"', "-m", "--config-dir=/home/me/conf", "-cd", "/home/me/more"]
    assert readable_arguments(arguments, schema.is_text) == [*read, "--config-name", "mine"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--runs_root=/data"],
            "option '--runs_root=/data'; a key is set without dashes: runs_root=/data",
        ),
        (["--data.root", "/data"], "a key is set without dashes: data.root=VALUE"),
        (["-m", "--cfg", "job"], "only one of --run, --multirun"),
        (["--resolve"], "--resolve goes with --cfg"),
    ],
)
def test_command_lines_that_are_no_hydras(arguments: list[str], message: str) -> None:
    with pytest.raises(OverrideError, match=re.escape(message)):
        readable_arguments(arguments, schema.is_text)


def test_the_home_folder_of_every_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    typed = ["data=coco_format", "weights.detector=~/m.st", *(f"{key}=~/x" for key in schema.PATH_KEYS[:-2])]
    schema.register()
    with initialize_config_dir(str(CONF), **version_base()):
        read = readable_overrides([*typed, "weights.backbone=null"], schema.is_text, multirun=False)
        cfg = compose("train", overrides=read, return_hydra_config=True)
    assert str(cfg.hydra.sweep.dir).startswith(f"{tmp_path}/x/.sweeps/")
    OmegaConf.set_struct(cfg, False)
    del cfg["hydra"]
    config = validate(cfg)
    assert config["runs_root"] == config["data"]["root"] == config["data"]["val"]["images"] == f"{tmp_path}/x"
    assert config["data"]["train"]["annotations"] == f"{tmp_path}/x"
    assert config["weights"]["detector"] == f"{tmp_path}/m.st"
