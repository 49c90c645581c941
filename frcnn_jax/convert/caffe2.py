"""ResNets of Detectron and detectron2 with Caffe2's names, as torchvision names them.

`conv1_w`, `res_conv1_bn_*`, `res2_0_branch2a_w`, `res2_0_branch2a_bn_*`: branch 2a, 2b,
2c are a block's convolutions, branch 1 its shortcut; res2 is layer1. Norms come whole
(`gamma`, `beta`, `running_mean`, `running_var`, or `s`, `b`, `rm`, `riv`), or as scale
and shift alone (`s`, `b`), where the statistics are folded in.

What these networks want is a field of the configuration: BGR pixels, strides in the
first 1x1 (`configs/*caffe*`).
"""

import re
from collections.abc import Mapping

import numpy as np

from frcnn_jax.convert.rules import ConversionError, Flat, few

_LEAVES = {
    "gamma": "weight",
    "s": "weight",
    "beta": "bias",
    "b": "bias",
    "running_mean": "running_mean",
    "rm": "running_mean",
    "running_var": "running_var",
    "riv": "running_var",
}
_LAYER = re.compile(r"res(\d)_(\d+)_branch(1|2[abc])(_bn)?_(\w+)")
_STEM = re.compile(r"(?:res_)?conv1(_bn)?_(\w+)")


def to_torchvision(state: Mapping[str, np.ndarray], *, norm_eps: float) -> Flat:
    """The same arrays under torchvision's names, with statistics for every norm.

    Norms without statistics get mean 0 and variance 1 - `norm_eps`, under which scale
    and shift act as they are. Zero biases of convolutions, which some files carry, are
    dropped, and so is `conv1_b`, which detectron2 does not read either. Raises
    ConversionError for other names and for other biases that are not zero.
    """
    renamed: Flat = {}
    for name, array in state.items():
        target = _target(name)
        if target is None:
            raise ConversionError(f"{name} is no name of a Caffe2 ResNet")
        if target.endswith("conv.bias"):
            if np.any(array) and name != "conv1_b":
                raise ConversionError(f"{name}: a bias before a norm that is not zero")
            continue
        renamed[target] = array
    return _with_statistics(renamed, norm_eps)


def _target(name: str) -> str | None:
    """torchvision's name; "conv.bias" at the end marks a convolution's own bias."""
    if name.startswith("__") or name in ("fc1000_w", "fc1000_b"):
        return name.replace("fc1000_w", "fc.weight").replace("fc1000_b", "fc.bias")
    if found := _STEM.fullmatch(name):
        return _leaf("conv1", "bn1", *found.groups())
    found = _LAYER.fullmatch(name)
    if found is None:
        return None
    stage, block, branch, norm, leaf = found.groups()
    place = f"layer{int(stage) - 1}.{block}."
    if branch == "1":
        return _leaf(f"{place}downsample.0", f"{place}downsample.1", norm, leaf)
    number = "abc".index(branch[1]) + 1
    return _leaf(f"{place}conv{number}", f"{place}bn{number}", norm, leaf)


def _leaf(conv: str, batch_norm: str, norm: str | None, leaf: str) -> str | None:
    if norm:
        return f"{batch_norm}.{_LEAVES[leaf]}" if leaf in _LEAVES else None
    return {"w": f"{conv}.weight", "b": f"{conv}.conv.bias"}.get(leaf)


def _with_statistics(state: Flat, norm_eps: float) -> Flat:
    norms = [
        name.removesuffix(".weight")
        for name, array in state.items()
        if np.ndim(array) == 1 and name.endswith(".weight")
    ]
    whole = [norm for norm in norms if f"{norm}.running_mean" in state]
    if whole and len(whole) < len(norms):
        bare = [norm for norm in norms if norm not in whole]
        raise ConversionError(f"norms without statistics: {few(bare)}")
    made = dict(state)
    for norm in norms if not whole else ():
        scale = state[f"{norm}.weight"]
        made[f"{norm}.running_mean"] = np.zeros_like(scale)
        made[f"{norm}.running_var"] = np.full_like(scale, 1 - norm_eps)
    return made
