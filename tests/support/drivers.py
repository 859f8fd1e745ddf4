"""Scripts that train in place of ``experiments.train`` after something outside of it was made to fail."""

from __future__ import annotations

from pathlib import Path


def patched_driver(folder: Path) -> Path:
    """A script that trains after it has executed the code in PATCH."""
    driver = folder / "driver.py"
    driver.write_text("import os\nexec(os.environ['PATCH'])\nfrom experiments.train import main\nmain()\n")
    return driver


def at_step(number: int, action: str) -> str:
    """Code that does something instead of the n-th step of the optimizer."""
    return f"""
import torch
RANK = int(os.environ.get("RANK", 0))
real, calls = torch.optim.AdamW.step, []
def step(self, *args):
    calls.append(1)
    if len(calls) == {number}:
        {action}
    return real(self, *args)
torch.optim.AdamW.step = step
"""
