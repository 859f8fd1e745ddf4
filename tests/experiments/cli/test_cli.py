"""What a command line prints and returns: a mistake is one line, a fault of the program a traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from experiments.cli.mistakes import describe_mistake, one_line_errors, run_cli
from experiments.config.validation import instantiate_options
from sparse_rcnn.errors import UserError
from tests.support.paths import ROOT

HERE = "tests.experiments.cli.test_cli"


def test_mistakes_are_one_line_and_faults_keep_their_traceback(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def mistake() -> None:
        raise UserError("train.lr: too\nhigh")

    with pytest.raises(SystemExit) as caught:
        run_cli(mistake)
    assert caught.value.code == 1
    assert capsys.readouterr().err == "error: train.lr: too high\n"

    with pytest.raises(SystemExit), one_line_errors():
        raise KeyboardInterrupt
    assert capsys.readouterr().err == "error: interrupted\n"

    with pytest.raises(ZeroDivisionError), one_line_errors():
        raise ZeroDivisionError
    with pytest.raises(ValueError, match="a fault"), one_line_errors():
        raise ValueError("a fault")
    assert run_cli(lambda: 3) == 3

    monkeypatch.setenv("SPARSE_RCNN_TRACEBACK", "1")
    with pytest.raises(UserError):
        run_cli(mistake)


def test_a_full_disk_is_a_mistake_and_a_missing_file_is_not() -> None:
    assert describe_mistake(OSError(28, "No space left on device", "x.bin")) == "x.bin: No space left on device"
    assert describe_mistake(FileNotFoundError(2, "No such file", "x.bin")) is None


def test_a_value_that_a_constructor_refuses_is_named_by_its_node() -> None:
    from hydra.utils import instantiate

    node = {"model": {"_target_": f"{HERE}.refuse"}}
    with pytest.raises(Exception) as caught:  # noqa: PT011  (its type depends on Hydra's version)
        instantiate(OmegaConf.create(node), **instantiate_options(node))
    assert describe_mistake(caught.value) == "model: num_stages must be positive"


def refuse() -> None:
    raise ValueError("num_stages must be positive")


PROGRAM = '''
from dataclasses import dataclass, field
from pathlib import Path
from hydra.core.config_store import ConfigStore
from experiments.cli.hydra_entry import hydra_main
from experiments.config.validation import validate
from sparse_rcnn.errors import UserError

@dataclass
class Train:
    num_steps: int = 1

@dataclass
class Root:
    seed: int = 0
    train: Train = field(default_factory=Train)
    recipe: str = "?"

ConfigStore.instance().store("schema", Root)

@hydra_main("main", Path(__file__).parent / "conf")
def main(cfg):
    """Train."""
    config = validate(cfg)
    if config["seed"] == 13:
        raise UserError("seed: 13 brings bad luck")
    if config["seed"] == 14:
        raise RuntimeError("a fault")
    print("seed", config["seed"], config["recipe"])

if __name__ == "__main__":
    main()
'''


@pytest.fixture
def program(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a small Hydra program with the given arguments."""
    script, conf = tmp_path / "program.py", tmp_path / "conf"
    script.write_text(PROGRAM)
    (conf / "recipe").mkdir(parents=True)
    (conf / "main.yaml").write_text(
        # No file handler, which Hydra 1.4 leaves open for the garbage collector to complain about.
        "defaults: [schema, _self_, recipe: mini, override hydra/job_logging: stdout]\n"
        "hydra: {run: {dir: .}, sweep: {dir: ., subdir: .}, output_subdir: null}\n"
    )
    for recipe in ("mini", "paper"):
        (conf / "recipe" / f"{recipe}.yaml").write_text(f"# @package _global_\nrecipe: {recipe}\n")

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error"}
        environment.pop("SPARSE_RCNN_TRACEBACK", None)
        command = [sys.executable, str(script), *arguments]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)

    return run


Program = Callable[..., "subprocess.CompletedProcess[str]"]


def test_a_program_runs_and_helps_without_warnings(program: Program) -> None:
    done = program("recipe=paper", "seed=3")
    assert (done.returncode, done.stdout, done.stderr) == (0, "seed 3 paper\n", "")
    helped = program("--help")
    assert (helped.returncode, helped.stderr) == (0, "")
    assert "recipe: mini, paper" in helped.stdout
    assert helped.stdout.startswith("program is powered by Hydra")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["seed=13"], 1, "error: seed: 13 brings bad luck"),
        (["train.num_step=2"], 1, "error: train.num_step: unknown key; did you mean 'num_steps'?"),
        (["train.num_steps=many"], 1, "error: train.num_steps: Value 'many' of type 'str'"),
        (["recipe=papr"], 1, "error: recipe: there is no option 'papr'; did you mean 'paper'?"),
        (["seed=["], 2, "error: cannot read the command line at 'seed=['"),
    ],
)
def test_mistakes_on_the_command_line_are_one_line(
    program: Program, arguments: list[str], code: int, message: str
) -> None:
    done = program(*arguments)
    assert done.returncode == code
    assert done.stderr.startswith(message)
    assert done.stderr.count("\n") == 1


def test_a_fault_keeps_its_traceback(program: Program) -> None:
    done = program("seed=14")
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert done.stderr.endswith("RuntimeError: a fault\n")


def test_a_mistake_in_one_job_of_a_sweep_does_not_stop_the_others(program: Program) -> None:
    done = program("-m", "seed=13,4")
    assert done.returncode == 1
    assert "seed 4 mini" in done.stdout
    assert done.stderr.endswith("error: seed: 13 brings bad luck\n")
