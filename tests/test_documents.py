"""Every command of README and docs is run: here, in the smoke tests or in CI."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
SMALL = (
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
BRIEF = (
    "--config.train.steps=2",
    "--config.train.batch_size=2",
    "--config.model.num_classes=0",
)


def commands(page: Path) -> list[str]:
    """Lines of the page's ```bash blocks, without comments."""
    blocks = re.findall(r"```bash\n(.*?)```", page.read_text(), re.S)
    lines = [line for block in blocks for line in block.split("\n")]
    lines = [line.split("#")[0].strip() for line in lines]
    return [line for line in lines if line]


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A copy of the scripts with the data and files that the pages speak of."""
    folder = tmp_path_factory.mktemp("project")
    scripts = ("train.py", "eval.py", "predict.py", "convert.py")
    for name in (*scripts, "configs", "frcnn_jax", "tools"):
        source = ROOT / name
        copy = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, folder / name)
    make = [sys.executable, "tools/make_shapes.py", "--out=my_data", "--train=6"]
    run([*make, "--val=3", "--seed=3"], folder)
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
    configured = words[1] != "predict.py" and "--config=" in command
    extra = (SMALL if configured else ()) + (BRIEF if words[1] == "train.py" else ())
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


def test_every_python_command_runs(project):
    todo = [c for page in PAGES for c in commands(page) if c.startswith("python ")]
    todo = list(dict.fromkeys(todo))
    assert len(todo) >= 7
    # Those that start from weights come last: the weights are made from the first runs.
    marks = ("weights=", "init.load=", "convert.py")
    later = [c for c in todo if any(mark in c for mark in marks)]
    for command in [c for c in todo if c not in later]:
        run(shortened(command), project)
    narrow_weights(project)
    for command in later:
        classes = ["--config.model.num_classes=5"] if "eval.py" in command else []
        workdir = {"--workdir=runs/mine": "--workdir=runs/from_weights"}
        words = [workdir.get(word, word) for word in shortened(command)]
        run([*words, *classes], project)
    scores = json.loads((project / "runs/mine/eval.json").read_text())
    assert {"AP", "AP50", "per_class"} <= scores.keys()
    assert (project / "runs/r50/predictions/photo.jpg").exists()
    assert (project / "runs/mine/pictures/sheet.jpg").exists()
    assert (project / "runs/mine/analysis.json").exists()


def test_other_commands_are_those_of_ci():
    every = {command for page in PAGES for command in commands(page)}
    others = {command for command in every if not command.startswith("python ")}
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
