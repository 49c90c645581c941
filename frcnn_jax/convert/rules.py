"""One table of rules that renames and re-lays arrays in both directions.

Conventions: their side is a state dict `{dotted name: array}`; our side is a flat dict
`{path: array}` whose paths start with the collection (`params/`, `batch_stats/`).
A pattern is a name in which `{block}` stands for a whole number; `{fc+1}` stands for
the number called `fc` plus one, which bridges tables that count from 0 and from 1.
Both sides of a rule use the same numbers. The first rule that matches a name wins, in
both directions, so special cases stand before general ones.

Names that start with `__` are notes beside the weights: dropped and counted.

Strict by design: a name that no rule explains, an array with the wrong number of axes
or a layer with half of its arrays is an error that lists all of them. The values are
moved, never computed with: no casts here (`merge` casts).
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np

from frcnn_jax.convert.layouts import CONV, DENSE, STEP_COUNTER, VECTOR, Layout

Flat = dict[str, np.ndarray]
COLLECTIONS = ("params/", "batch_stats/")
NOTE_PREFIX = "__"
NOTE = "notes beside the weights"


class ConversionError(ValueError):
    """Weights that do not fit, with every name that is in the way."""


def few(names: Sequence[str], count: int = 3) -> str:
    """Joins the first names, saying that there are more."""
    return ", ".join(names[:count]) + (", ..." if len(names) > count else "")


def raise_if_any(
    title: str, sections: Mapping[str, Sequence[str]], *, hint: str = ""
) -> None:
    """Raises ConversionError listing every line of every non-empty section."""
    text = [title]
    for heading, lines in sections.items():
        if lines:
            text += [f"  {heading} ({len(lines)}):", *(f"    {line}" for line in lines)]
    if len(text) > 1:
        raise ConversionError("\n".join(text) + hint)


class Rule(NamedTuple):
    """One line of a table: a pattern of theirs, a pattern of ours, a layout."""

    theirs: str
    ours: str
    layout: Layout


class Conversion(NamedTuple):
    """What a state dict became."""

    variables: Flat  # path of ours -> array
    unused: dict[str, str]  # name of theirs -> why it was dropped

    def notes(self) -> tuple[str, ...]:
        """Returns one printable line per reason for which names were dropped."""
        by_reason: dict[str, list[str]] = {}
        for name, reason in self.unused.items():
            by_reason.setdefault(reason, []).append(name)
        return tuple(
            f"not used: {len(names)} arrays, {reason} ({few(names)})"
            for reason, names in by_reason.items()
        )


def conv(theirs: str, ours: str, *, bias: bool) -> list[Rule]:
    """Returns the rules of one convolution, module names without a leaf."""
    rules = [Rule(f"{theirs}.weight", f"params/{ours}/kernel", CONV)]
    if bias:
        rules.append(Rule(f"{theirs}.bias", f"params/{ours}/bias", VECTOR))
    return rules


def dense(
    theirs: str, ours: str, *, kernel: Layout = DENSE, bias: Layout = VECTOR
) -> list[Rule]:
    """Returns the rules of one dense layer with bias, module names without a leaf."""
    return [
        Rule(f"{theirs}.weight", f"params/{ours}/kernel", kernel),
        Rule(f"{theirs}.bias", f"params/{ours}/bias", bias),
    ]


def batch_norm(theirs: str, ours: str) -> list[Rule]:
    """Returns the rules of one batch norm, module names without a leaf.

    `num_batches_tracked` counts training steps; nothing here reads it, so it is dropped
    on the way in (files may lack it) and written as int64 0 on the way back.
    """
    counter = f"{theirs}.num_batches_tracked"
    return [
        *frozen_norm(theirs, ours),
        Rule(counter, f"batch_stats/{ours}/mean", STEP_COUNTER),
    ]


def frozen_norm(theirs: str, ours: str) -> list[Rule]:
    """Returns the rules of one batch norm that counts no steps."""
    return [
        Rule(f"{theirs}.weight", f"params/{ours}/scale", VECTOR),
        Rule(f"{theirs}.bias", f"params/{ours}/bias", VECTOR),
        Rule(f"{theirs}.running_mean", f"batch_stats/{ours}/mean", VECTOR),
        Rule(f"{theirs}.running_var", f"batch_stats/{ours}/var", VECTOR),
    ]


_FIELD = re.compile(r"\{([a-z_]+)(?:\+(\d+))?\}")


@cache
def _compiled(pattern: str) -> tuple[re.Pattern[str], tuple[tuple[str, int], ...]]:
    """Returns the regular expression of a pattern and its (field, offset) in order."""
    parts = _FIELD.split(pattern)  # literal, name, offset, literal, name, ...
    # No leading zeros: "layer01" must not become "layer1" on the way there and back.
    expression = r"(0|[1-9][0-9]*)".join(re.escape(text) for text in parts[0::3])
    offsets = (int(text or 0) for text in parts[2::3])
    return re.compile(expression), tuple(zip(parts[1::3], offsets, strict=True))


def _match(pattern: str, name: str) -> dict[str, int] | None:
    """Returns the numbers behind the fields of `pattern`, None where it differs."""
    expression, fields = _compiled(pattern)
    found = expression.fullmatch(name)
    if found is None:
        return None
    numbers = {
        field: int(text) - offset
        for (field, offset), text in zip(fields, found.groups(), strict=True)
    }
    return numbers if all(number >= 0 for number in numbers.values()) else None


def _fill(pattern: str, numbers: Mapping[str, int]) -> str:
    """Writes numbers into the fields of `pattern`."""
    return _FIELD.sub(
        lambda field: str(numbers[field[1]] + int(field[2] or 0)), pattern
    )


def _find(
    name: str, rules: Sequence[Rule], side: str
) -> tuple[Rule, dict[str, int]] | None:
    """Returns the first rule whose `side` matches `name`, with the numbers."""
    for rule in rules:
        numbers = _match(getattr(rule, side), name)
        if numbers is not None:
            return rule, numbers
    return None


def convert(
    state: Mapping[str, np.ndarray], rules: Sequence[Rule], *, consume: bool = False
) -> Conversion:
    """Turns a state dict of theirs into our variables.

    Every name must be explained by a rule; layers must be whole: where a rule matched,
    the other rules of the same module of theirs (`weight` and `bias`, or the four
    arrays of a batch norm) must match too. Whether every layer of a model is there is
    the question of `merge`. With `consume` arrays leave `state` as they are converted,
    so that both never fill memory. Raises ConversionError with all offending names and
    shapes.
    """
    variables, unused, found, left, misfits = {}, {}, [], [], []
    names = tuple(state)
    for name in names:
        array = state[name]
        if consume:
            del state[name]  # type: ignore[attr-defined]  # a dict then
        hit = _find(name, rules, "theirs")
        if name.startswith(NOTE_PREFIX):
            unused[name] = NOTE
        elif hit is None:
            left.append(f"{name} {np.shape(array)}")
        elif hit[0].layout.to_ours is None:
            unused[name] = hit[0].layout.name
        else:
            found.append(hit)
            path = _fill(hit[0].ours, hit[1])
            try:
                if path in variables:
                    raise ValueError(f"another name already became {path}")
                variables[path] = hit[0].layout.to_ours(np.asarray(array))
            except ValueError as error:
                misfits.append(f"{name} -> {path} ({hit[0].layout.name}): {error}")
    missing = _missing(found, rules, set(names), side="theirs")
    raise_if_any(
        "state dict does not fit the table of names",
        {
            "left on their side, explained by no rule": left,
            "missing on ours, other arrays of the layer are there": missing,
            "wrong shape": misfits,
        },
    )
    return Conversion(variables, unused)


def invert(variables: Mapping[str, np.ndarray], rules: Sequence[Rule]) -> Flat:
    """Turns our variables into a state dict of theirs, with the rules of `convert`.

    `convert` after `invert` and `invert` after `convert` give the same bits, except
    for names that `convert` dropped: step counters come back as 0, a classifier does
    not. Raises ConversionError as `convert` does, with the sides exchanged.
    """
    kept = [rule for rule in rules if rule.layout.to_ours]
    extras = [r for r in rules if not r.layout.to_ours and r.layout.to_theirs]
    state, found, left, misfits = {}, [], [], []
    for path, array in variables.items():
        hit = _find(path, kept, "ours")
        if hit is None:
            left.append(f"{path} {np.shape(array)}")
            continue
        found.append(hit)
        extra = _find(path, extras, "ours")
        for rule, numbers in [hit] if extra is None else [hit, extra]:
            name = _fill(rule.theirs, numbers)
            try:
                state[name] = rule.layout.to_theirs(np.asarray(array))
            except ValueError as error:
                misfits.append(f"{path} -> {name} ({rule.layout.name}): {error}")
    missing = _missing(found, rules, set(variables), side="ours")
    raise_if_any(
        "variables do not fit the table of names",
        {
            "left on our side, explained by no rule": left,
            "missing on theirs, other arrays of the layer are there": missing,
            "wrong shape": misfits,
        },
    )
    return state


def _missing(
    found: Iterable[tuple[Rule, dict[str, int]]],
    rules: Sequence[Rule],
    names: set[str],
    *,
    side: str,
) -> list[str]:
    """Lists arrays whose module is partly there, as 'target (from source)'."""
    modules: dict[str, list[Rule]] = {}
    for rule in rules:
        if rule.layout.to_ours is not None:
            modules.setdefault(rule.theirs.rpartition(".")[0], []).append(rule)
    missing = {}
    for matched, numbers in found:
        for rule in modules[matched.theirs.rpartition(".")[0]]:
            source, target = _fill(rule.theirs, numbers), _fill(rule.ours, numbers)
            if side == "ours":
                source, target = target, source
            if source not in names:
                missing[source] = f"{target} (from {source})"
    return list(missing.values())


def pool_side(
    arrays: Mapping[str, np.ndarray],
    first_fc: str,
    fc_axis: int,
    rpn_conv: str,
    conv_axis: int,
) -> int:
    """Reads the side of the RoI crop, in cells, off the widths of two layers.

    The first fc sees side * side * channels inputs, the RPN's convolution as many
    channels. Raises ConversionError where these do not tell.
    """
    inputs = _width(arrays, first_fc, fc_axis)
    channels = _width(arrays, rpn_conv, conv_axis)
    side = math.isqrt(inputs // channels) if channels else 0
    if side * side * channels != inputs:
        raise ConversionError(
            f"{inputs} inputs of the first fc are no square crop of {channels} "
            f"channels: pass pool_size, 7 in the published models"
        )
    return side


def _width(arrays: Mapping[str, np.ndarray], name: str, axis: int) -> int:
    if name not in arrays or arrays[name].ndim <= axis:
        found = arrays[name].shape if name in arrays else "nothing"
        raise ConversionError(
            f"cannot read the RoI pool size from {name} (found {found}): "
            f"pass pool_size, 7 in the published models"
        )
    return arrays[name].shape[axis]
