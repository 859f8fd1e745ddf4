"""The detector of one's own of docs/detectors.md, as it stands there: its files, and the commands that use them."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from experiments.config.build import build, dry_build, with_num_classes
from experiments.config.rows import compose_row
from sparse_rcnn.retinanet.detector import RetinaNet
from tests.support import training
from tests.support.paths import ROOT

TEXT = (ROOT / "docs" / "detectors.md").read_text()
FILES = dict(re.findall(r"`([\w/]*my_retina\.(?:py|yaml))`[^`\n]*\n\n```\w*\n(.*?)^```$", TEXT, re.M | re.S))
COMMANDS = re.findall(r"^python -m (experiments\.\w+ .*\bmy_retina\b.*)$", TEXT, re.M)
# What makes a training one of seconds; the files say all else.
TINY = [o for o in training.DETECTOR if o.partition("=")[0] not in training.AXES]


def test_the_example_is_found() -> None:
    assert list(FILES) == ["my_retina.py", "mine/detector/my_retina.yaml", "mine/model/my_retina.yaml"]
    assert [command.split()[0] for command in COMMANDS] == [f"experiments.{c}" for c in ("train", "evaluate", "check")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The current folder of its user."""
    found = tmp_path_factory.mktemp("mine")
    for name, content in FILES.items():
        (found / name).parent.mkdir(parents=True, exist_ok=True)
        (found / name).write_text(content)
    return found


def test_the_example_is_built(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "my_retina", raising=False)
    config = compose_row("mini", "baseline", ["detector=my_retina"], search_path=[str(folder / "mine")])
    dry_build(config)
    with torch.device("meta"):
        model = build(with_num_classes(config, 3), "model")
    assert (type(model).__name__, type(model).__bases__) == ("MyRetina", (RetinaNet,))
    assert config["experiment_name"] == "my_retina"


@pytest.mark.slow
def test_the_example_trains_and_is_evaluated_and_checked(folder: Path) -> None:
    def run(module: str, *arguments: str) -> str:
        command = [sys.executable, "-m", module, *arguments]
        done = subprocess.run(command, cwd=folder, env=training.environment(), capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    train, evaluate, check = map(shlex.split, COMMANDS)
    data = [*training.GENERATOR, f"data.root={training.data_root()}"]
    run(*train, *data, *TINY, *training.TRAINING, "schedule.length=1")
    (results,) = folder.glob("runs/my_retina/*/results.json")
    path = str(results.parent.relative_to(folder))
    words = [path if word == "runs/my_retina/<run>" else word for word in evaluate]
    assert path in words
    assert "AP" in run(*words, "--num-workers", "0")
    assert re.search(r"1 row against detector=my_retina\b", run(*check))
