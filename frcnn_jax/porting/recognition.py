"""Which of `configs/*.py` a peer's weights belong to.

Names and shapes tell the architecture. Configurations that only learn differently give
the same predictions, and the one with the shortest name stands for them. Those that
predict differently with equal shapes (mmdetection's caffe and pytorch styles, image
sizes) are told apart by the text of a configuration in the file, then by words of the
file's name; where both are silent the user has to say.
"""

import dataclasses
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import traverse_util

from frcnn_jax import build, cli, config, runs
from frcnn_jax.convert import files, peers, published, surgery

# The rules of boxes tell whose detectors a configuration describes.
_CODERS = {"mmdet": "mmdet", "torchvision": "torchvision", "jwyang": "caffe"}
_CODERS["detectron2"] = "torchvision"  # the same rule; shapes tell the two apart
# Fields of the model that training alone sees, and the number of classes.
_TRAINING = re.compile(
    r"num_classes|initial_values|dtype|.*\.(box_loss\w*|loss_count|\w+_train|samples"
    r"|positive_\w+|negative_iou|min_positive_iou|rescue_rematches|allowed_border"
    r"|dropout|norm)"
)
_IMAGES = ("eval_short_side", "max_side", "size_rule", "resize")


class Candidate(NamedTuple):
    """A configuration file."""

    name: str
    run: config.Run

    @property
    def flag(self) -> str:
        """How to ask for it."""
        return f"--config={os.path.relpath(runs.CONFIGS / self.name)}.py"


Group = list[Candidate]  # of equal predictions, the one to name first


def shapes(model: config.FasterRCNN) -> dict[str, jax.ShapeDtypeStruct]:
    """Every path of a model with shape and type; nothing is computed."""
    init = build.detector(model).init
    tree = jax.eval_shape(init, jax.random.key(0), build.example_batch())
    return traverse_util.flatten_dict(tree, sep="/")


def with_classes(run: config.Run, classes: int) -> config.Run:
    """The run with this number of classes, told where it is another."""
    before = run.model.num_classes
    if before == classes:
        return run
    if before:
        print(f"classes: {classes} as in the weights, not the configuration's {before}")
    model = dataclasses.replace(run.model, num_classes=classes)
    data = dataclasses.replace(run.data, classes=())
    return dataclasses.replace(run, model=model, data=data)


def recognise(found: files.Loaded, path: str) -> config.Run:
    """The configuration of a peer's weights; prints which and why.

    Errors: ValueError, in one line, where none fits or several do.
    """
    rows = {row.file: row for row in published.table().values() if row.config}
    if row := rows.get(Path(path).name):
        print(f"recognised by its file name, {row.name}:")
        return runs.published_run(row)
    if found.kind not in _CODERS:
        raise ValueError(
            f"{path} carries no configuration: name the one it was trained with,"
            " --config=configs/NAME.py"
        )
    groups, why = _narrowed(_groups(found, path), found, path)
    if len(groups) > 1:
        raise ValueError(
            f"{path}: configurations of these names and shapes differ in what they"
            f" predict: say {_alternatives(groups)}"
        )
    chosen = groups[0][0]
    print(
        f"recognised {chosen.flag}: {found.kind} names, {len(found.variables)} arrays"
        f" with the shapes of this model{why}"
    )
    return chosen.run


def _groups(found: files.Loaded, path: str) -> list[Group]:
    """Configurations of the file's shapes, by what they predict."""
    classes = peers.classes(found.variables)
    wanted = {name: array.shape for name, array in found.variables.items()}
    groups: dict[tuple, Group] = {}
    differing: dict[tuple, tuple[int, str]] = {}
    for candidate in _candidates(found, classes):
        key = _predicting(candidate.run)
        if key not in groups and key not in differing:
            model = dataclasses.replace(candidate.run.model, num_classes=classes)
            ours = {name: leaf.shape for name, leaf in shapes(model).items()}
            odd = {name for name, _ in ours.items() ^ wanted.items()}
            if odd:
                differing[key] = len(odd), f"{candidate.flag} ({sorted(odd)[0]} ...)"
                continue
            groups[key] = []
        if key in groups:
            groups[key].append(candidate)
    if not groups:
        count, nearest = min(differing.values(), default=(0, "none"))
        raise ValueError(
            f"{path}: no configuration here has the names and shapes of these"
            f" {len(wanted)} arrays; nearest {nearest}, {count} arrays differ: write"
            " one and name it with --config"
        )
    return list(groups.values())


def _candidates(found: files.Loaded, classes: int) -> Group:
    """The peer's configurations, best name first.

    Subsets of COCO's classes are meant only where the file names them.
    """
    names, made = set(surgery.class_names(found.metadata)), []
    for file in sorted(runs.CONFIGS.glob("*.py")):
        if file.stem == "common":
            continue
        run = cli.run_of(str(file))
        theirs = run.model.num_classes and run.model.box_coder == _CODERS[found.kind]
        if theirs and (not run.data.classes or set(run.data.classes) == names):
            made.append(Candidate(file.stem, run))
    made.sort(key=lambda c: (c.run.model.num_classes != classes, len(c.name), c.name))
    return [c for c in made if _alike(c.run.model, found)] or made


def _alike(model: config.FasterRCNN, found: files.Loaded) -> bool:
    """Whether trunk and neck are of one kind, by what is cheap to see."""
    if _has(found, "fpn/") != (model.fpn is not None):
        return False
    if not isinstance(model.backbone, config.ResNet):
        return not _has(found, "backbone/layer3/")
    deep = _has(found, "backbone/layer3/block6/")
    return _has(found, "backbone/layer3/") and deep == (model.backbone.depth > 50)


def _has(found: files.Loaded, prefix: str) -> bool:
    return any(path.startswith(f"params/{prefix}") for path in found.variables)


def _predicting(run: config.Run) -> tuple:
    """Every field that a prediction depends on."""
    kept = [(k, v) for k, v in config.flatten(run.model) if not _TRAINING.fullmatch(k)]
    return (*kept, *((name, getattr(run.data, name)) for name in _IMAGES))


def _narrowed(
    groups: list[Group], found: files.Loaded, path: str
) -> tuple[list[Group], str]:
    """The groups that the file's own words allow, and the reason."""
    if len(groups) == 1:
        return groups, ""
    said = found.metadata.get("meta.cfg") or found.metadata.get("meta.config") or ""
    if facts := _facts(said):
        kept = [group for group in groups if _agrees(group[0].run.model, facts)]
        if not kept:
            raise ValueError(
                f"{path}: the configuration in it says {facts}, unlike all here of"
                f" these shapes: write one and name it with --config; nearest is"
                f" {_alternatives(groups)}"
            )
        return kept, f"; the configuration in the file says {facts}"
    words = set(re.split(r"[^a-z0-9]+", Path(path).name.lower()))
    parts = [set(group[0].name.split("_")) for group in groups]
    common = parts[0].intersection(*parts)
    own = [part - common for part in parts]
    kept = [g for g, part in zip(groups, own, strict=True) if part and part <= words]
    if len(kept) == 1:
        return kept, "; the file's name says so"
    return groups, ""


def _facts(text: str) -> dict[str, Any]:
    """What a configuration text of mmdetection says of style and pixels."""
    facts: dict[str, Any] = {}
    if style := re.search(r"\bstyle\s*=\s*['\"](\w+)['\"]", text):
        facts["style"] = style[1]
    for name in ("mean", "std"):
        listed = re.search(rf"\b{name}\s*=\s*\[([\d.,\s]+)\]", text)
        values = [float(v) for v in listed[1].split(",") if v.strip()] if listed else []
        if len(values) == 3:
            facts[name] = values
    return facts


def _agrees(model: config.FasterRCNN, facts: Mapping[str, Any]) -> bool:
    caffe = getattr(model.backbone, "stride_in_1x1", False)
    style = facts.get("style", "caffe" if caffe else "pytorch")
    pairs = (("mean", model.pixel_mean), ("std", model.pixel_std))
    same = [np.allclose(facts.get(name, ours), ours) for name, ours in pairs]
    return (style == "caffe") == caffe and all(same)


def _alternatives(groups: list[Group]) -> str:
    return " or ".join(group[0].flag for group in groups)
