"""Who may import whom, how large files are, what starting a command costs, and where tests lie."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT

PACKAGES = ("sparse_rcnn", "experiments", "analysis")
FORBIDDEN = {
    "sparse_rcnn": {
        "hydra", "omegaconf", "wandb", "submitit", "tqdm", "rich",
        "experiments", "analysis", "tests",
    },
    "experiments": {"analysis", "tests"},
    "analysis": {"torch", "torchvision", "hydra", "omegaconf", "experiments", "tests"},
}  # fmt: skip
ALLOWED_IN_LIBRARY = {
    "torch", "torchvision", "numpy", "scipy", "PIL", "simplejpeg", "pycocotools", "hotcoco", "safetensors",
    "sparse_rcnn",
    "onnx", "onnxscript", "onnxruntime",  # an extra, imported where it is needed
}  # fmt: skip
ALLOWED_IN_RUNDIR = {"filelock", "sparse_rcnn"}
# The library's own layers, from the bottom up: a module imports from earlier lines alone, so that no circle can be.
# What `sparse_rcnn.architecture` builds by name is no import: a weights file says what that is.
LAYERS = [
    ["errors"],
    ["pixel_range", "data.foreign_formats", "frozen_norm"],
    [
        "structures", "boxes", "class_rows", "state_dicts", "model_card", "rng", "interrupt", "allocator", "ema",
        "schedule", "optim", "backbone", "box_init", "roi_pooler", "reuse", "interaction", "responses", "precision",
        "norm_eps", "eval_mode", "foreign_files", "backbone_layouts",
        "data", "data.transforms", "data.coco_categories",
        "data.ids", "data.image_names", "data.shapes_render", "evaluation.metrics",
        "rundir", "rundir.layout", "rundir.metric_keys", "rundir.changes", "places",
        "rundir.file_digest", "rundir.own_digest",
        "data.deep_pictures", "data.jpeg", "data.pillow_files", "fonts",
        "detr", "detr.padding_mask", "detr.sine_encoding", "detr.transformer", "detr.mlp", "detr.released_names",
        "deformable_detr", "deformable_detr.padding",
        "retinanet", "retinanet.anchors", "retinanet.output",
        "faster_rcnn", "faster_rcnn.backbone", "faster_rcnn.anchors",
        "faster_rcnn.output", "faster_rcnn.settings",
        "cascade_rcnn", "cascade_rcnn.predictor", "cascade_rcnn.gradient", "cascade_rcnn.selection",
    ],
    [
        "normalization", "criterion", "detector_module", "atomic", "architecture", "distributed", "runlog", "visualize",
        "detection_table",
        "rundir.identity", "rundir.provenance", "data.loader_processes",
        "proposals", "positional_encoding", "stage", "matcher", "pretrained", "array_pickle",
        "data.findings", "data.image", "data.box_formats", "data.shapes",
        "detr.backbone", "deformable_detr.attention", "deformable_detr.levels", "deformable_detr.sine_encoding",
        "retinanet.backbone",
        "faster_rcnn.losses", "faster_rcnn.postprocess", "faster_rcnn.unaligned_pooler",
        "cascade_rcnn.output",
    ],
    ["finite"],
    ["query_boxes", "postprocess", "retinanet.postprocess"],
    [
        "compilation", "rundir.json_files", "step_log", "losses", "dataset_detection", "convert", "weights",
        "checkpoint_files",
        "data.records", "data.image_headers",
        "detr.matcher", "detr.output", "retinanet.criterion",
        "deformable_detr.encoder", "deformable_detr.heads", "deformable_detr.matcher",
        "faster_rcnn.proposal_network", "faster_rcnn.criterion",
    ],
    [
        "rundir.digests",
        "data.box_column", "detr.criterion", "detr.postprocess",
        "deformable_detr.postprocess", "deformable_detr.decoder",
        "deformable_detr.criterion", "deformable_detr.released_names", "cascade_rcnn.criterion",
    ],
    [
        "rundir.checkpoints",
        "data.annotation_columns", "detr.released_checkpoints", "released_classes",
        "retinanet.torchvision_names", "faster_rcnn.torchvision_names",
    ],
    ["data.annotations", "released_formats"],
    ["data.boxes_outside", "data.label_space", "data.picture_check"],
    ["data.annotated_images", "evaluation.ground_truth"],
    ["data.coco"],
    [
        "rundir.lock", "rundir.reader", "engine", "speed", "checkpoint", "data.batching", "evaluation.detections",
        "backbone_weights", "transfer",
    ],
    [
        "image_detection", "data.loading", "evaluation.pycocotools_backend", "evaluation.hotcoco_backend",
        "rundir.find", "rundir.writer", "rundir.summary", "rundir.remote_copy", "rundir.views",
    ],
    ["rundir.run_progress", "rundir.verification", "detector_base", "evaluation.evaluator", "export"],
    ["detector", "query_detector", "retinanet.detector", "faster_rcnn.proposal_detector"],
    ["detr.detector", "deformable_detr.detector", "faster_rcnn.detector", "cascade_rcnn.detector"],
    ["evaluation", ""],
]  # fmt: skip


def sources(package: str) -> list[Path]:
    files = sorted((ROOT / package).rglob("*.py"))
    assert files, package
    return files


def tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(), str(file))


def imports(file: Path) -> list[tuple[str, ast.stmt]]:
    """Full names of what a file imports, anywhere in it, and the statements."""
    found: list[tuple[str, ast.stmt]] = []
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.Import):
            found += [(alias.name, node) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: relative import"
            found += [(f"{node.module}.{alias.name}", node) for alias in node.names]
    return found


@pytest.mark.parametrize("package", PACKAGES)
def test_nobody_imports_upward(package: str) -> None:
    wrong = [
        f"{file.relative_to(ROOT)}:{node.lineno}: {name}"
        for file in sources(package)
        for name, node in imports(file)
        if name.split(".")[0] in FORBIDDEN[package]
    ]
    assert not wrong


def test_the_library_needs_its_few_dependencies_alone() -> None:
    allowed = ALLOWED_IN_LIBRARY | set(sys.stdlib_module_names)
    library = [file for file in sources("sparse_rcnn") if file.parent.name != "rundir"]
    assert {name.split(".")[0] for file in library for name, _ in imports(file)} <= allowed


def test_the_run_directory_needs_filelock_alone() -> None:
    allowed = ALLOWED_IN_RUNDIR | set(sys.stdlib_module_names)
    files = [file for file in sources("sparse_rcnn/rundir") if file.stem != "views"]  # which are arrays
    used = [name for file in files for name, _ in imports(file)]
    assert {name.split(".")[0] for name in used} <= allowed
    own = {".".join(name.split(".")[:2]) for name in used if name.startswith("sparse_rcnn.")}
    assert own <= {f"sparse_rcnn.{name}" for name in ("rundir", "errors", "atomic", "places")}


def module_name(file: Path) -> str:
    """Of a file of the library, without the name of the library itself, which is the empty string."""
    parts = file.relative_to(ROOT / "sparse_rcnn").with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def lines_for_type_checkers(file: Path) -> set[int]:
    blocks = [n for n in ast.walk(tree(file)) if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING"]
    return {statement.lineno for block in blocks for statement in block.body}


def test_layers_of_the_library() -> None:
    modules = {module_name(file): file for file in sources("sparse_rcnn")}
    ranks = {name: i for i, layer in enumerate(LAYERS) for name in layer}
    assert sum(map(len, LAYERS)) == len(ranks)
    assert modules.keys() - ranks.keys() == set(), "without a layer"
    assert ranks.keys() - modules.keys() == set(), "no such module"
    wrong = []
    for module, file in modules.items():
        unseen = lines_for_type_checkers(file)
        for name, node in imports(file):
            if name.split(".")[0] != "sparse_rcnn" or node.lineno in unseen:
                continue
            parts = name.split(".")[1:]  # the module, or something in it
            target = next(t for n in range(len(parts), -1, -1) if (t := ".".join(parts[:n])) in modules)
            if ranks[target] >= ranks[module]:
                wrong.append(f"{module} imports {target}")
    assert wrong == []


# Keys of conf/ whose nodes are no objects of the library, options and commands: what only `experiments` knows.
FOREIGN_WORDS = re.compile(
    r"\bexperiments\b|(?<![\w-])--[a-z]"
    r"|(?<![\w.])(?:train|eval|optim|data|log|weights|schedule|criterion|input|scale)\.(?!yaml)[a-z_]+(?![\w.]*\()"
)


def test_the_library_speaks_of_arguments_and_not_of_the_command_line() -> None:
    found = [
        f"{file.relative_to(ROOT)}:{node.lineno}: {match[0]}"
        for file in sources("sparse_rcnn")
        if file.parent.name != "rundir"  # whose identity has its list of configuration keys
        for node in ast.walk(tree(file))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        for match in FOREIGN_WORDS.finditer(node.value)
    ]
    assert found == []


@pytest.mark.parametrize(
    "text", ["lower optim.lr, or", "train.device=", "python -m experiments.convert", "give --device cpu", "(data.root)"]
)
def test_foreign_words_are_found(text: str) -> None:
    assert FOREIGN_WORDS.search(text)


# Sub-packages and files of the other two packages, from the bottom up; commands of `experiments` stand on all of it.
ROOMS = {
    "experiments": ("cli", "config", "tracking", "run", "sweep"),
    "analysis": (
        "wandb_runs", "work_time", "paper", "our_rows", "output", "comments", "dashboard",
        "summaries", "statistics", "tables", "figures", "arguments", "commands", "__main__",
    ),
}  # fmt: skip


@pytest.mark.parametrize("package", ROOMS)
def test_rooms_import_downwards(package: str) -> None:
    ranks = {room: i for i, room in enumerate(ROOMS[package])}
    wrong = []
    for file in sources(package):
        own = file.relative_to(ROOT / package).with_suffix("").parts[0]
        if own == "__init__" or (package == "experiments" and own not in ranks):
            continue  # a command: nothing but the launchers, which start it as a program, stands on it
        assert own in ranks, f"{own} has no rank"
        for name, node in imports(file):
            parts = name.split(".")
            target = parts[1] if parts[0] == package and len(parts) > 1 else own
            if target != own and ranks.get(target, len(ranks)) >= ranks[own]:
                wrong.append(f"{file.relative_to(ROOT)}:{node.lineno}: {name}")
    assert wrong == []


def test_only_build_instantiates() -> None:
    users = set()
    for package in PACKAGES:
        for file in sources(package):
            names = {n.id for n in ast.walk(tree(file)) if isinstance(n, ast.Name)}
            names |= {n.attr for n in ast.walk(tree(file)) if isinstance(n, ast.Attribute)}
            names |= {name.rsplit(".", 1)[-1] for name, _ in imports(file)}
            if "instantiate" in names:
                users.add(str(file.relative_to(ROOT)))
    assert users == {"experiments/config/build.py"}


def test_one_class_name_is_one_thing() -> None:
    homes: dict[str, list[str]] = {}
    for package in PACKAGES:
        for file in sources(package):
            for node in tree(file).body:
                if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                    homes.setdefault(node.name, []).append(str(file.relative_to(ROOT)))
    assert {name: files for name, files in homes.items() if len(files) > 1} == {}


def test_commands_import_torch_late() -> None:
    commands = [f for f in sources("experiments") if 'if __name__ == "__main__"' in f.read_text()]
    assert ROOT / "experiments" / "train.py" in commands
    for file in commands:
        at_once = {name.split(".")[0] for name, node in imports(file) if node.col_offset == 0}
        assert not {"torch", "torchvision"} & at_once, file


def test_files_are_small() -> None:
    sizes = {
        str(file.relative_to(ROOT)): len(file.read_text().splitlines())
        for package in PACKAGES
        for file in sources(package)
    }
    assert not {name: size for name, size in sizes.items() if size > 400}, "past 300 lines, ask if it is two"


def test_no_test_file_is_imported() -> None:
    wrong = [
        f"{file.relative_to(ROOT)}:{node.lineno}: {name}"
        for file in sources("tests")
        for name, node in imports(file)
        if any(part.startswith("test_") for part in name.split("."))
    ]
    assert not wrong, "what several test files need belongs in tests/support"


@pytest.mark.parametrize("package", PACKAGES)
def test_folders_of_tests_are_those_of_the_package(package: str) -> None:
    folders = {file.parent.relative_to(ROOT / "tests") for file in sources(f"tests/{package}")}
    assert not [str(folder) for folder in folders if not (ROOT / folder / "__init__.py").is_file()]


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120
    )


def loaded_by(statement: str, modules: tuple[str, ...]) -> set[str]:
    code = f"import sys\n{statement}\nprint(*[m for m in {modules!r} if m in sys.modules])"
    done = python("-c", code)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


HEAVY = ("torch", "torchvision", "hydra", "omegaconf", "wandb", "submitit", "experiments", "analysis")


def test_importing_the_library_pulls_in_neither_torch_nor_hydra() -> None:
    assert loaded_by("import sparse_rcnn", HEAVY) == set()


def test_importing_every_module_of_the_library_pulls_in_no_suite() -> None:
    modules = [
        ".".join(f.relative_to(ROOT).with_suffix("").parts) for f in sources("sparse_rcnn") if f.stem != "__init__"
    ]
    loaded = loaded_by(f"import {', '.join(modules)}", (*HEAVY, "tqdm", "rich", "filelock"))
    # torch itself may import tqdm for its downloads.
    assert loaded - {"tqdm", "filelock"} == {"torch", "torchvision"}


def test_reading_and_writing_runs_needs_no_torch() -> None:
    modules = [".".join(f.relative_to(ROOT).with_suffix("").parts) for f in sources("sparse_rcnn/rundir")]
    assert loaded_by(f"import {', '.join(modules)}", HEAVY) == set()


HELP = """
import sys
from experiments.cli import console_scripts
sys.argv = ["train", "--help"]
try:
    console_scripts.train()
finally:
    print("loaded:", *sorted({name.split(".")[0] for name in sys.modules}))
"""
SLOW_TO_IMPORT = {"torch", "torchvision", "wandb", "pycocotools", "hotcoco", "scipy", "matplotlib", "plotly"}


def test_help_is_readable_and_imports_nothing_that_is_slow() -> None:
    done = python("-c", HELP)
    assert done.returncode == 0, done.stderr
    for word in ("recipe", "experiment", "backbone", "num_proposals"):
        assert word in done.stdout
    *_, loaded = done.stdout.split("loaded:")
    assert "hydra" in loaded.split()
    assert SLOW_TO_IMPORT & set(loaded.split()) == set()
