"""The wheel, built and installed where there is no checkout: what the README says works there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tests.support import training
from tests.support.paths import ROOT

pytestmark = pytest.mark.slow

PACKAGES = ("sparse_rcnn", "experiments", "analysis", "sparse_rcnn_conf")
SCRIPTS = {
    "sparse-rcnn-train": "experiments.train",
    "sparse-rcnn-evaluate": "experiments.evaluate",
    "sparse-rcnn-predict": "experiments.predict",
    "sparse-rcnn-convert": "experiments.convert",
    "sparse-rcnn-check": "experiments.check",
    "sparse-rcnn-status": "experiments.status",
    "sparse-rcnn-rows": "experiments.rows",
    "sparse-rcnn-verify": "experiments.verify",
    "sparse-rcnn-benchmark": "experiments.benchmark",
    "sparse-rcnn-export": "experiments.export",
    "sparse-rcnn-analysis": "analysis",
}
# A user's folder, beside the data and runs that come: a class, its option of a group, and an experiment that takes it.
# It is called as a package is that is installed, which must not hide that one.
OWN = "experiments"
OWN_FILES = {
    "my_layouts.py": (
        "import torch\n\n\n"
        "class CornerInit:\n"
        "    def __init__(self, size: float) -> None:\n"
        "        self.size = size\n\n"
        "    def __call__(self, num_proposals: int) -> torch.Tensor:\n"
        "        return torch.tensor([self.size / 2, self.size / 2, self.size, self.size]).repeat(num_proposals, 1)\n"
    ),
    f"{OWN}/init/corner.yaml": "# @package model.proposals.init\n_target_: my_layouts.CornerInit\nsize: 0.3\n",
    f"{OWN}/experiment/corner.yaml": (
        "# @package _global_\ndefaults:\n  - override /init: corner\nexperiment_name: corner\n"
    ),
}
# What makes the README's main job one of seconds.
SHORT = ("schedule.length=4", "train.batch_size=2", "eval.num_pictures=1", *training.GENERATOR)


# Every warning is an error, in the launcher's processes too; the variable makes Hydra 1.4 raise what it deprecates.
STRICT = {"HYDRA_DEPRECATION_WARNINGS_AS_ERRORS": "1", "PYTHONWARNINGS": "error"}


def run(command: list[str], folder: Path, **changes: str) -> subprocess.CompletedProcess[str]:
    """Run a command where nothing points to a checkout, or to the interpreter of the tests."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "SLURM_", "GIT_", "WANDB_", "COVERAGE"))}
    environment = {**kept, "OMP_NUM_THREADS": "1", "WANDB_MODE": "offline", **changes}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)


def done(command: list[str], folder: Path, **changes: str) -> str:
    """What a command prints that has to end well."""
    result = run(command, folder, **changes)
    assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
    return result.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built by way of the source distribution, from a copy: a build leaves things behind."""
    source = tmp_path_factory.mktemp("source") / "suite"
    source.mkdir()
    ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in ("sparse_rcnn", "experiments", "analysis", "conf", "tests"):
        shutil.copytree(ROOT / name, source / name, ignore=ignore)
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    done([sys.executable, "-m", "build", "--no-isolation", "."], source)
    (built,) = (source / "dist").glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of a fresh environment with the wheel in it.

    What the wheel needs is that of this environment, by its folders' names: a copy would be gigabytes.
    """
    root = tmp_path_factory.mktemp("environment") / "venv"
    venv.create(root, with_pip=True)
    done([str(root / "bin" / "pip"), "install", "--no-index", "--no-deps", str(wheel)], root)
    (site_packages,) = root.glob("lib/python*/site-packages")
    others = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    # Folders named in a .pth file are searched, and their own .pth files, an editable install's, are not read.
    (site_packages / "others.pth").write_text("".join(f"{path}\n" for path in others))
    for package in (*PACKAGES, "experiments.cli.console_scripts"):
        code = f"import {package} as m; print(m.__file__ or list(m.__path__)[0])"
        assert Path(done([str(root / "bin" / "python"), "-c", code], root).strip()).is_relative_to(site_packages)
    checked = run([str(root / "bin" / "pip"), "check"], root).stdout
    assert "sparse-rcnn-suite" not in checked, checked
    return root / "bin"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty folder; above it a repository that is not ours."""
    root = tmp_path_factory.mktemp("repository")
    done(["git", "init", "--quiet", "."], root)
    author = ["-c", "user.name=me", "-c", "user.email=me"]
    done(["git", *author, "commit", "--quiet", "--allow-empty", "--message=first"], root)
    (root / "empty").mkdir()
    return root / "empty"


@pytest.fixture(scope="module")
def own(folder: Path) -> Path:
    """The folder with a user's files in it."""
    for name, text in OWN_FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.fixture(scope="module")
def main_job(installed: Path, folder: Path) -> Path:
    """The run of the README's quick start, cut short."""
    assert list(folder.iterdir()) == []
    out = done([str(installed / "python"), "-m", "experiments.train", *SHORT], folder, **STRICT)
    assert "run directory:" in out
    (path,) = (folder / "runs" / "baseline").iterdir()
    return path


@pytest.fixture(scope="module")
def own_runs(installed: Path, own: Path, main_job: Path) -> list[Path]:
    """A user's own experiment with their own class, twice, by the console script and the launcher's processes."""
    arguments = ["--config-dir", OWN, "-m", "experiment=corner", "seed=0,1", "log=none", *SHORT]
    out = done([str(installed / "sparse-rcnn-train"), *arguments], own, **STRICT)
    assert out.count("finished") == 2
    return sorted((own / "runs" / "corner").iterdir())


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def test_it_holds_the_configuration_and_no_name_that_others_may_have(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == set(PACKAGES)
    files = {name.removeprefix("sparse_rcnn_conf/") for name in names if name.startswith("sparse_rcnn_conf/")}
    assert files == {path.relative_to(ROOT / "conf").as_posix() for path in (ROOT / "conf").rglob("*.yaml")}
    for package in PACKAGES[:3]:
        code = {path.relative_to(ROOT).as_posix() for path in (ROOT / package).rglob("*.py")}
        assert code == {name for name in names if name.startswith(f"{package}/") and name.endswith(".py")}
    static = {path.relative_to(ROOT).as_posix() for path in (ROOT / "analysis/dashboard/static").iterdir()}
    assert {"sparse_rcnn/py.typed", "analysis/paper/tables.json", *static} <= set(names)


def test_the_main_job_runs_and_knows_of_no_repository(main_job: Path) -> None:
    assert "val/bbox/AP" in read(main_job / "results.json")
    meta = read(main_job / "meta.json")
    assert meta["git"] == {"sha": None, "dirty": None}
    assert meta["versions"]["sparse-rcnn-suite"]
    rows = read(main_job / "experiments.json")  # compared with those of the installed configuration
    assert "schedule.length: 2500 -> 4" in rows["baseline"]


def test_own_experiments_and_classes_are_found(installed: Path, own: Path, own_runs: list[Path]) -> None:
    configs = [read(path / "config.json") for path in own_runs]
    assert [config["seed"] for config in configs] == [0, 1]
    assert all(config["model"]["proposals"]["init"]["_target_"] == "my_layouts.CornerInit" for config in configs)
    (deviations,) = read(own_runs[0] / "experiments.json").values()
    assert "init" not in " ".join(deviations)  # compared with the user's own file
    # The same run to python -m, which finds it finished.
    arguments = ["--config-dir", OWN, "experiment=corner", "seed=0", "log=none", *SHORT]
    assert "AP50" in done([str(installed / "python"), "-m", "experiments.train", *arguments], own)
    assert sorted((own / "runs" / "corner").iterdir()) == own_runs


@pytest.mark.parametrize("program", [["python", "-m", "experiments.evaluate"], ["sparse-rcnn-evaluate"]])
def test_a_run_with_an_own_class_is_evaluated_where_it_is_trusted(
    program: list[str], installed: Path, own: Path, own_runs: list[Path]
) -> None:
    command = [str(installed / program[0]), *program[1:], str(own_runs[0])]
    refused = run(command, own)
    assert refused.returncode == 1
    assert refused.stderr.count("\n") == 1
    assert refused.stderr.startswith("error: model.proposals.init: class my_layouts.CornerInit is not part of")
    assert "'my_layouts' in trusted_modules; on the command line: --trust MODULE" in refused.stderr
    assert "AP50" in done([*command, "--trust", "my_layouts"], own, **STRICT)


def test_the_analysis_reads_the_runs(installed: Path, folder: Path, main_job: Path) -> None:
    arguments = ["tables", "--runs", "runs", "--table", "7", "--recipe", "mini"]
    by_module = done([str(installed / "python"), "-m", "analysis", *arguments], folder)
    assert done([str(installed / "sparse-rcnn-analysis"), *arguments], folder) == by_module
    nobody_trained = run([str(installed / "sparse-rcnn-analysis"), *arguments[:-1], "nothing"], folder)
    assert nobody_trained.returncode == 2
    assert "paper, photos" in nobody_trained.stderr  # the recipes of the installed configuration
    done([str(installed / "sparse-rcnn-analysis"), "dashboard", "--runs", "runs", "--out", "page.html"], folder)
    assert (folder / "page.html").stat().st_size > 100_000


def test_every_row_composes_and_builds(installed: Path, folder: Path) -> None:
    assert "head_attention" in done([str(installed / "sparse-rcnn-check"), "--recipe", "mini"], folder)


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_console_script_answers_as_its_module_does(script: str, installed: Path, folder: Path) -> None:
    def answers(arguments: list[str]) -> list[tuple[int, str, str]]:
        commands = ([str(installed / script)], [str(installed / "python"), "-m", SCRIPTS[script]])
        results = [run([*command, *arguments], folder) for command in commands]
        return [(result.returncode, result.stdout, result.stderr) for result in results]

    by_script, by_module = answers(["--help"])
    assert by_script == by_module
    assert by_script[0] == 0
    assert f"python -m {SCRIPTS[script]}" in by_script[1]
    by_script, by_module = answers(["--no-such-option"])
    assert by_script == by_module
    assert by_script[0] == 2


def test_mistakes_are_one_line(installed: Path, folder: Path) -> None:
    for arguments, code, message in (
        (["recipe=papr"], 1, "error: recipe: there is no option 'papr'; did you mean 'paper'?"),
        (["seed=["], 2, "error: cannot read the command line"),
        (["model.proposals.init._target_=my_absent.Init"], 1, "error: model.proposals.init._target_: my_absent.Init"),
    ):
        result = run([str(installed / "sparse-rcnn-train"), *arguments], folder)
        assert (result.returncode, result.stderr.count("\n")) == (code, 1), result.stderr
        assert result.stderr.startswith(message)
