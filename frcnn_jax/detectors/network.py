"""All parameters of a Faster R-CNN: the parts that a configuration names, joined.

Pixels to maps, maps to raw proposals, crops to classes. No ground truth, no boxes.
"""

from collections.abc import Sequence
from functools import partial

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from frcnn_jax import config
from frcnn_jax.models import mobilenet, resnet, vgg
from frcnn_jax.models.box_heads import FCHead, Predictor, Res5Head
from frcnn_jax.models.fpn import FPN
from frcnn_jax.models.layers import Conv
from frcnn_jax.models.norm import Norm
from frcnn_jax.models.rpn_head import RPNHead
from frcnn_jax.ops import canvas
from frcnn_jax.ops.anchors import AnchorSpec

Features = Sequence[Float[Array, "b _ _ _"]]


class Network(nn.Module):
    """Backbone, pyramid, RPN head and box head of a model section."""

    section: config.FasterRCNN
    axis_name: str | None = None

    def setup(self):
        """Declares the parts."""
        model, dtype = self.section, jnp.dtype(self.section.dtype)
        self.backbone = _trunk(model.backbone, dtype, self.axis_name)
        if model.fpn is not None:
            self.fpn = FPN(
                model.fpn.channels,
                model.fpn.levels,
                model.fpn.norm,
                model.fpn.norm_eps,
                dtype,
                self.axis_name,
            )
        self.rpn = RPNHead(
            model.rpn.channels,
            anchor_spec(model).per_cell,
            model.rpn.convs,
            model.rpn.two_way,
            dtype,
        )
        self.box_head = _box_head(model, dtype, self.axis_name)

    def extract(
        self, images: Array, image_hw: Float[Array, "b 2"], train: bool = False
    ) -> Features:
        """RGB pixels 0..255 to the maps that RPN and RoIs read, finest first."""
        strides = output_strides(self.section.backbone)
        pixels = normalise(images, image_hw, self.section)
        masks = self.masks(images.shape[1:3], image_hw, sorted({1, 2, 4, 8, 16, 32}))
        maps = self.backbone(pixels, masks, train)
        if self.section.fpn is None:
            return tuple(maps[stage] for stage in sorted(maps))
        inside = masks and {stage: masks[strides[stage]] for stage in maps}
        return self.fpn(maps, inside, train)

    def propose_raw(
        self, features: Features, image_hw: Float[Array, "b 2"]
    ) -> tuple[tuple[Float[Array, "b _"], ...], tuple[Float[Array, "b _ 4"], ...]]:
        """Objectness logits and deltas of every anchor, per level."""
        inside: list[Array | None] = [None] * len(features)
        if self.section.mask_padding:
            strides = anchor_spec(self.section).strides
            inside = [
                canvas.inside(x.shape[1:3], cells(self.section, image_hw, stride))
                for x, stride in zip(features, strides, strict=True)
            ]
        return self.rpn(features, inside)

    def classify(
        self, crops: Float[Array, "k s s c"], valid=None, train=False, dropout=()
    ) -> tuple[Float[Array, "k _"], Float[Array, "k _ 4"]]:
        """Class logits and deltas of crops; arguments as in `models.box_heads`."""
        return self.box_head(crops, valid, train, dropout)

    def __call__(self, images: Array, image_hw: Float[Array, "b 2"]):
        """Touches every parameter once; only for initialisation."""
        features = self.extract(images, image_hw)
        size = self.section.roi.pool_size
        crops = jnp.zeros((1, size, size, features[0].shape[-1]))
        return self.propose_raw(features, image_hw), self.classify(crops)

    def masks(
        self,
        canvas_hw: tuple[int, ...],
        image_hw: Float[Array, "b 2"],
        strides: Sequence[int],
    ) -> dict[int, Bool[Array, "b _ _ 1"]] | None:
        """The images' cells on maps of each stride, or None without masking."""
        if not self.section.mask_padding:
            return None
        return {
            stride: canvas.inside(
                (canvas_hw[0] // stride, canvas_hw[1] // stride),
                cells(self.section, image_hw, stride),
            )
            for stride in strides
        }


def _trunk(backbone, dtype, axis_name) -> nn.Module:
    match backbone:
        case config.ResNet():
            return resnet.ResNet(
                backbone.depth,
                backbone.width,
                backbone.stem_width,
                backbone.groups,
                backbone.group_width,
                backbone.stride_in_1x1,
                backbone.dilate_c5,
                backbone.stem_pool,
                backbone.stages,
                backbone.norm,
                backbone.norm_eps,
                dtype,
                axis_name,
            )
        case config.MobileNetV3():
            return mobilenet.MobileNetV3(
                backbone.width, backbone.norm, backbone.norm_eps, dtype, axis_name
            )
        case config.VGG16():
            return vgg.VGG16(
                backbone.width, backbone.norm, backbone.norm_eps, dtype, axis_name
            )
    raise TypeError(f"no backbone for {backbone!r}")


def _box_head(model: config.FasterRCNN, dtype, axis_name) -> nn.Module:
    roi, trunk = model.roi, model.backbone
    predictor = partial(Predictor, model.num_classes, roi.background_deltas, dtype)
    if not roi.res5:
        norm = None
        if roi.convs:
            norm = partial(Norm, roi.norm, roi.norm_eps, dtype, axis_name=axis_name)
        return FCHead(predictor, roi.convs, roi.fc, norm, dtype)
    if not isinstance(trunk, config.ResNet):
        raise TypeError(f"no stage 5 for {trunk!r}")
    norm = partial(Norm, trunk.norm, trunk.norm_eps, dtype, axis_name=axis_name)
    block = partial(
        resnet.Bottleneck,
        trunk.width * 8,
        stride_in_1x1=trunk.stride_in_1x1,
        groups=trunk.groups,
        group_width=trunk.group_width,
        dilation=1,
        conv=partial(Conv, dtype=dtype),
        norm=norm,
    )
    return Res5Head(predictor, block, resnet.BLOCKS[trunk.depth][3])


def output_strides(backbone) -> dict[str, int]:
    """Pixels per cell of each of a backbone's outputs, finest first."""
    match backbone:
        case config.ResNet():
            strides = dict(resnet.STRIDES)
            if backbone.dilate_c5:
                strides["c5"] = strides["c4"]
            return {stage: strides[stage] for stage in sorted(backbone.stages)}
        case config.VGG16():
            return {"c5": vgg.STRIDE}
        case config.MobileNetV3():
            return {"c5": 32, "c6": 32}
    raise TypeError(f"no strides for {backbone!r}")


def roi_strides(model: config.FasterRCNN) -> tuple[int, ...]:
    """Pixels per cell of the maps that RoIs are cut from, finest first.

    Of maps with the same stride the first is cut, as torchvision infers levels from
    strides: its MobileNet detectors never read their second map here.
    """
    return tuple(dict.fromkeys(output_strides(model.backbone).values()))


def anchor_spec(model: config.FasterRCNN) -> AnchorSpec:
    """Anchor shapes with the strides of the levels that the RPN reads."""
    strides = list(output_strides(model.backbone).values())
    while model.fpn is not None and len(strides) < model.fpn.levels:
        strides.append(strides[-1] * 2)
    rpn = model.rpn
    return AnchorSpec(
        rpn.anchor_sizes, rpn.anchor_ratios, tuple(strides), rpn.anchor_style
    )


def cells(
    model: config.FasterRCNN, image_hw: Float[Array, "*b 2"], stride: int
) -> Float[Array, "*b 2"]:
    """Cells of a map that belong to the image, by the model's rule."""
    return canvas.cells(image_hw, stride, model.cells)


def normalise(
    images: Array, image_hw: Float[Array, "b 2"], model: config.FasterRCNN
) -> Float[Array, "b h w 3"]:
    """(pixel - mean) / std in the weights' channel order, 0 outside the image."""
    if images.shape[1] % canvas.DIVISOR or images.shape[2] % canvas.DIVISOR:
        size = f"{images.shape[1]}x{images.shape[2]}"
        raise ValueError(f"canvas {size} is not a multiple of {canvas.DIVISOR} pixels")
    pixels = images.astype(jnp.float32)
    pixels = pixels[..., ::-1] if model.channel_order == "bgr" else pixels
    mean, std = jnp.asarray(model.pixel_mean), jnp.asarray(model.pixel_std)
    return jnp.where(
        canvas.inside(images.shape[1:3], image_hw), (pixels - mean) / std, 0
    )
