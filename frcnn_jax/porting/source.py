"""Weights with their configuration: read from anywhere, written for us or a peer."""

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from flax import traverse_util

from frcnn_jax import cli, config, labels, runs
from frcnn_jax.convert import files, locate, peers, published, surgery
from frcnn_jax.convert.merge import merge
from frcnn_jax.convert.rules import ConversionError, Flat
from frcnn_jax.porting import recognition
from frcnn_jax.version import __version__

SUFFIXES = {"ours": (".safetensors",), "peer": (".safetensors", ".npz")}


class Source(NamedTuple):
    """Weights of a whole detector and what is known of them."""

    name: str  # the file, name or folder they were read from
    run: config.Run
    labels: labels.Labels | None  # None: the classes have no names
    variables: Flat
    sha256: str  # of the file; "" for a run's folder


def read(name: str, run: config.Run | None = None) -> Source:
    """Reads a file, a published name or the folder of a run; prints what was found.

    Without `run` the configuration is the one in the file or folder, or recognised.
    Errors: ValueError where weights and model are not exactly the same arrays.
    """
    if Path(name).is_dir():
        return _of_folder(name, run)
    found = files.load_variables(name, norm_eps=0.0)
    if found.kind == "imagenet":
        raise ValueError(
            f"{name} is an ImageNet trunk, not a detector: start a training from it"
            f" with --config.init.load={name}"
        )
    print(f"{name}: {found.kind} names", *found.notes, sep="\n  ")
    if peers.CLASSES not in found.variables:
        raise ValueError(f"{name}: no classifier of RoIs, so this is no whole detector")
    run = run or cli.with_fields(_configuration(found, name))
    run = recognition.with_classes(run, peers.classes(found.variables))
    cli.checked(run)
    with ThreadPoolExecutor(1) as beside:  # hashing needs no interpreter
        digest = beside.submit(_sha256, name)
        weights = _fitted(found.variables, run, name)
    return Source(name, run, _labels(found, run), weights, digest.result())


def _of_folder(name: str, run: config.Run | None) -> Source:
    own, named = runs.load_run(name)
    if run is not None:
        raise ValueError(f"{name} has its own configuration: leave --config out")
    own = cli.checked(cli.with_fields(own))
    found = runs.trained(own, name, None)
    flat = traverse_util.flatten_dict(found.variables, sep="/")
    flat = {path: np.asarray(array) for path, array in flat.items()}
    print(found.source)
    return Source(found.source, own, named, flat, "")


def _configuration(found: files.Loaded, name: str) -> config.Run:
    if carried := runs.carried_run(found.metadata):
        print("with the configuration that it carries")
        return carried
    if published.is_name(name):
        return runs.published_run(published.find(name))
    return recognition.recognise(found, name)


def _fitted(variables: Flat, run: config.Run, name: str) -> Flat:
    try:
        made, report = merge(recognition.shapes(run.model), variables)
    except ConversionError as error:
        text = str(error).partition("\n  to leave these")[0]  # advice for training
        raise ConversionError(f"{name}: {text}") from error
    print(report.text())
    return made


def _labels(found: files.Loaded, run: config.Run) -> labels.Labels | None:
    """Names in the file, else those of COCO for as many classes as COCO has."""
    carried = labels.of_metadata(found.metadata)
    names = surgery.class_names(found.metadata)
    count = run.model.num_classes
    if carried and len(carried.class_names) == count:
        return carried
    if len(names) == count:
        return labels.of_names(names)
    if found.kind == "ours" or not (guessed := labels.of_coco(run)):
        print("classes: the file names none")
        return None
    print(f"classes: COCO's, for {count} of them")
    return guessed


def _sha256(name: str) -> str:
    with open(locate.file(name), "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_target(target: Path, peer: str | None) -> None:
    """Stops before any work if the file cannot be written."""
    if peer is not None and peer not in peers.PEERS:
        raise ValueError(f"--to={peer}: there are {', '.join(peers.PEERS)}")
    suffixes = SUFFIXES["ours" if peer is None else "peer"]
    if target.suffix not in suffixes:
        hint = "" if peer else "; .npz only with --to, for it has no configuration"
        raise ValueError(f"{target}: write {' or '.join(suffixes)}{hint}")
    if target.exists():
        raise FileExistsError(f"{target} exists: remove it or choose another name")
    if not target.parent.is_dir():
        raise FileNotFoundError(f"{target}: the folder {target.parent} does not exist")
    if not os.access(target.parent, os.W_OK):
        raise PermissionError(f"{target}: the folder {target.parent} is not writable")


def write(source: Source, target: Path, peer: str | None = None) -> int:
    """Writes the weights under our paths, or in a peer's layout; gives their number."""
    arrays = source.variables
    if peer is not None:
        arrays = peers.to_state_dict(arrays, source.run.model, peer)
    if target.suffix == ".npz":
        files.save_npz(target, arrays)
    else:
        files.save(target, arrays, metadata(source))
    return len(arrays)


def metadata(source: Source) -> dict[str, Any]:
    """What is kept beside the weights: enough to score and predict with them."""
    model, named = source.run.model, source.labels
    kept: dict[str, Any] = {
        "frcnn_jax": __version__,
        "config": config.to_json(source.run),
        "pixel_mean": model.pixel_mean,
        "pixel_std": model.pixel_std,
        "channel_order": model.channel_order,
        "source": Path(source.name).name,
        "source_sha256": source.sha256,
    }
    return kept | (named._asdict() if named else {})
