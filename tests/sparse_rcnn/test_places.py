"""Where the configuration lies, in a checkout and without one."""

from __future__ import annotations

import subprocess
from pathlib import Path

from sparse_rcnn.places import checkout, conf_dir
from sparse_rcnn.rundir.provenance import git_state
from tests.support.paths import ROOT


def test_a_checkout_uses_its_own_configuration() -> None:
    assert checkout() == ROOT
    assert conf_dir() == ROOT / "conf"


def test_an_installed_package_uses_what_is_installed_beside_it(tmp_path: Path) -> None:
    (tmp_path / "conf" / "recipe").mkdir(parents=True)  # of some other package
    assert checkout(tmp_path) is None
    assert conf_dir(tmp_path) == tmp_path / "sparse_rcnn_conf"
    (tmp_path / "pyproject.toml").write_text("")
    assert conf_dir(tmp_path) == tmp_path / "conf"


def test_an_installed_package_has_no_git_state(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True)
    assert git_state(checkout(tmp_path)) == {"sha": None, "dirty": None}
