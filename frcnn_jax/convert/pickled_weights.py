"""Which part of a file's object is the weights, and what is worth keeping beside it.

Training code saves `{"state_dict": ...}` (mmdetection), `{"model": ...}` (detectron2,
jwyang, torchvision's scripts), `{"blobs": ...}` (Detectron), or the names themselves.
Where mmdetection averages weights, `state_dict` is the average and `ema_state_dict`
what it is the average of.

Metadata: numbers, text and flat lists of them, beside the weights, in "meta" and in
its "dataset_meta", under their path ("meta.CLASSES"), lists as JSON. `UNUSED` names the
rest.
"""

import json
from collections.abc import Iterator
from typing import Any

from frcnn_jax.convert.pickled_arrays import Array, Scalar, Tensor
from frcnn_jax.convert.pickles import Pairs, Stub, printable, text
from frcnn_jax.convert.rules import ConversionError, Flat, few, raise_if_any

KEYS = ("state_dict", "model_state_dict", "model", "blobs", "ema_state_dict")
PREFIX = "module."  # of torch's DataParallel
UNUSED = "not used"
MAX_ENTRIES = 200  # that may become metadata
MAX_NAMES = 8
MAX_MISFITS = 20
MAX_ITEMS = 2000  # of a list
MAX_PROSE = 100_000  # characters: mmdetection keeps its configuration as one text


def split(value: Any) -> tuple[Flat, dict[str, str]]:
    """Takes an unpickled object apart into arrays by name and metadata (strings).

    `module.` before every name is dropped. Raises ConversionError where there are no
    weights, and for a weight that is sparse, quantised or no plain array.
    """
    if not isinstance(value, Pairs):
        raise ConversionError(_no_dictionary(value))
    key = next((key for key in KEYS if _has_arrays(value.get(key))), None)
    weights = value if key is None else value.get(key)
    if not _has_arrays(weights):
        raise ConversionError(_no_arrays(value))
    arrays = _read(weights)
    if all(name.startswith(PREFIX) for name in arrays):
        arrays = {name.removeprefix(PREFIX): a for name, a in arrays.items()}
    return arrays, _metadata(_beside(value, weights))


def _metadata(found: Iterator[tuple[str, Any]]) -> dict[str, str]:
    metadata: dict[str, str] = {}
    unused: list[str] = []
    count = 0
    for number, (name, value) in enumerate(found):
        printed = _printable(value) if number < MAX_ENTRIES else None
        if printed is not None:
            metadata[name] = printed
            continue
        count += 1
        if len(unused) <= MAX_NAMES:
            unused.append(name)
    if unused:
        names = printable(few(unused, MAX_NAMES))
        metadata[UNUSED] = f"{count} beside the weights ({names})"
    return metadata


def _has_arrays(value: Any) -> bool:
    return isinstance(value, Pairs) and any(
        _is_weight(found) and text(key) is not None for key, found in value
    )


def _is_weight(value: Any) -> bool:
    """Says whether it is an array, or a tensor of a kind that is not read."""
    if isinstance(value, Stub):
        return value.name.startswith("torch._utils._rebuild")
    return isinstance(value, Array | Tensor) and not isinstance(value, Scalar)


def _read(weights: Pairs) -> Flat:
    arrays, misfits = {}, []
    for key, value in weights:
        name = text(key)
        if name is None or not _is_weight(value):
            continue
        try:
            arrays[name] = _array(value)
        except ConversionError as error:
            misfits.append(f"{name}: {error}")
            if len(misfits) == MAX_MISFITS:
                misfits.append("perhaps more; the rest was not looked at")
                break
    raise_if_any("weights that cannot be read", {"arrays": misfits})
    return arrays


def _array(value: Any) -> Any:
    if isinstance(value, Stub):
        raise ConversionError(
            f"made by {value.name}: sparse, quantised and float8 tensors are not read; "
            f"save a dense float32 one"
        )
    return value.read()


def _beside(value: Pairs, weights: Pairs) -> Iterator[tuple[str, Any]]:
    """Yields (path, value) of everything that is not a weight."""
    for name, found in _named(value, weights):
        if name in ("meta", "dataset_meta") and isinstance(found, Pairs):
            for inner, below in _named(found, weights):
                if inner == "dataset_meta" and isinstance(below, Pairs):
                    deep = _named(below, weights)
                    yield from ((f"{name}.{inner}.{n}", v) for n, v in deep)
                else:
                    yield f"{name}.{inner}", below
        elif found is weights:
            yield from ((f"{name}.{n}", v) for n, v in _named(found, weights))
        else:
            yield name, found


def _named(pairs: Pairs, weights: Pairs | None = None) -> Iterator[tuple[str, Any]]:
    """Yields (name, value), of `weights` only what was not taken."""
    for key, value in pairs:
        name = text(key)
        if pairs is not weights or name is None or not _is_weight(value):
            yield f"<{type(key).__name__}>" if name is None else name, value


def _printable(value: Any) -> str | None:
    """Returns a number, text or flat list of them as text; None for the rest."""
    if isinstance(value, list | tuple) and not isinstance(value, Pairs):
        items = [_plain(item) for item in value[:MAX_ITEMS]]
        fits = len(value) <= MAX_ITEMS and None not in items
        return json.dumps(items, ensure_ascii=False) if fits else None
    if isinstance(value, str) and len(value) <= MAX_PROSE:
        return value
    plain = _plain(value)
    return None if plain is None else str(plain)


def _plain(value: Any) -> str | int | float | None:
    if isinstance(value, Scalar):
        value = _number(value)
    if isinstance(value, bool | int | float):
        return value
    return text(value)


def _number(scalar: Scalar) -> Any:
    try:
        return scalar.read().item()
    except ConversionError:
        return None


def _no_dictionary(value: Any) -> str:
    if isinstance(value, Stub):
        return (
            f"holds a whole Python object ({value.name}), not its weights: load it "
            f"where it was made and save its state_dict()"
        )
    return f"holds no dictionary of weights but {type(value).__name__}"


def _no_arrays(value: Pairs) -> str:
    for key in KEYS:
        if isinstance(value.get(key), Stub):
            return f"under {key!r}: {_no_dictionary(value.get(key))}"
    names = [name for name, _ in _named(value)]
    return (
        f"no arrays among its {len(names)} entries "
        f"({few(names, MAX_NAMES) or 'none'}), nor under {', '.join(KEYS)}"
    )
