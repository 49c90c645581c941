"""Classifiers with torchvision's names, to and from our backbone.

ResNet: `conv1`, `bn1`, `layer1.0.conv1`, `layer1.0.bn1`, `layer1.0.downsample.0` (the
shortcut's convolution) and `.1` (its batch norm), `fc`, as in torchvision.models.resnet
(0.29). Detection lineages that wrap the same trunk reuse `resnet_rules` with a prefix.

Two kinds of files: with batch norm, or with batch norm folded into the convolutions
(`conv1.weight` and `conv1.bias`, no `bn` names). The `fc` classifier is dropped and
reported. A stage with an array missing is dropped whole and reported: half a stage
would train from a mixture that nobody chose.

VGG-16: `features.N`, and of `classifier.N` the first two layers, which are the head of
its detectors; the last one is dropped and reported. With batch norm (vgg16_bn) too.
MobileNetV3-Large: `features.N`; its detectors have another norm epsilon than the
classifier, in torchvision too. Detectron's ResNets with Caffe2's names: see `caffe2`.
"""

import re
from collections.abc import Mapping, Sequence

import numpy as np

from frcnn_jax.convert import caffe2
from frcnn_jax.convert.layouts import CLASSIFIER, dense_after_pool
from frcnn_jax.convert.rules import (
    Conversion,
    ConversionError,
    Flat,
    Rule,
    batch_norm,
    conv,
    convert,
    dense,
    invert,
)

VGG_CONVS = (2, 2, 3, 3, 3)  # of each stage, between max-pools
# MobileNet's blocks whose third part is squeeze-and-excitation, counted from 1.
_EXCITING = (4, 5, 6, 11, 12, 13, 14, 15)
_BLOCKS = 15
VGG_CROP = 7  # cells per side of what the first fully connected layer reads
STAGES = (1, 2, 3, 4)


def stem_rules(theirs: str, ours: str) -> list[Rule]:
    """Returns the rules of the stem; `theirs` and `ours` are prefixes."""
    return [
        *conv(f"{theirs}conv1", f"{ours}stem/conv", bias=False),
        *batch_norm(f"{theirs}bn1", f"{ours}stem/norm"),
    ]


def stage_rules(theirs: str, ours: str) -> list[Rule]:
    """Returns the rules of one stage of basic, bottleneck or ResNeXt blocks.

    `theirs` and `ours` are the names of the stage: `layer1`, `backbone/layer1`.
    """
    block, our_block = f"{theirs}.{{block}}", f"{ours}/block{{block}}"
    rules = []
    for i in (1, 2, 3):
        rules += conv(f"{block}.conv{i}", f"{our_block}/conv{i}", bias=False)
        rules += batch_norm(f"{block}.bn{i}", f"{our_block}/norm{i}")
    rules += conv(f"{block}.downsample.0", f"{our_block}/shortcut_conv", bias=False)
    rules += batch_norm(f"{block}.downsample.1", f"{our_block}/shortcut_norm")
    return rules


def resnet_rules(theirs: str, ours: str) -> list[Rule]:
    """Returns the rules of a whole trunk; `theirs` and `ours` are prefixes."""
    rules = stem_rules(theirs, ours)
    for stage in STAGES:
        rules += stage_rules(f"{theirs}layer{stage}", f"{ours}layer{stage}")
    return rules


def vgg_rules(features: str, classifier: str, *, norms: bool = False) -> list[Rule]:
    """Returns the rules of VGG-16; two arguments are the names of its parts.

    With `norms` a batch norm stands between each convolution and its relu.
    """
    rules, position = [], 0
    for stage, convs in enumerate(VGG_CONVS, start=1):
        for number in range(1, convs + 1):
            ours = f"backbone/stage{stage}"
            rules += conv(f"{features}.{position}", f"{ours}/conv{number}", bias=True)
            if norms:
                theirs = f"{features}.{position + 1}"
                rules += batch_norm(theirs, f"{ours}/norm{number}")
            position += 3 if norms else 2  # and its relu
        position += 1  # the max-pool
    first = dense_after_pool(VGG_CROP)
    rules += dense(f"{classifier}.0", "box_head/fc1", kernel=first)
    return rules + dense(f"{classifier}.3", "box_head/fc2")


def mobilenet_rules(theirs: str, ours: str) -> list[Rule]:
    """Returns the rules of MobileNetV3-Large's features; both are prefixes."""

    def pair(their_layer: str, layer: str) -> list[Rule]:
        names = f"{theirs}{their_layer}", f"{ours}{layer}"
        kernel = conv(f"{names[0]}.0", f"{names[1]}conv", bias=False)
        return kernel + batch_norm(f"{names[0]}.1", f"{names[1]}norm")

    table = pair("0", "stem/")
    for number in range(1, _BLOCKS + 1):
        # A part that a block lacks moves the later ones up; the first expands nothing.
        parts = ["expand", "depthwise", "excite", "project"]
        parts = parts if number in _EXCITING else [p for p in parts if p != "excite"]
        for place, part in enumerate(parts[1:] if number == 1 else parts):
            layer = f"{number}.block.{place}"
            if part != "excite":
                table += pair(layer, f"block{number}/{part}_")
                continue
            for fc, name in (("fc1", "squeeze"), ("fc2", "excite")):
                path = f"{ours}block{number}/{name}"
                table += conv(f"{theirs}{layer}.{fc}", path, bias=True)
    return table + pair(f"{_BLOCKS + 1}", "last/")


_VGG_LAST = (
    Rule("classifier.6.weight", "", CLASSIFIER),
    Rule("classifier.6.bias", "", CLASSIFIER),
)
VGG_RULES = (*vgg_rules("features", "classifier"), *_VGG_LAST)
VGG_BN_RULES = (*vgg_rules("features", "classifier", norms=True), *_VGG_LAST)
MOBILENET_RULES = (
    *mobilenet_rules("features.", "backbone/"),
    *(
        Rule(f"classifier.{layer}.{leaf}", "", CLASSIFIER)
        for layer in (0, 3)
        for leaf in ("weight", "bias")
    ),
)
RULES = (
    *resnet_rules("", "backbone/"),
    Rule("fc.weight", "", CLASSIFIER),
    Rule("fc.bias", "", CLASSIFIER),
)


def conversion(state: Mapping[str, np.ndarray], *, norm_eps: float) -> Conversion:
    """Turns a classification state dict into our variables, with what was dropped.

    `norm_eps` is the epsilon of the model's batch norm; only folded files need it (see
    `unfold`). Stages with missing arrays and the classifier are in `unused` with the
    reason. Raises ConversionError for names outside torchvision's, or without a stem.
    """
    if "features.0.weight" in state:
        with_norms = "features.1.weight" in state
        return convert(state, VGG_BN_RULES if with_norms else VGG_RULES)
    if "features.0.0.weight" in state:
        return convert(state, MOBILENET_RULES)
    if "conv1_w" in state:
        state = caffe2.to_torchvision(state, norm_eps=norm_eps)
    whole = unfold(state, norm_eps=norm_eps) if is_folded(state) else state
    lacking = [name for name in _layer_names("conv1", "bn1") if name not in whole]
    if lacking:
        raise ConversionError(f"the stem of a ResNet lacks {', '.join(lacking)}")
    reasons = _incomplete_stages(whole)
    dropped = {name: r for name in state if (r := reasons.get(name.split(".")[0]))}
    whole = {k: array for k, array in whole.items() if k.split(".")[0] not in reasons}
    converted = convert(whole, RULES)
    return Conversion(converted.variables, {**converted.unused, **dropped})


def from_state_dict(state: Mapping[str, np.ndarray], *, norm_eps: float) -> Flat:
    """Returns the variables of `conversion`."""
    return conversion(state, norm_eps=norm_eps).variables


def to_state_dict(variables: Mapping[str, np.ndarray]) -> Flat:
    """Turns a trunk's variables into torchvision's names, without the classifier.

    Of VGG-16 the two fully connected layers of the head belong to it. Raises
    ConversionError for any other path. A folded file comes back with batch norm, the
    same function under other names.
    """
    names = {path.split("/", 1)[1] for path in variables}
    if "backbone/stage1/norm1/scale" in names:
        return invert(variables, VGG_BN_RULES)
    if "backbone/stage1/conv1/kernel" in names:
        return invert(variables, VGG_RULES)
    if "backbone/last/conv/kernel" in names:
        return invert(variables, MOBILENET_RULES)
    return invert(variables, RULES)


def is_folded(state: Mapping[str, np.ndarray]) -> bool:
    """Whether the batch norm of a ResNet is folded into its convolutions."""
    has_norm = any(re.search(r"(^|\.)(bn\d|downsample\.1)\.", name) for name in state)
    return "conv1.bias" in state and not has_norm


def unfold(state: Mapping[str, np.ndarray], *, norm_eps: float) -> Flat:
    """Gives a folded state dict its batch norms back, as the identity plus the bias.

    Batch norm is scale * (x - mean) / sqrt(var + eps) + bias, so scale 1, mean 0 and
    var 1 - eps leave the convolution as it is, to float32 rounding. The original
    statistics are gone: frozen batch norm equals the trained network, re-estimated
    statistics would not.
    """
    unfolded = {}
    for name, array in state.items():
        module, _, leaf = name.rpartition(".")
        if leaf != "bias" or module == "fc":
            unfolded[name] = array
            continue
        norm = _norm_of(module)
        bias = np.asarray(array)
        unfolded[f"{norm}.weight"] = np.ones_like(bias)
        unfolded[f"{norm}.bias"] = bias
        unfolded[f"{norm}.running_mean"] = np.zeros_like(bias)
        unfolded[f"{norm}.running_var"] = np.full_like(bias, 1 - norm_eps)
    return unfolded


def _norm_of(conv_module: str) -> str:
    """Returns the batch norm that follows a convolution in torchvision's names."""
    if conv_module.endswith("downsample.0"):
        return conv_module.removesuffix("0") + "1"
    head, found, number = conv_module.rpartition("conv")
    return f"{head}bn{number}" if found else conv_module


def _incomplete_stages(state: Mapping[str, np.ndarray]) -> dict[str, str]:
    """Returns stage name -> why it cannot be used, for stages with arrays missing."""
    reasons = {}
    for stage in STAGES:
        names = [name for name in state if name.startswith(f"layer{stage}.")]
        missing = [name for name in _stage_names(stage, names) if name not in state]
        if missing:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            reasons[f"layer{stage}"] = (
                f"layer{stage} is incomplete (no {missing[0]}{more}) and dropped "
                f"whole; 'backbone/layer{stage}/.*' in init.skip leaves it fresh"
            )
    return reasons


def _stage_names(stage: int, names: Sequence[str]) -> list[str]:
    """Lists the names a stage must have, judged by the blocks and convs it mentions.

    Trailing blocks that are not mentioned at all cannot be known here; `merge`
    finds them missing in the model.
    """
    found = [re.match(r"layer\d\.(\d+)\.(?:conv|bn)(\d)\.", name) for name in names]
    if not any(found):
        # Nothing but a shortcut, or no such stage: the shortcut still needs its convs.
        return [f"layer{stage}.0.conv1.weight"] if names else []
    blocks = 1 + max(int(match[1]) for match in found if match)
    convs = max(int(match[2]) for match in found if match)
    pairs = [
        (f"layer{stage}.{block}.conv{i}", f"layer{stage}.{block}.bn{i}")
        for block in range(blocks)
        for i in range(1, max(convs, 2) + 1)
    ]
    # The first block changes the number of channels, except in stage 1 of ResNet-18/34.
    if stage > 1 or convs == 3:
        shortcut = f"layer{stage}.0.downsample"
        pairs.append((f"{shortcut}.0", f"{shortcut}.1"))
    return [name for pair in pairs for name in _layer_names(*pair)]


def _layer_names(conv_module: str, norm_module: str) -> list[str]:
    """Lists the arrays of a convolution and its batch norm, without step counters."""
    leaves = ("weight", "bias", "running_mean", "running_var")
    return [f"{conv_module}.weight", *(f"{norm_module}.{leaf}" for leaf in leaves)]
