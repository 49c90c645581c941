"""Weight files: .safetensors in and out; .npz, .pth, .pt and .pkl in; whose names.

A file holds a flat `{name: array}` and, but for .npz, metadata `{key: string}`. None of
them runs code: the files of torch and detectron2 are read by `torch_files`, without
torch and without what they name.
"""

import contextlib
import difflib
import json
import os
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors
import safetensors.numpy

from frcnn_jax.convert import imagenet, locate, torch_files
from frcnn_jax.convert.peers import PEERS
from frcnn_jax.convert.rules import (
    COLLECTIONS,
    NOTE,
    NOTE_PREFIX,
    Conversion,
    ConversionError,
    Flat,
    convert,
)


class Loaded(NamedTuple):
    """A weight file, with our names."""

    variables: Flat
    metadata: dict[str, str]
    kind: str  # what `recognise` said
    notes: tuple[str, ...]  # printable: what was converted, what was not used


def load(path: str | Path) -> tuple[Flat, dict[str, str]]:
    """Reads a weight file as it stands: arrays by name, and metadata (strings).

    A published name, `mmdet:r50_fpn_1x`, stands for its file, fetched if need be.
    .npz files have no metadata, so theirs is empty; in files of torch it is what lies
    beside the weights. Raises FileNotFoundError with the nearest name in the folder,
    ConversionError for an unknown suffix and for a file that is truncated, damaged or
    holds no plain arrays; for names what `locate.file` does.
    """
    path = check(path)
    return _READERS[path.suffix.lower()](path)


def check(path: str | Path) -> Path:
    """Returns the file to read, fetched if need be; its contents are not looked at.

    Raises what `load` raises for a file that is not there or of another kind.
    """
    path = locate.file(path)
    if path.is_dir():
        raise ConversionError(f"{path} is a folder, not a weight file")
    if path.suffix.lower() not in _READERS:
        raise ConversionError(
            f"{path}: unknown suffix {path.suffix!r}; supported: {', '.join(_READERS)}"
        )
    if not path.is_file():
        raise FileNotFoundError(_not_found(path))
    return path


def metadata(path: str | Path) -> dict[str, str]:
    """Reads what a .safetensors file says beside its arrays; {} for any other file."""
    path = locate.file(path)
    if path.suffix.lower() != ".safetensors" or not path.is_file():
        return {}
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            return dict(file.metadata() or {})
    except safetensors.SafetensorError as error:
        raise ConversionError(_damaged(path, error)) from error


def save(
    path: str | Path, variables: Mapping[str, np.ndarray], metadata: Mapping[str, Any]
) -> None:
    """Writes a .safetensors file, whole or not at all.

    Values of `metadata` that are not strings are written as JSON; `load` gives strings
    back. The file is written under a temporary name in the same folder, flushed to
    disk and renamed, so an interrupted save leaves an earlier file as it was. Raises
    ConversionError for another suffix or arrays the format cannot hold,
    FileNotFoundError for a missing folder.
    """
    path = Path(path)
    if path.suffix.lower() != ".safetensors":
        raise ConversionError(f"{path}: weights are saved as .safetensors only")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path}: the folder {path.parent} does not exist")
    # The writer takes memory order for C order and would store a transposed view wrong.
    # Not ascontiguousarray: it would turn a scalar into a vector.
    arrays = {
        name: np.asarray(array, order="C") for name, array in dict(variables).items()
    }
    try:
        with _replacing(path) as temporary:
            safetensors.numpy.save_file(arrays, temporary, metadata=_strings(metadata))
    except (safetensors.SafetensorError, TypeError, ValueError) as error:
        raise ConversionError(f"{path}: cannot be saved: {error!r}") from error


def save_npz(path: str | Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes an .npz file, whole or not at all; it has no room for metadata."""
    with _replacing(Path(path)) as temporary, open(temporary, "wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]  # a name may not be allow_pickle


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """Gives a temporary name beside `path`, which takes its place at the end."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        # The writer makes files only their owner can read; keep the usual permissions.
        temporary.touch()
        mode = temporary.stat().st_mode
        yield temporary
        temporary.chmod(mode)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()


def recognise(names: Iterable[str]) -> str:
    """Says whose names these are.

    "ours", "mmdet", "detectron2", "torchvision" and "jwyang" detectors, "imagenet"
    trunks.

    Names that start with `__` have no say. Raises ConversionError, showing some of the
    names, for any others.
    """
    known = [name for name in names if not name.startswith(NOTE_PREFIX)]
    if known and all(name.startswith(COLLECTIONS) for name in known):
        return "ours"
    if "backbone.conv1.weight" in known and "rpn_head.rpn_conv.weight" in known:
        return "mmdet"
    if "proposal_generator.rpn_head.conv.weight" in known:
        return "detectron2"
    if "rpn.head.cls_logits.weight" in known:
        return "torchvision"
    if "RCNN_base.0.weight" in known and "RCNN_rpn.RPN_Conv.weight" in known:
        return "jwyang"
    if "conv1.weight" in known and any(name.startswith("layer1.") for name in known):
        return "imagenet"
    if "conv1_w" in known and any(name.startswith("res2_") for name in known):
        return "imagenet"
    first = ("features.0.weight", "features.0.0.weight")
    if "classifier.0.weight" in known and any(name in known for name in first):
        return "imagenet"
    shown = ", ".join(known[:5]) + (", ..." if len(known) > 5 else "")
    raise ConversionError(
        f"unknown weight names ({len(known)}: {shown or 'none'}); known are ours "
        f"(params/backbone/...), mmdetection Faster R-CNN (backbone.conv1.weight with "
        f"rpn_head.rpn_conv.weight), detectron2 Faster R-CNN "
        f"(proposal_generator.rpn_head.conv.weight), torchvision Faster R-CNN "
        f"(rpn.head.cls_logits.weight), jwyang (RCNN_base.0.weight with "
        f"RCNN_rpn.RPN_Conv.weight); classifiers: torchvision ResNet (conv1.weight "
        f"with layer1...), VGG-16 (features.0.weight), MobileNetV3-Large "
        f"(features.0.0.weight) and Detectron ResNet (conv1_w with res2_...). A prefix "
        f"before these names has to be removed first."
    )


def load_variables(path: str | Path, *, norm_eps: float) -> Loaded:
    """Reads a weight file of any known kind into our variables.

    `norm_eps` is the epsilon of the model's batch norm (norm_eps of its section), for
    classification files with batch norm folded. An "imagenet" file fills backbone
    paths, of VGG-16 also the fully connected ones of the head. Raises what `load`,
    `recognise` and the conversions raise; the message of a conversion names the file.
    """
    arrays, metadata = load(path)
    try:
        kind = recognise(arrays)
        if kind == "ours":
            beside = {name: NOTE for name in arrays if name.startswith(NOTE_PREFIX)}
            weights = {name: a for name, a in arrays.items() if name not in beside}
            converted = Conversion(weights, beside)
        elif kind in PEERS:
            converted = convert(arrays, PEERS[kind].table(arrays), consume=True)
        else:
            converted = imagenet.conversion(arrays, norm_eps=norm_eps)
    except ConversionError as error:
        raise ConversionError(f"{path}: {error}") from error
    unused = metadata.get(torch_files.UNUSED)
    notes = [
        *converted.notes(),
        *([f"{torch_files.UNUSED}: {unused}"] if unused else ()),
    ]
    return Loaded(converted.variables, metadata, kind, tuple(notes))


def _strings(metadata: Mapping[str, Any]) -> dict[str, str]:
    return {
        key: value if isinstance(value, str) else json.dumps(value)
        for key, value in metadata.items()
    }


def _read_safetensors(path: Path) -> tuple[Flat, dict[str, str]]:
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = dict(file.metadata() or {})
            return {name: file.get_tensor(name) for name in file.keys()}, metadata
    except (safetensors.SafetensorError, TypeError, ValueError) as error:
        raise ConversionError(_damaged(path, error)) from error


# What numpy and zipfile raise for damaged archives; AttributeError and TypeError come
# from a single .npy array under the name of an archive.
_NPZ_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    OSError,
    ValueError,
    KeyError,
    SyntaxError,
    NotImplementedError,
    RuntimeError,
    AttributeError,
    TypeError,
)


def _read_npz(path: Path) -> tuple[Flat, dict[str, str]]:
    try:
        # Opened here: a damaged archive would leave numpy's own file object open.
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}, {}
    except PermissionError:
        raise
    except _NPZ_ERRORS as error:
        raise ConversionError(_damaged(path, error)) from error


_READERS: dict[str, Callable[[Path], tuple[Flat, dict[str, str]]]] = {
    ".safetensors": _read_safetensors,
    ".npz": _read_npz,
    **dict.fromkeys(torch_files.SUFFIXES, torch_files.read),
}


def _damaged(path: Path, error: Exception) -> str:
    size = path.stat().st_size
    return (
        f"{path}: not a readable {path.suffix} file of plain arrays ({size} bytes; "
        f"truncated or damaged?): {error}"
    )


def _not_found(path: Path) -> str:
    """Says what is there instead of a missing weight file."""
    if not path.parent.is_dir():
        return f"{path} does not exist, nor does the folder {path.parent}"
    files = [f.name for f in path.parent.iterdir() if f.suffix.lower() in _READERS]
    near = difflib.get_close_matches(path.name, files, n=1, cutoff=0.0)
    if not near:
        return f"{path} does not exist; its folder has no {' or '.join(_READERS)} file"
    return f"{path} does not exist; the nearest name in its folder is {near[0]}"
