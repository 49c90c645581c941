"""The folder of a run, and which model a command line means: folder, file or name."""

import dataclasses
import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import jax

from frcnn_jax import build, cli, config, home, labels
from frcnn_jax.convert import files, published
from frcnn_jax.data.records import Dataset
from frcnn_jax.labels import Labels
from frcnn_jax.training import checkpoint, distributed
from frcnn_jax.training.about import versions
from frcnn_jax.types import Variables

CONFIGS = home.folder() / "configs"


# What a disk, or the rights to a folder, can have against writing.
REFUSED: tuple[int, ...] = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)
REFUSED += (errno.EPERM, errno.EEXIST, errno.ENOTDIR, errno.EISDIR)


@contextmanager
def writing(workdir: Path, flag: str = "--workdir") -> Iterator[None]:
    """Makes the folder that a flag names and tries to write, before what takes long.

    Errors: OSError that names folder or file and the way out, for what is tried here
    and for what is written there later, inside. A folder made here goes again where
    nothing was written.
    """
    made = not workdir.exists()
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=workdir) as probe:
            probe.write(bytes(1024))
    except OSError as error:
        raise _refused(workdir, error, flag) from error
    try:
        yield
    except OSError as error:
        place = Path(error.filename or workdir).absolute()  # writes name no file
        if error.errno in REFUSED and place.is_relative_to(workdir.absolute()):
            raise _refused(error.filename or workdir, error, flag) from error
        raise
    finally:
        if made:
            with suppress(OSError):  # something was written
                workdir.rmdir()


def _refused(place: str | Path, error: OSError, flag: str) -> OSError:
    kept = "; checkpoints already there are as they were"
    return OSError(
        f"{place} cannot be written ({error.strerror}): make room there, allow writing,"
        f" or choose another {flag}{kept if flag == '--workdir' else ''}"
    )


def save_run(
    workdir: Path,
    run: config.Run,
    labels: Labels,
    data: Dataset | None = None,
    file: tuple[str, config.Run] | None = None,
) -> None:
    """Writes `config.json`, or checks that the one there describes the same model.

    `file` is the configuration file that the run began with, as `cli.file_given` has
    it.

    Errors: a workdir with another model, seed, batch size, classes or (with `data`)
    images; other differences are printed, those of versions too.
    """
    images = {} if data is None else {"images": fingerprint(data)}
    path = workdir / "config.json"
    if path.exists():
        old, old_labels = load_run(workdir)
        changed = config.differences(old, run)
        for name, (before, now) in changed.items():
            print(f"changed since this run began: {name} {before!r} -> {now!r}")
        broken = [name for name, pair in changed.items() if _breaks(name, *pair)]
        if old_labels != labels:
            broken.append("the classes of the data")
        kept = json.loads(path.read_text())
        for name, now in versions().items():
            if kept.get(name, now) != now:
                print(f"changed since this run began: {name} {kept[name]} -> {now}")
        if images and kept.get("images", images["images"]) != images["images"]:
            broken.append("the images of the training data or their boxes")
        if broken:
            raise ValueError(
                f"{workdir} holds a run with other settings ({', '.join(broken)}):"
                " continue it with the old ones or choose another --workdir"
            )
    content = {**versions(), "run": config.to_dict(run), **labels._asdict(), **images}
    if file is not None:
        name, given = file
        content["config_file"] = {"name": name, "run": config.to_dict(given)}
    # Replaced whole: after a kill or on a full disk the old one is still there.
    new = path.with_suffix(".tmp")
    new.write_text(json.dumps(content, indent=1) + "\n")
    new.replace(path)


def config_file(workdir: str | Path) -> tuple[str, config.Run] | None:
    """Name and run of the file that a folder's run was started with, where known."""
    path = Path(workdir) / "config.json"
    kept = json.loads(path.read_text()) if path.exists() else {}
    if "config_file" not in kept:
        return None
    name, given = kept["config_file"]["name"], kept["config_file"]["run"]
    return name, config.from_dict(given)


def fingerprint(data: Dataset) -> str:
    """Return a text that another order, number or labelling of images would change."""
    rows = ((r.source_id, r.width, r.height, len(r.labels)) for r in data.records)
    digest = hashlib.sha256(repr(list(rows)).encode()).hexdigest()
    return f"{len(data.records)} images, {digest[:16]}"


# Fields that decide shapes, what is in the optimiser's state, or which image is read
# when: a run with another value would not be the same run continued.
FIXED: tuple[str, ...] = ("model.", "seed", "train.batch_size", "train.freeze")
FIXED += ("train.optimizer",)
FIXED += ("train.no_decay", "train.bias_rate", "data.train", "data.val_fraction")
FIXED += ("data.classes", "data.image_ids", "data.fraction", "data.keep_empty")
FIXED += ("data.min_box_side", "data.voc_inclusive", "data.buckets", "data.crop")
FIXED += ("data.short_sides", "data.max_side")  # an image's bucket follows from these
# Of these only zero or not decides what the optimiser keeps.
SWITCHES = ("train.clip_norm", "train.momentum", "train.weight_decay")


def _breaks(name: str, before: Any, now: Any) -> bool:
    """Say whether a run with this change cannot be continued."""
    if name in SWITCHES:
        return bool(before) != bool(now)
    return name.startswith(FIXED)


def load_run(workdir: str | Path) -> tuple[config.Run, Labels]:
    """The run and the classes that a folder was trained with."""
    path = Path(workdir) / "config.json"
    if not path.exists():
        raise FileNotFoundError(
            f"{path} does not exist: {workdir} is not the folder of a run; train one"
            " with train.py --workdir"
        )
    content = json.loads(path.read_text())
    labels = Labels(tuple(content["class_names"]), tuple(content["category_ids"]))
    return config.from_dict(content["run"]), labels


class Trained(NamedTuple):
    """A model ready to predict."""

    run: config.Run
    labels: Labels | None  # None: the weights do not say
    variables: Variables
    source: str  # for people
    step: int | None  # of the checkpoint; None for a weights file


def chosen(
    run: config.Run | None, workdir: str | None, weights: str | None
) -> config.Run:
    """The run to load a model for: given, the folder's own, or that of the weights.

    Errors: none of them, a configuration alone, an unknown name.
    """
    named = weights is not None and published.is_name(weights)
    row = published.find(weights) if named else None
    if workdir is not None:
        own, _ = load_run(workdir)
        return own if run is None else with_own_model(run, own)
    if run is None and row is not None:
        return published_run(row)
    if run is None and weights is not None:
        run = carried_run(files.metadata(weights))
    if run is None or weights is None:
        raise ValueError(
            "name a --workdir, or both --config and --weights, or weights that carry"
            " their configuration: a file that convert.py made, or published ones, as"
            " in --weights=mmdet:r50_fpn_1x"
        )
    return run


def carried_run(metadata: Mapping[str, str]) -> config.Run | None:
    """The configuration that a weight file of `convert.py` carries."""
    if not {"frcnn_jax", "config"} <= metadata.keys():
        return None
    return config.from_dict(json.loads(metadata["config"]))


def published_run(row: published.Published) -> config.Run:
    """The configuration that published weights belong to; prints which.

    Errors: weights of a trunk.
    """
    if not row.config:
        raise ValueError(
            f"{row.name} is an ImageNet trunk, not a detector: start a training from it"
            f" with --config.init.load={row.name}"
        )
    file = os.path.relpath(CONFIGS / f"{row.config}.py")
    print(f"{row.name}: --config={file}" + (f" ({row.note})" if row.note else ""))
    return cli.run_of(file)


def named_by(workdir: str | None, weights: str | None) -> Labels | None:
    """The classes of a run's folder, else those that a weights file names, if any."""
    if workdir is not None:
        return load_run(workdir)[1]
    return labels.of_metadata(files.metadata(weights))


def trained(
    run: config.Run,
    workdir: str | None,
    weights: str | None,
    which: str = checkpoint.LATEST,
) -> Trained:
    """A model from a run's folder, from a weights file, or both (the file wins).

    `which` is the checkpoint of a folder: "latest" or "best". Errors: ValueError for
    any other.
    """
    if which not in (checkpoint.LATEST, checkpoint.BEST):
        raise ValueError(
            f"checkpoint {which!r}: choose {checkpoint.LATEST!r} or {checkpoint.BEST!r}"
        )
    named = named_by(workdir, weights)
    if weights is not None:
        return Trained(run, named, build.variables(run, weights), weights, None)
    alone = jax.process_count() == 1  # then one device is enough
    mesh = distributed.make_mesh(1 if alone else 0)
    like = distributed.replicate(build.fresh_variables(run), mesh)
    with checkpoint.Checkpoints(workdir, None) as saved:
        found, number = saved.restore_variables(like, which)
    best = " (best)" if which == checkpoint.BEST else ""
    name = f"{workdir} at step {number}{best}"
    return Trained(run, named, found, name, number)


def with_own_model(run: config.Run, own: config.Run) -> config.Run:
    """The run with the number of classes that the folder's run got from its data."""
    if run.model.num_classes == 0:
        model = dataclasses.replace(run.model, num_classes=own.model.num_classes)
        return dataclasses.replace(run, model=model)
    return run
