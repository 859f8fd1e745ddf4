"""Which files may name a detector: the engine, the commands and the analysis ask the interface, never a class."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.paths import ROOT

# Each detector in any spelling, also inside an identifier: RetinaNet, retinanet_loss, isFasterRCNN, detr_dc5.
NAME = re.compile(
    r"(?i:retina[-_ ]?net|(?:faster|cascade|mask|sparse)[-_ ]?r[-_ ]?cnn|(?<![a-z])detr(?![a-z]))|(?<=[a-z])DETR"
)
# The suite's own name: its packages, in an import or in the path of a class, its commands and variables of the
# environment, and the words that it is called by.
SUITE = re.compile(
    r"\bsparse_rcnn(?:_conf|_suite|_benchmark_)?(?![a-zA-Z_])|\bsparse-rcnn-|\bSPARSE_RCNN_|\bSparse R-CNN\b"
)


def files() -> list[Path]:
    """Python and the dashboard's page; tables of the paper have the detectors' names from the paper."""
    analysis = [path for path in (ROOT / "analysis").rglob("*.*") if path.suffix in (".py", ".js", ".html", ".css")]
    found = [path for path in analysis if ROOT / "analysis" / "paper" not in path.parents]
    found += (ROOT / "experiments").rglob("*.py")
    return sorted([*found, ROOT / "sparse_rcnn" / "engine.py", ROOT / "sparse_rcnn" / "dataset_detection.py"])


def texts(path: Path) -> Iterator[tuple[int, str]]:
    """Identifiers and strings with their lines, no docstrings or comments; all lines of other files than Python."""
    source = path.read_text()
    if path.suffix != ".py":
        yield from ((number, line.partition("// ")[0]) for number, line in enumerate(source.splitlines(), 1))
        return
    tree = ast.parse(source)
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    bodies = [node.body for node in ast.walk(tree) if isinstance(node, documented) and node.body]
    docstrings = {id(body[0].value) for body in bodies if isinstance(body[0], ast.Expr)}
    for node in ast.walk(tree):
        line = getattr(node, "lineno", 0)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield line, node.value
        names = (getattr(node, field, None) for field in ("id", "attr", "name", "asname", "arg", "module"))
        yield from ((line, name) for name in names if isinstance(name, str))


def names_in(text: str) -> list[str]:
    return NAME.findall(SUITE.sub("", text))


def test_no_detector_is_named_where_the_interface_is_asked() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}: {text[:60]}"
        for path in files()
        for line, text in texts(path)
        if names_in(text)
    ]
    assert found == []


@pytest.mark.parametrize(
    "text",
    ["RetinaNet", "retinanet", "is_faster_rcnn", "CascadeRCNN", "Faster R-CNN", "detr_dc5", "DeformableDETR",
     "SparseRCNN", "sparse_rcnn.detector.SparseRCNN", "sparse_rcnn.detr.detector", "sparse_rcnn_head"],
)  # fmt: skip
def test_names_are_found(text: str) -> None:
    assert names_in(text)


@pytest.mark.parametrize(
    "text",
    ["sparse_rcnn", "sparse_rcnn.detector_base", "sparse_rcnn_conf", "sparse-rcnn-train", "SPARSE_RCNN_TRACEBACK",
     "Sparse R-CNN ablations", "determined", "subdetr_not", "detail", "undetected"],
)  # fmt: skip
def test_the_suites_own_name_and_other_words_are_none(text: str) -> None:
    assert not names_in(text)


def test_the_search_reaches_code_and_leaves_out_docstrings(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text(
        '"""RetinaNet"""\nfrom a.detr import x as y\n# DETR\ndef f(faster_rcnn):\n    "DETR"\n    return "A"\n'
    )
    assert sorted(text for _, text in texts(path) if names_in(text)) == ["a.detr", "faster_rcnn"]
    assert len(files()) > 60
