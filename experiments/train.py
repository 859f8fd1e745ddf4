"""python -m experiments.train: train one run (or several with -m), evaluate it and say what came out."""

from __future__ import annotations

import sys

from omegaconf import DictConfig

from experiments import plugins, schema
from experiments.cli import hydra_main

schema.register()
plugins.register()


@hydra_main("train")
def main(cfg: DictConfig) -> None:
    from experiments.run import lifecycle  # torch is imported here: --help and config errors come at once

    lifecycle.run(cfg)


if __name__ == "__main__":
    sys.exit(main())
