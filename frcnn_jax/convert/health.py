"""What weights look like, and what in them looks wrong. Our paths, numpy only."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from frcnn_jax.convert.rules import few

LARGEST = 100.0  # of a kernel's values; published ones stay below ten
# Variance that the first norm sees per squared kernel: about 1 for normalised pixels,
# some thousands for raw ones.
BETWEEN = 30.0


def table(variables: Mapping[str, np.ndarray]) -> list[str]:
    """A line for each module: arrays, numbers, min, max, mean, standard deviation."""
    groups: dict[str, list[np.ndarray]] = {}
    for path, array in variables.items():
        groups.setdefault("/".join(path.split("/")[1:3]), []).append(array)
    figures = " ".join(f"{name:>10}" for name in ("min", "max", "mean", "std"))
    head = f"{'module':24} {'arrays':>6} {'numbers':>10} {figures}"
    return [head, *(_line(name, arrays) for name, arrays in groups.items())]


def _line(name: str, arrays: Sequence[np.ndarray]) -> str:
    values = np.concatenate([np.asarray(a, np.float32).ravel() for a in arrays])
    with np.errstate(all="ignore"):  # NaN and infinity are told elsewhere
        figures = values.min(), values.max(), values.mean(), values.std()
    shown = " ".join(f"{figure:10.3g}" for figure in figures)
    return f"{name:24} {len(arrays):6} {len(values):10} {shown}"


def oddities(
    variables: Mapping[str, np.ndarray], pixel_std: Sequence[float]
) -> list[str]:
    """A line for each kind of fault, with the first paths that have it."""
    found: dict[str, list[str]] = {}
    for path, array in variables.items():
        for fault in _faults(path, array):
            found.setdefault(fault, []).append(path)
    lines = [f"{fault}: {len(paths)} ({few(paths)})" for fault, paths in found.items()]
    scheme = pixel_scheme(variables, pixel_std)
    return lines + ([scheme] if scheme else [])


def _faults(path: str, array: np.ndarray) -> Iterator[str]:
    """The faults of one array."""
    leaf = path.rpartition("/")[2]
    if not np.isfinite(array).all():
        yield "NaN or infinity"
    elif leaf == "kernel" and not array.any():
        yield "kernel of zeros"
    elif leaf == "kernel" and array.size > 1 and (array == array.flat[0]).all():
        yield "kernel of one value"
    elif leaf == "kernel" and np.abs(array).max() > LARGEST:
        yield f"kernel with values above {LARGEST:g}"
    elif leaf == "var" and not (array > 0).all():
        yield "running variance of 0 or less"


def pixel_scheme(
    variables: Mapping[str, np.ndarray], pixel_std: Sequence[float]
) -> str:
    """A line where the first norm has seen other pixels than the model makes; or ""."""
    kernel = variables.get("params/backbone/stem/conv/kernel")
    variance = variables.get("batch_stats/backbone/stem/norm/var")
    if kernel is None or variance is None or (variance == variance[0]).all():
        return ""  # no norm there, or one that has seen nothing
    seen = variance / np.maximum((kernel**2).sum(axis=(0, 1, 2)), 1e-12)
    raw, divides = float(np.median(seen)) > BETWEEN, min(pixel_std) > 10
    if raw != divides:
        return ""
    pixels = "raw pixels" if raw else "pixels divided by their deviation"
    return (
        f"the first norm has seen {pixels}, but the model's pixel_std is"
        f" {tuple(pixel_std)}: is it the configuration of another style?"
    )
