"""The console scripts: each does what ``python -m`` does with its module."""

from __future__ import annotations

import os
import runpy
import sys
from collections.abc import Callable


def script(module: str) -> Callable[[], None]:
    """A function that runs ``module`` as ``python -m`` would: with its exit codes and its help.

    A user's own classes in the current folder are found, as with ``python -m``; here that folder comes last, so that
    what lies in it hides nothing that is installed; a sweep's jobs are started by ``python -m`` and have it first.
    ``PYTHONSAFEPATH`` leaves it out, as it does there.
    """

    def run() -> None:
        if not getattr(sys.flags, "safe_path", False):  # from Python 3.11 on
            sys.path.append(os.getcwd())
        runpy.run_module(module, run_name="__main__", alter_sys=True)

    return run


train = script("experiments.train")
evaluate = script("experiments.evaluate")
predict = script("experiments.predict")
convert = script("experiments.convert")
check = script("experiments.check")
status = script("experiments.status")
rows = script("experiments.rows")
verify = script("experiments.verify")
benchmark = script("experiments.benchmark")
export = script("experiments.export")
analysis = script("analysis")
