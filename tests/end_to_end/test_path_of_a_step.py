"""README's path of one training step is the one that a training takes."""

from __future__ import annotations

import json
import re
from pathlib import Path

from tests.support import training
from tests.support.paths import ROOT

# A training that writes down who called the loss the first time, and is itself left alone.
RECORDER = """
import json, os, traceback
from sparse_rcnn.losses import SetCriterion

plain = SetCriterion.forward

def forward(self, *arguments):
    if not os.path.exists(os.environ["STACK"]):
        frames = [(frame.filename, frame.name) for frame in traceback.extract_stack()]
        with open(os.environ["STACK"], "w") as file:
            json.dump([*frames[:-1], (plain.__code__.co_filename, plain.__name__)], file)
    return plain(self, *arguments)

SetCriterion.forward = forward
from experiments.train import main
main()
"""


def test_readme_names_the_path_of_one_training_step(tmp_path: Path) -> None:
    driver, stack = tmp_path / "recorder.py", tmp_path / "stack.json"
    driver.write_text(RECORDER)
    arguments = training.overrides(tmp_path / "runs", "schedule.length=1")
    code, _, err = training.finish(training.start(arguments, driver, STACK=str(stack)))
    assert code == 0, err
    hops = [
        f"{Path(file).relative_to(ROOT)}: {function}"
        for file, function in json.loads(stack.read_text())
        if Path(file).is_relative_to(ROOT) and Path(file).relative_to(ROOT).parts[0] in ("experiments", "sparse_rcnn")
    ]
    hops = hops[hops.index("experiments/train.py: main") :]
    assert len(hops) <= 6
    assert path_in_readme() == hops


def path_in_readme() -> list[str]:
    """The code spans that the items of the numbered list begin with."""
    _, _, after = (ROOT / "README.md").read_text().partition("The path of one training step")
    assert after, "README has no path of one training step"
    before_next, *_ = re.split(r"^(?:#|```)", after, flags=re.MULTILINE)
    return re.findall(r"^\d+\. `([^`]+)`", before_next, re.MULTILINE)
