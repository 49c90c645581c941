"""Loaded arrays over freshly initialised ones: exact, or an error that lists it all.

Works on flat `{path: array}` of our own paths, whatever file they came from. What stays
fresh does so because a pattern of the caller says so, and the report counts it. Shapes
are never adapted here.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from frcnn_jax.convert.rules import COLLECTIONS, ConversionError, few, raise_if_any


class MergeReport(NamedTuple):
    """What `merge` did, by path."""

    loaded: tuple[str, ...]
    skipped: tuple[str, ...]  # kept fresh: a skip pattern says so
    absent: tuple[str, ...]  # kept fresh: not in the file, and allowed to be
    unused: tuple[str, ...]  # in the file, but a skip pattern keeps it out
    cast: tuple[str, ...]  # loaded, with the float type of the model

    def text(self) -> str:
        """Returns a few printable lines: how many, and of which modules."""
        lines = [f"loaded {len(self.loaded)} arrays"]
        for label, paths in (
            ("cast to the type of the model", self.cast),
            ("kept fresh, skipped", self.skipped),
            ("kept fresh, not in the file", self.absent),
            ("in the file but unused", self.unused),
        ):
            if paths:
                lines.append(f"{label}: {len(paths)} ({_by_module(paths)})")
        return "\n".join(lines)


def merge(
    fresh: Mapping[str, Any],  # arrays, or only their shapes
    loaded: Mapping[str, np.ndarray],
    skip_patterns: Sequence[str] = (),
    *,
    allow_missing: Sequence[str] = (),
) -> tuple[dict, MergeReport]:
    """Puts loaded arrays over freshly initialised ones, strictly by path and shape.

    `fresh` and `loaded` are flat `{path: array}`. Patterns are regular expressions that
    must match a whole path without its collection (`box_head/predictor/.*`), or with it
    where the pattern itself starts with a collection (`params/rpn/.*`). A skipped path
    keeps its fresh value whatever the file holds; a path of `allow_missing` keeps it
    only if the file does not have it. Floats are cast to the fresh array's type.
    Returns the variables in the order of `fresh` and a report. Raises ConversionError
    with every missing, extra and wrong-shaped path, for a skip pattern that matches no
    path at all (a typing error would otherwise load what was meant to stay out) and for
    a bad expression.
    """
    skip, optional = _expressions(skip_patterns), _expressions(allow_missing)
    _check_used(skip, [*fresh, *loaded])
    skipped = [path for path in fresh if _any_match(skip, path)]
    unused = [path for path in loaded if _any_match(skip, path)]
    wanted = _without(fresh, skipped)
    absent = [p for p in wanted if p not in loaded and _any_match(optional, p)]
    wanted = _without(wanted, absent)
    _check_fit(wanted, _without(loaded, unused))
    taken = {
        p: np.asarray(loaded[p]).astype(wanted[p].dtype, copy=False) for p in wanted
    }
    cast = [path for path in taken if loaded[path].dtype != taken[path].dtype]
    report = MergeReport(*map(tuple, (taken, skipped, absent, unused, cast)))
    return {**fresh, **taken}, report


def matches(patterns: Sequence[str], path: str) -> bool:
    """Whether one of the patterns, read as `merge` reads them, matches a path."""
    return _any_match(_expressions(patterns), path)


def _without(arrays: Mapping, paths: Sequence[str]) -> dict:
    left_out = set(paths)
    return {path: array for path, array in arrays.items() if path not in left_out}


def _check_fit(fresh: Mapping, loaded: Mapping) -> None:
    """Raises ConversionError unless both have the same paths, shapes and kinds."""
    missing = [f"{path} {fresh[path].shape}" for path in fresh if path not in loaded]
    extra = [f"{path} {loaded[path].shape}" for path in loaded if path not in fresh]
    wrong = []
    for path in [path for path in fresh if path in loaded]:
        ours, theirs = fresh[path], loaded[path]
        if tuple(ours.shape) != tuple(theirs.shape):
            wrong.append(f"{path}: model {ours.shape}, file {theirs.shape}")
        elif not _castable(theirs.dtype, ours.dtype):
            wrong.append(f"{path}: model {ours.dtype}, file {theirs.dtype}")
    raise_if_any(
        "weights do not fit the model",
        {
            "missing in the file": missing,
            "in the file but not in the model": extra,
            "wrong shape or type": wrong,
        },
        hint=_skip_hint(re.split("[ :]", x)[0] for x in [*missing, *extra, *wrong]),
    )


def _castable(source: np.dtype, target: np.dtype) -> bool:
    """Whether both are the same type, or both are floats (bfloat16 among them)."""

    def is_float(dtype: np.dtype) -> bool:
        # Floats that numpy does not define itself, such as bfloat16, have kind "V".
        return dtype.kind == "f" or dtype.name.startswith(("bfloat", "float"))

    return source == target or (is_float(source) and is_float(target))


def _expressions(patterns: Sequence[str]) -> list[re.Pattern[str]]:
    if isinstance(patterns, str):  # a string is a sequence of one-letter patterns
        raise ConversionError(f"patterns must be a tuple of strings: ({patterns!r},)")
    expressions = []
    for pattern in patterns:
        try:
            expressions.append(re.compile(pattern))
        except re.error as error:
            raise ConversionError(
                f"{pattern!r} is not a regular expression: {error}"
            ) from error
    return expressions


def _any_match(expressions: Iterable[re.Pattern[str]], path: str) -> bool:
    # One reading per pattern: "(?!backbone/).*" must not match params/backbone/... just
    # because the whole path starts with something else.
    inside = path.partition("/")[2]
    return any(
        e.fullmatch(path if e.pattern.startswith(COLLECTIONS) else inside)
        for e in expressions
    )


def _check_used(expressions: Iterable[re.Pattern[str]], paths: Sequence[str]) -> None:
    for expression in expressions:
        if not any(_any_match([expression], path) for path in paths):
            raise ConversionError(
                f"skip pattern {expression.pattern!r} matches no path of the model or "
                f"the file; paths look like {few(paths)}, the pattern must match a "
                f"whole path, without params/ or batch_stats/"
            )


def _by_module(paths: Iterable[str], count: int = 8) -> str:
    """Counts paths by their first two parts after the collection."""
    modules = Counter("/".join(path.split("/")[1:3]) for path in paths)
    return few([f"{module} {n}" for module, n in modules.items()], count)


def _skip_hint(paths: Iterable[str]) -> str:
    """Proposes a skip pattern for these paths: the innermost module of all of them."""
    modules = [path.split("/")[1:-1] for path in paths]
    shared = []
    for parts in zip(*modules, strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    if not shared:  # they are all over: skipping everything would load nothing
        return "\n  is the file of another architecture, or of another configuration?"
    pattern = "/".join([*shared, ".*"])
    return f"\n  to leave these fresh in training: --config.init.skip={pattern!r}"
