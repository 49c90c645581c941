"""Every command of README and docs is run: here, in the smoke tests or in CI."""

import ast
import dataclasses
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from frcnn_jax import config
from tools import pictures

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(
    [
        *(ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "benchmarks/README.md"),
        *(ROOT / "docs").glob("*.md"),
    ]
)
LANGUAGES = {"bash", "python", "sh", "text"}
# First lines of the ```sh blocks, which no test runs, and why.
NOT_RUN = {
    "NAME=pod ZONE=us-east5-a": "a TPU pod",
    "#SBATCH --nodes=2 --ntasks-per-node=8 --gpus-per-node=8": "SLURM and GPUs",
    "spec: {completionMode: Indexed, completions: 4, parallelism: 4}": "Kubernetes",
    "python train.py --config=configs/r50_fpn_1x.py --dry_run": "full size: "
    "tests/test_dry_run.py runs it in small",
    "pip install jax flatbuffers numpy": "network",
    "pip install onnxruntime numpy": "network",
    "python predict.py --weights=mmdet:r50_fpn_1x photo.jpg "
    "--out=runs/mmdet": "network",
    "python eval.py --weights=mmdet:": "network",
    "python convert.py runs/r50 hf:me/crabs --data_license=CC-BY-4.0": "network: "
    "tests/porting/test_publish.py has a hub beside it",
    "ls my_data/images/*.jpg | python predict.py --workdir=runs/mine - "
    "--out=runs/mine/listed": "a pipe: tests/data and tests/smoke read lists",
    "python benchmarks/inference.py --config=configs/r50_fpn_1x.py --size=800x1216 "
    "--repeats=10 --save": "full size: tests/benchmarks run each in small",
}
SMALL = (
    "--config.data.buckets=((96,96),)",
    "--config.data.short_sides=(64,)",
    "--config.data.max_side=96",
    "--config.data.eval_short_side=64",
    "--config.model.rpn.pre_nms_train=64",
    "--config.model.rpn.post_nms_train=32",
    "--config.model.rpn.pre_nms_test=64",
    "--config.model.rpn.post_nms_test=32",
    "--config.model.backbone.width=8",
    "--config.model.fpn.channels=16",
    "--config.model.rpn.channels=16",
    "--config.model.roi.fc=(16,)",
    "--config.model.roi.samples=16",
)
FEW = ("--train=6", "--val=3")  # images of my_data
BRIEF = (
    "--config.train.steps=2",
    "--config.train.batch_size=2",
    "--config.model.num_classes=0",
)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A copy of the scripts with the data and files that the pages speak of."""
    folder = tmp_path_factory.mktemp("project")
    scripts = ("train.py", "eval.py", "predict.py", "convert.py")
    for name in (*scripts, "configs", "frcnn_jax", "tools"):
        source = ROOT / name
        copy = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, folder / name)
    for page in PAGES:
        for name, text in pictures.files(page).items():
            (folder / name).write_text(text)
    make = [sys.executable, "tools/make_shapes.py", "--out=my_data", "--seed=0"]
    run([*make, *FEW], folder)
    shutil.copytree(folder / "my_data", folder / "data/coco")
    for split in ("train", "val"):
        old = folder / "data/coco/annotations" / f"{split}.json"
        old.rename(old.with_name(f"instances_{split}2017.json"))
    first = sorted((folder / "my_data/images").iterdir())[0]
    shutil.copy(first, folder / "photo.jpg")
    return folder


def run(words: list[str], folder: Path) -> str:
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, f"{shlex.join(words)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def shortened(command: str) -> list[str]:
    """The command's own words, with sizes that a test can afford."""
    words = shlex.split(command)
    extra: tuple[str, ...] = ()
    if words[1] != "predict.py" and "--config=" in command:
        extra += SMALL
    if words[1] == "train.py":
        extra += BRIEF
    if "--out=my_data" in words:
        extra += FEW
    if "--config=my_config.py" in words:  # runs/mine is that of another file
        words = [word.replace("runs/mine", "runs/from_file") for word in words]
    return [sys.executable, *words[1:], *extra]


def narrow_weights(folder: Path) -> None:
    """`weights.safetensors` and `resnet18.safetensors` with the peers' names."""
    from safetensors.numpy import save_file

    from frcnn_jax import build, runs
    from frcnn_jax.convert import imagenet, mmdet

    own, _ = runs.load_run(folder / "runs/r50")
    flat = build.traverse_util.flatten_dict(build.fresh_variables(own), sep="/")
    flat = {name: np.asarray(value) for name, value in flat.items()}
    save_file(mmdet.to_state_dict(flat), folder / "weights.safetensors")
    own, _ = runs.load_run(folder / "runs/mine")
    flat = build.traverse_util.flatten_dict(build.fresh_variables(own), sep="/")
    trunk = {k: np.asarray(v) for k, v in flat.items() if "/backbone/" in k}
    save_file(imagenet.to_state_dict(trunk), folder / "resnet18.safetensors")


def ask(words: list[str], asking: list[str], folder: Path) -> None:
    """Starts a server on a free port and gives it what the pages ask for."""
    server, told = pictures.start([*words, "--port=0"], folder)
    try:
        port = re.search(r"http://127.0.0.1:(\d+)", told)[1]
        for command in asking:
            asked = shlex.split(command.replace(":8000", f":{port}"))
            assert {"boxes", "names"} <= json.loads(run(asked, folder)).keys()
    finally:
        server.terminate()
        server.communicate()


def of_pages() -> list[str]:
    """Every command of the pages once."""
    return list(dict.fromkeys(c for page in PAGES for c in pictures.commands(page)))


def test_every_command_and_python_block_runs(project):
    todo = [c for c in of_pages() if c.startswith("python ")]
    assert len(todo) >= 20
    # Those that start from weights come last: the weights are made from the first runs.
    marks = ("weights=", "init.load=", "convert.py")
    later = [c for c in todo if any(mark in c for mark in marks)]
    servers = [c for c in todo if c.endswith("&")]
    for command in [c for c in todo if c not in later + servers]:
        run(shortened(command), project)
    asking = [c for c in of_pages() if c.startswith("curl ")]
    for command in servers:
        ask(shortened(command)[:-1], asking, project)
    narrow_weights(project)
    for command in later:
        classes = ["--config.model.num_classes=5"] if "eval.py" in command else []
        workdir = {"--workdir=runs/mine": "--workdir=runs/from_weights"}
        words = [workdir.get(word, word) for word in shortened(command)]
        run([*words, *classes], project)
    blocks = [b for page in PAGES for b in pictures.blocks(page) if b[0] == "python"]
    for number, (_, text) in enumerate(blocks):
        (project / f"block_{number}.py").write_text(text)
    every = f"[runpy.run_path(f'block_{{n}}.py') for n in range({len(blocks)})]"
    run([sys.executable, "-c", f"import runpy; {every}"], project)
    scores = json.loads((project / "runs/mine/eval.json").read_text())
    assert {"AP", "AP50", "per_class"} <= scores.keys()
    assert (project / "runs/r50/predictions/photo.jpg").exists()
    assert (project / "runs/mine/pictures/sheet.jpg").exists()
    assert (project / "runs/mine/analysis.json").exists()


def test_blocks_that_are_not_run_are_listed_with_the_reason():
    blocks = [block for page in PAGES for block in pictures.blocks(page)]
    assert {language for language, _ in blocks} <= LANGUAGES
    first = [text.split("\n")[0] for language, text in blocks if language == "sh"]
    assert {line.split("  ")[0] for line in first} == NOT_RUN.keys()
    for page in PAGES:  # a command stands in a block, where it is found
        text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.S | re.M)
        assert not re.findall(r"^ {4}(?:python|pip|make|curl|srun) .*", text, re.M)


def test_commands_within_a_sentence_exist():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))
    for page in PAGES:
        for line in re.findall(r"`(make|python) ([^`]+)`", page.read_text()):
            what, *words = line[1].split()
            if line[0] == "make":
                assert what in targets, f"{page.name}: make {what}"
            elif what != "-m":
                text = (ROOT / what).read_text() + (
                    ROOT / "frcnn_jax/cli.py"
                ).read_text()
                for flag in re.findall(r"--(\w+)(?![\w.])", " ".join(words)):
                    assert re.search(rf"[\"-]{flag}\"", text), f"{page.name}: {line}"


def test_other_commands_are_those_of_ci():
    ran = ("python ", "curl ")
    others = {command for command in of_pages() if not command.startswith(ran)}
    script = (ROOT / ".ci/run").read_text()
    for command in others:
        if command.startswith("make "):
            assert re.search(rf"^step {command}$", script, re.M), command
        else:  # what a reader does before the first command
            assert command.startswith(("git clone ", "pip install -r "))


def test_links_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_files_named_by_the_architecture_exist():
    page = (ROOT / "docs/architecture.md").read_text()
    figure = (ROOT / "docs/images/architecture.svg").read_text()
    named = re.findall(r"`([\w/.]+(?:\.py|/))`", page)
    drawn = re.findall(r"[\w/]+\.py", figure)
    assert len(named) > 40 and len(drawn) > 15
    for name in named + drawn:
        assert (ROOT / name).exists() or (ROOT / "frcnn_jax" / name).exists(), name
    packages = {path.parent.name for path in ROOT.glob("frcnn_jax/*/__init__.py")}
    told = {name.split("/")[0] for name in named}
    assert packages - told == {"doctor"}  # of data_check.md


def test_fields_named_for_those_who_come_from_elsewhere_exist():
    page = (ROOT / "docs/coming_from.md").read_text()
    rows = [line.strip("|").split("|") for line in page.splitlines() if line[:1] == "|"]
    ours = re.findall(r"`([a-z][\w.]+)`", " ".join(row[-1] for row in rows))
    sections = tuple(f"{entry.name}." for entry in dataclasses.fields(config.Run))
    fields = [name for name in ours if name.startswith(sections)]
    assert len(fields) > 80
    known = dict(config.flatten(config.Run()))
    unknown = [name for name in fields if name not in known]
    assert not unknown, [f"{name}: {config.nearest(name, known)}" for name in unknown]


def test_the_notebook_uses_what_there_is():
    """`make notebook` runs it whole; here its imports and configuration only."""
    notebook = json.loads((ROOT / "docs/quick_start.ipynb").read_text())
    cells = [c for c in notebook["cells"] if c["cell_type"] == "code"]
    nodes = [n for c in cells for n in ast.walk(ast.parse("".join(c["source"])))]
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module.startswith("frcnn_jax"):
            exec(ast.unparse(node), {})
    texts = [node.value for node in nodes if isinstance(node, ast.Constant)]
    (text,) = [t for t in texts if "def get_config" in str(t)]
    names: dict = {}
    exec(text, names)
    config.check_names(names["get_config"]())
    config.validate(names["get_config"]())
    size = (ROOT / "docs/quick_start.ipynb").stat().st_size
    assert size < 300_000
    assert any(cell["outputs"] for cell in cells), "run `make notebook`"
