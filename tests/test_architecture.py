"""The house rules that a parser can check, and proof that each check can fail.

Every rule is a function from sources (`{path from the root: text}`) to a list of
complaints, so that the same code reads the real tree and hand-made violations of a few
lines. Imports inside functions count like any other.
"""

import ast
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "frcnn_jax"
MAX_FUNCTION = 60  # lines, signature and docstring included
MAX_FILE = 400  # lines

Sources = dict[str, str]

# Which rooms (folders and top files) of the package a room may import besides itself.
MAY_IMPORT = {
    "config": set(),
    "types": set(),
    "ops": {"types"},
    "models": {"ops", "types"},
    "losses": {"ops", "types"},
    "detectors": {"config", "types", "ops", "models", "losses"},
    "training": {"config", "types", "version", "terminal"},
    "evaluation": {"config", "types", "data", "terminal"},
    "vis": {"types"},
    "cli": {"config"},
    "data": {"config"},
    "labels": {"config", "data"},
    "pages": set(),
    "doctor": {
        *("config", "cli", "data", "detectors", "ops", "pages", "terminal", "vis")
    },
    "report": {"config", "data", "evaluation", "pages", "training", "vis"},
    "convert": set(),
    "export": {"types"},
    "machine": {"convert", "training"},
    "version": set(),
    "home": set(),
    "terminal": set(),
    "panels": {"data", "evaluation", "vis"},
}
MAY_IMPORT["build"] = {*MAY_IMPORT}
MAY_IMPORT["dry_run"] = {*MAY_IMPORT}
MAY_IMPORT["runs"] = {*MAY_IMPORT}
MAY_IMPORT["porting"] = {*MAY_IMPORT}
MAY_IMPORT["prediction"] = {*MAY_IMPORT}
OF_PACKAGE = {"prediction", "version"}  # what frcnn_jax/__init__.py hands on

NOWHERE = {"clu", "tensorflow", "torch", "torchvision"}
NEVER = {
    "config": {"flax", "jax", "jaxlib"},
    "ops": {"flax"},
    "data": {"flax", "jax", "jaxlib"},
}
RUN_PATH = ("frcnn_jax/", "configs/", "train.py", "eval.py", "predict.py", "convert.py")

# A path of one machine: a home or work folder at the start of an absolute path. The
# words are assembled so that this file passes its own rule.
HOMES = "|".join(("home", "root", "work", "Users"))
LOCAL_PATH = re.compile(rf"(?<![\w.~}})\]])/(?:{HOMES})/\w")
REGISTRIES = ("py" + "pi.org", "python" + "hosted.org", "ana" + "conda.org")


def is_package_file(path: str) -> bool:
    return path.startswith(f"{PACKAGE}/") and path.endswith(".py")


def module_name(path: str) -> str:
    parts = PurePosixPath(path).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_names(path: str, text: str) -> Iterator[tuple[int, str]]:
    """Yield (line, dotted name) of every import; `from a import b` gives `a.b`."""
    here = list(PurePosixPath(path).parent.parts)
    for node in ast.walk(ast.parse(text, path)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) - node.level + 1] if node.level else []
            prefix = ".".join(base + ([node.module] if node.module else []))
            yield from ((node.lineno, f"{prefix}.{a.name}") for a in node.names)


def room_of(name: str) -> str:
    """`frcnn_jax.ops.boxes.area` -> `ops`; the package itself -> the empty string."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 and not parts[1].startswith("_") else ""


def is_inside(name: str) -> bool:
    return name == PACKAGE or name.startswith(f"{PACKAGE}.")


def import_table(sources: Sources) -> list[str]:
    """The direction of imports between rooms; configs see the schema only."""
    faults = []
    for path, text in sources.items():
        if path.endswith("/__main__.py"):
            continue  # a script, as those at the root: it starts what lies above
        if is_package_file(path):
            room = room_of(module_name(path))
            if room and room not in MAY_IMPORT:
                faults.append(f"{path}: room {room!r} has no row in MAY_IMPORT")
                continue
            allowed = {room, "", *(MAY_IMPORT[room] if room else OF_PACKAGE)}
        elif path.startswith("configs/"):
            room, allowed = "configs", {"config", ""}
        else:
            continue
        for line, name in imported_names(path, text):
            if is_inside(name) and room_of(name) not in allowed:
                faults.append(f"{path}:{line}: {room!r} must not import {name}")
    return faults


def foreign_imports(sources: Sources) -> list[str]:
    """Libraries that a room, or the whole run path, does without."""
    faults = []
    for path, text in sources.items():
        if not path.startswith(RUN_PATH) or not path.endswith(".py"):
            continue
        room = room_of(module_name(path)) if is_package_file(path) else ""
        banned = NOWHERE | NEVER.get(room, set())
        for line, name in imported_names(path, text):
            if name.split(".")[0] in banned:
                faults.append(f"{path}:{line}: {name} is not imported here")
    return faults


def imports_by_string(sources: Sources) -> list[str]:
    """A name resolves to a file one can open: no import of a computed string."""
    return [
        f"{path}:{node.lineno}: import by string"
        for path, text in sources.items()
        if is_package_file(path)
        for node in ast.walk(ast.parse(text, path))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func).split(".")[-1] in {"import_module", "__import__"}
    ]


def import_graph(sources: Sources) -> dict[str, list[str]]:
    texts = {module_name(p): (p, t) for p, t in sources.items() if is_package_file(p)}
    graph = {}
    for module, (path, text) in texts.items():
        names = [name for _, name in imported_names(path, text)]
        targets = [n if n in texts else n.rpartition(".")[0] for n in names]
        graph[module] = sorted({t for t in targets if t in texts and t != module})
    return graph


def import_cycles(sources: Sources) -> list[str]:
    """Modules that import each other, directly or around a corner."""
    graph, done, faults = import_graph(sources), set(), []

    def visit(module, trail):
        if module in trail:
            faults.append(" -> ".join([*trail[trail.index(module) :], module]))
        elif module not in done:
            for target in graph[module]:
                visit(target, [*trail, module])
            done.add(module)

    for module in graph:
        visit(module, [])
    return faults


def public_definitions(tree: ast.Module) -> Iterator[tuple[str, ast.AST]]:
    """Yield (name, node) of public functions, classes and their public methods."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    pending = [("", tree)]
    while pending:
        prefix, parent = pending.pop()
        for node in ast.iter_child_nodes(parent):
            if isinstance(node, kinds) and not node.name.startswith("_"):
                yield prefix + node.name, node
                if isinstance(node, ast.ClassDef):
                    pending.append((f"{prefix}{node.name}.", node))


def missing_docstrings(sources: Sources) -> list[str]:
    """Every public module, function, class and method says what it is."""
    faults = []
    for path, text in sources.items():
        if not is_package_file(path):
            continue
        tree = ast.parse(text, path)
        if not ast.get_docstring(tree):
            faults.append(f"{path}:1: the module has no docstring")
        for name, node in public_definitions(tree):
            if not ast.get_docstring(node):
                faults.append(f"{path}:{node.lineno}: {name} has no docstring")
    return faults


def long_functions_and_files(sources: Sources) -> list[str]:
    """House rule: what does not fit on a page is probably two things."""
    faults = []
    for path, text in sources.items():
        if not is_package_file(path):
            continue
        lines = len(text.splitlines())
        if lines > MAX_FILE:
            faults.append(f"{path}: {lines} lines, at most {MAX_FILE}: split by noun")
        for node in ast.walk(ast.parse(text, path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = node.end_lineno - node.lineno + 1
                if lines > MAX_FUNCTION:
                    faults.append(
                        f"{path}:{node.lineno}: {node.name} has {lines} lines, at most "
                        f"{MAX_FUNCTION}: name a part of it"
                    )
    return faults


def machine_traces(sources: Sources) -> list[str]:
    """Paths of one machine and hosts of package registries belong in no file."""
    faults = []
    for path, text in sources.items():
        for number, line in enumerate(text.splitlines(), 1):
            found = LOCAL_PATH.search(line)
            hosts = [host for host in REGISTRIES if host in line.lower()]
            if found:
                faults.append(f"{path}:{number}: absolute path {line[found.start() :]}")
            faults.extend(f"{path}:{number}: package registry {h}" for h in hosts)
    return faults


RULES = (
    import_table,
    foreign_imports,
    imports_by_string,
    import_cycles,
    missing_docstrings,
    long_functions_and_files,
    machine_traces,
)


def files_git_knows() -> set[str]:
    """What git tracks or would track; nothing where git or its folder is missing."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    except FileNotFoundError:
        return set()
    return set(filter(None, done.stdout.split("\0")))


def files_outside_hidden_folders() -> set[str]:
    names = set()
    for folder, children, files in os.walk(ROOT):
        children[:] = [c for c in children if c == ".ci" or c[0] != "." and c != "runs"]
        names |= {(Path(folder) / f).relative_to(ROOT).as_posix() for f in files}
    return names


@pytest.fixture(scope="module")
def sources() -> Sources:
    """Every text file of the project; what is not UTF-8 is not text."""
    texts = {}
    for name in sorted(files_git_knows() or files_outside_hidden_folders()):
        if not (ROOT / name).is_file():
            continue  # deleted, and git still lists it
        try:
            texts[name] = (ROOT / name).read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
    return texts


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_project_keeps_the_rule(rule, sources):
    faults = rule(sources)
    if faults:
        pytest.fail("\n  ".join([rule.__doc__, *faults]), pytrace=False)


def test_the_walker_reads_the_whole_project(sources):
    on_disk = {p.relative_to(ROOT).as_posix() for p in ROOT.glob(f"{PACKAGE}/**/*.py")}
    assert on_disk <= set(sources)
    assert {"frcnn_jax/config/schema.py", "Makefile", ".ci/run"} <= set(sources)


# Hand-made violations: (rule, sources, what the complaint says).
VIOLATIONS = [
    (
        import_table,
        {"frcnn_jax/ops/nms.py": "from frcnn_jax.models import fpn\n"},
        "frcnn_jax/ops/nms.py:1: 'ops' must not import frcnn_jax.models.fpn",
    ),
    (
        import_table,
        {"frcnn_jax/models/fpn.py": "def f():\n    from frcnn_jax import config\n"},
        "fpn.py:2: 'models' must not import frcnn_jax.config",
    ),
    (
        import_table,
        {"frcnn_jax/data/coco.py": "from ..types import Batch\n"},
        "'data' must not import frcnn_jax.types.Batch",
    ),
    (
        import_table,
        {"frcnn_jax/vis.py": "from . import data\n"},
        "'vis' must not import frcnn_jax.data",
    ),
    (
        import_table,
        {"frcnn_jax/training/loop.py": "import frcnn_jax.build as b\n"},
        "'training' must not import frcnn_jax.build",
    ),
    (
        import_table,
        {"frcnn_jax/utils/misc.py": ""},
        "room 'utils' has no row",
    ),
    (
        import_table,
        {"configs/demo.py": "from frcnn_jax.build import detector\n"},
        "'configs' must not import frcnn_jax.build.detector",
    ),
    (
        foreign_imports,
        {"frcnn_jax/data/coco.py": "import jax.numpy as jnp\n"},
        "frcnn_jax/data/coco.py:1: jax.numpy",
    ),
    (
        foreign_imports,
        {"frcnn_jax/config/schema.py": "from jax import Array\n"},
        "jax.Array",
    ),
    (
        foreign_imports,
        {"frcnn_jax/ops/boxes.py": "from flax import linen as nn\n"},
        "flax.linen",
    ),
    (
        foreign_imports,
        {"frcnn_jax/convert/torchvision.py": "def f():\n    import torch\n"},
        "torchvision.py:2: torch is not",
    ),
    (foreign_imports, {"train.py": "import tensorflow as tf\n"}, "train.py:1"),
    (foreign_imports, {"configs/x.py": "import torch.nn\n"}, "configs/x.py:1"),
    (
        imports_by_string,
        {"frcnn_jax/build.py": "import importlib\nimportlib.import_module('a')\n"},
        "frcnn_jax/build.py:2",
    ),
    (
        import_cycles,
        {
            "frcnn_jax/ops/a.py": "from frcnn_jax.ops import b\n",
            "frcnn_jax/ops/b.py": "from .c import thing\n",
            "frcnn_jax/ops/c.py": "def f():\n    import frcnn_jax.ops.a\n",
        },
        "frcnn_jax.ops.a -> frcnn_jax.ops.b -> frcnn_jax.ops.c -> frcnn_jax.ops.a",
    ),
    (missing_docstrings, {"frcnn_jax/vis.py": "X = 1\n"}, "vis.py:1: the module"),
    (
        missing_docstrings,
        {"frcnn_jax/vis.py": '"""Doc."""\n\ndef draw():\n    pass\n'},
        "vis.py:3: draw has no docstring",
    ),
    (
        missing_docstrings,
        {"frcnn_jax/a.py": '"""D."""\nclass A:\n    """D."""\n    def b(self): ...\n'},
        "a.py:4: A.b has no docstring",
    ),
    (
        long_functions_and_files,
        {"frcnn_jax/a.py": "def f():\n" + "    x = 1\n" * MAX_FUNCTION},
        f"f has {MAX_FUNCTION + 1} lines",
    ),
    (
        long_functions_and_files,
        {"frcnn_jax/a.py": "x = 1\n" * (MAX_FILE + 1)},
        f"a.py: {MAX_FILE + 1} lines",
    ),
    (machine_traces, {"README.md": "cd /" + "home/ann/coco\n"}, "README.md:1: absol"),
    (machine_traces, {"a.py": "\nX = '/" + "work/main'\n"}, "a.py:2: absolute path"),
    (machine_traces, {"a.txt": "file://" + "/" + "root/x"}, "a.txt:1: absolute path"),
    (machine_traces, {"Makefile": "-i https://" + REGISTRIES[0] + "/simple"}, "regist"),
]


@pytest.mark.parametrize(("rule", "tree", "complaint"), VIOLATIONS)
def test_a_violation_is_found_once(rule, tree, complaint):
    faults = rule(tree)
    assert len(faults) == 1, faults
    assert complaint in faults[0]


def test_every_rule_can_fail():
    assert {rule for rule, _, _ in VIOLATIONS} == set(RULES)


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_what_the_table_allows_passes(room):
    allowed = sorted((MAY_IMPORT[room] | {room}) - {"__main__"})
    text = "from frcnn_jax import __version__\n"
    text += "".join(f"from frcnn_jax.{other} import x\n" for other in allowed)
    file = "data/__main__.py" if room == "__main__" else f"{room}/a.py"
    assert import_table({f"frcnn_jax/{file}": text}) == []


def test_innocent_lines_pass():
    clean = {
        "frcnn_jax/ops/a.py": '"""D."""\n\ndef _f():\n    def g():\n        pass\n',
        "frcnn_jax/data/tfds.py": '"""D."""\nimport tensorflow_datasets\n',
        "frcnn_jax/types.py": '"""D."""\nimport jax\n',
        "frcnn_jax/data/__main__.py": '"""D."""\nfrom frcnn_jax.doctor import a\n',
        "frcnn_jax/ops/b.py": '"""D."""\nfrom frcnn_jax.ops import a\nimport jax\n',
        "tools/peer.py": "import torch\nfrom frcnn_jax import build\n",
        "README.md": "https://example.org/home/a, runs/work/x, ~/work/y, /data/coco",
    }
    assert [fault for rule in RULES for fault in rule(clean)] == []
