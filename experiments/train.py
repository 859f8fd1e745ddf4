"""python -m experiments.train: train one run (or several with -m), evaluate it and say what came out."""

from __future__ import annotations

import sys

from omegaconf import DictConfig

from experiments.cli.hydra_entry import hydra_main
from experiments.config import schema
from experiments.sweep import hydra_plugins

schema.register()
hydra_plugins.register()


@hydra_main("train", is_text=schema.is_text)
def main(cfg: DictConfig) -> None:
    from experiments.run import lifecycle  # torch is imported here: --help and config errors come at once

    lifecycle.run(cfg)


if __name__ == "__main__":
    sys.exit(main())
