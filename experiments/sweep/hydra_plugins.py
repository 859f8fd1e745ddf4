"""Makes the suite's sweeper and launchers known to Hydra."""

from __future__ import annotations

import functools
import sys
import types

from hydra.core.plugins import Plugins

# Hydra 1.3 takes plugins under this name alone; registering one by hand needs the name, not the package. 1.4 gives up
# searching such packages for entry points: by hand needs neither of both, and loads nothing in other programs.
PACKAGE = "hydra_plugins.sparse_rcnn_suite"


@functools.cache
def register() -> None:
    """Register them; conf/hydra/ holds their options."""
    plugins = Plugins.instance()  # its search for plugins executes Hydra's own modules anew: ours derive from those
    from experiments.sweep.local_launcher import LocalLauncher
    from experiments.sweep.slurm_launcher import SlurmLauncher
    from experiments.sweep.sweeper import SuiteSweeper

    module = types.ModuleType(PACKAGE)
    for cls in (SuiteSweeper, LocalLauncher, SlurmLauncher):
        cls.__module__ = PACKAGE
        setattr(module, cls.__name__, cls)
        plugins.register(cls)
    sys.modules[PACKAGE] = module  # Hydra 1.4 looks them up by name
