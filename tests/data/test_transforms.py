import io
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from frcnn_jax import config
from frcnn_jax.data import transforms
from frcnn_jax.data.records import Record
from frcnn_jax.data.transforms import BadImage

GOLDEN = Path(__file__).parent.parent / "golden" / "mmdet_preprocess.npz"


def gradient(h=60, w=80):
    """A picture that no rotation or mirroring maps onto itself."""
    y, x = np.mgrid[:h, :w]
    return np.stack([x * 3, y * 4, x + y], -1).astype(np.uint8)


def encode(picture, kind="PNG", **options):
    stream = io.BytesIO()
    picture = Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture
    picture.save(stream, kind, **options)
    return stream.getvalue()


def exif(orientation):
    tags = Image.Exif()
    tags[0x112] = orientation
    return tags


@pytest.fixture
def file(tmp_path):
    def write(content, name="picture.jpg"):
        (tmp_path / name).write_bytes(content)
        return tmp_path / name

    return write


def record(path, hw, boxes=()):
    n = len(boxes)
    return Record(
        path,
        1,
        hw[1],
        hw[0],
        np.array(boxes, np.float32).reshape(-1, 4),
        np.ones(n, np.int32),
        np.zeros(n, bool),
    )


# ---- decoding


def test_decodes_rgb_exactly(file):
    np.testing.assert_array_equal(
        transforms.decode(file(encode(gradient()))), gradient()
    )


def test_jpeg_equals_pillow(file):
    content = encode(gradient(), "JPEG", quality=90)
    expected = np.asarray(Image.open(io.BytesIO(content)))
    np.testing.assert_array_equal(transforms.decode(file(content)), expected)


def test_grey_palette_and_alpha_become_three_channels(file):
    grey = Image.fromarray(gradient()).convert("L")
    for kind in ("L", "LA", "1"):
        picture = grey.convert(kind)
        expected = np.asarray(picture.convert("RGB"))
        np.testing.assert_array_equal(
            transforms.decode(file(encode(picture))), expected
        )
    palette = Image.fromarray(gradient()).convert("P")
    expected = np.asarray(palette.convert("RGB"))
    for options in ({}, {"transparency": 0}):
        decoded = transforms.decode(file(encode(palette, **options)))
        np.testing.assert_array_equal(decoded, expected)
    hidden = np.dstack([gradient(), np.zeros((60, 80), np.uint8)])
    np.testing.assert_array_equal(transforms.decode(file(encode(hidden))), gradient())


def test_sixteen_bits_are_scaled(file):
    deep = (gradient().astype(np.uint16) * 257)[..., ::-1]  # OpenCV writes BGR
    content = cv2.imencode(".png", deep)[1].tobytes()
    np.testing.assert_array_equal(transforms.decode(file(content)), gradient())


def test_sixteen_bits_of_grey_are_scaled(file):
    grey = Image.fromarray(gradient()[..., 1].astype(np.uint16) * 257)
    expected = np.repeat(gradient()[..., 1:2], 3, axis=2)
    for kind in ("PNG", "TIFF"):
        decoded = transforms.decode(file(encode(grey, kind)))
        np.testing.assert_array_equal(decoded, expected)


@pytest.mark.parametrize("kind", [".png", ".tiff"])
@pytest.mark.parametrize("channels", [1, 3])
def test_sixteen_bits_are_divided_by_257(file, kind, channels):
    """To less than a level everywhere, and without a shift of the mean."""
    deep = np.random.default_rng(0).integers(0, 2**16, (90, 90, channels), np.uint16)
    decoded = transforms.decode(file(cv2.imencode(kind, deep)[1].tobytes()))
    error = decoded[..., ::-1] - deep / 257  # OpenCV writes BGR
    assert np.abs(error).max() < 1 and abs(error.mean()) < 0.02


@pytest.mark.parametrize("transform", [0, 2], ids=["CMYK", "YCCK"])
def test_four_inks_become_rgb(file, transform):
    y, x = np.mgrid[:60, :80] / 12
    waves = np.stack([np.sin(x), np.cos(y), np.sin(x + y)], -1)
    picture = Image.fromarray((128 + 100 * waves).astype(np.uint8)).convert("CMYK")
    content = bytearray(encode(picture, "JPEG", quality=95))
    content[content.index(b"Adobe") + 11] = transform  # how its four inks are coded
    expected = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
    decoded = transforms.decode(file(bytes(content)))
    assert np.abs(decoded.astype(int) - expected).max() <= 3


@pytest.mark.parametrize("kind", ["TIFF", "GIF", "WEBP", "MPO", "PNG"])
def test_of_several_frames_the_first_is_taken(file, kind):
    first, second = (Image.new("RGB", (30, 20), (s, s, s)) for s in (10, 200))
    content = encode(first, kind, save_all=True, append_images=[second])
    assert Image.open(io.BytesIO(content)).n_frames == 2
    decoded = transforms.decode(file(content))
    assert decoded.shape == (20, 30, 3) and np.abs(decoded - 10.0).max() <= 1


def test_floats_are_refused(file):
    content = encode(Image.fromarray(np.ones((6, 8), np.float32)), "TIFF")
    with pytest.raises(BadImage, match="TIFF damaged, or .* 32 bits or floats"):
        transforms.decode(file(content))


def test_pixels_are_counted_before_they_are_decoded(file):
    path = file(encode(Image.new("1", (20_000, 10_000))))  # 25 kB
    with pytest.raises(BadImage, match=r"200,000,000 pixels, and data.max_image") as e:
        transforms.read_pixels(record(path, (10_000, 20_000)))
    assert e.value.fault == "too-many-pixels"
    small = file(encode(gradient()), "small.png")
    with pytest.raises(BadImage, match="4,800 pixels"):
        transforms.decode(small, 4799)
    assert transforms.decode(small, 4800).shape == (60, 80, 3)


def test_the_limit_of_other_programs_stays():
    """Pillow warns at its number and refuses at twice that."""
    assert Image.MAX_IMAGE_PIXELS == 89_478_485
    assert config.Data().max_image_pixels == 2 * Image.MAX_IMAGE_PIXELS


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied(file, orientation):
    content = encode(gradient(), "JPEG", quality=95, exif=exif(orientation))
    turns = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: np.rot90(a, -1),
        7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
        8: lambda a: np.rot90(a),
    }
    stored = np.asarray(Image.open(io.BytesIO(content)))
    np.testing.assert_array_equal(
        transforms.decode(file(content)), turns[orientation](stored)
    )


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "empty file"),
        (b"<!DOCTYPE html><html>", r"not an image \(starts with '<!DOCTYPE'\)"),
        (b"\x00\x01\x02", "not an image"),
        (b"\xff\xd8\xff\xe0junk\xff\xd9", "damaged or unsupported JPEG"),
    ],
)
def test_files_that_are_no_image(file, content, match):
    path = file(content)
    with pytest.raises(BadImage, match=match) as error:
        transforms.decode(path)
    assert str(path) in str(error.value)


def test_missing_file(tmp_path):
    with pytest.raises(BadImage, match="none.jpg: cannot be read"):
        transforms.decode(tmp_path / "none.jpg")


@pytest.mark.parametrize(
    ("kind", "options"),
    [("JPEG", {}), ("JPEG", {"progressive": True}), ("PNG", {})],
)
@pytest.mark.parametrize("share", [0.3, 0.9, 0.999])
def test_cut_files_are_found(file, kind, options, share):
    noise = np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)
    content = encode(noise, kind, **options)
    with pytest.raises(BadImage, match="truncated"):
        transforms.decode(file(content[: int(len(content) * share)]))


# ---- agreement with the JSON


def test_record_of_the_turned_or_the_stored_picture(file):
    content = encode(gradient(60, 80), "JPEG", exif=exif(6))
    path, pixels = file(content), np.asarray(Image.open(io.BytesIO(content)))
    turned = transforms.read_pixels(record(path, (80, 60)))
    np.testing.assert_array_equal(turned.image, np.rot90(pixels, -1))
    assert turned.note == ""
    stored = transforms.read_pixels(record(path, (60, 80)))
    np.testing.assert_array_equal(stored.image, pixels)
    assert "EXIF" in stored.note
    neither = transforms.read_pixels(record(path, (90, 70), [[5, 5, 60, 80]]))
    np.testing.assert_array_equal(neither.image, turned.image)
    assert "the file is 60x80, the JSON says 70x90" in neither.note
    with pytest.raises(BadImage, match="60x80.*70x90.*boxes leave") as error:
        transforms.read_pixels(record(path, (90, 70), [[5, 5, 65, 80]]))
    assert error.value.fault == "size-and-boxes"


def test_other_sizes_pass_only_if_the_boxes_fit(file):
    path = file(encode(gradient(60, 80)))
    inside = transforms.read_pixels(record(path, (120, 160), [[5, 5, 81, 60]]))
    assert inside.image.shape == (60, 80, 3)
    assert "the file is 80x60, the JSON says 160x120" in inside.note
    assert transforms.read_pixels(record(path, (120, 160))).note
    with pytest.raises(BadImage, match="80x60.*160x120.*boxes leave"):
        transforms.read_pixels(record(path, (120, 160), [[5, 5, 150, 50]]))


# ---- resizing


def test_sizes_equal_mmdetection():
    for w, h, scale0, scale1, new_w, new_h in np.load(GOLDEN)["sizes"].tolist():
        short, long = sorted((scale0, scale1))
        assert transforms.resized_hw(h, w, short, long) == (new_h, new_w)


@pytest.mark.parametrize(
    ("hw", "expected"),
    [
        ((480, 640), (800, 1067)),
        ((640, 480), (1067, 800)),
        ((427, 640), (800, 1199)),
        ((100, 1000), (133, 1333)),
        ((1, 1), (800, 800)),
        ((3000, 2), (1333, 1)),
        ((5000, 1), (1333, 1)),
    ],
)
def test_sizes_by_hand(hw, expected):
    assert transforms.resized_hw(*hw, 800, 1333) == expected


# Recorded in torchvision 0.29.1.
TORCHVISION_SIZES = {
    (480, 640): (800, 1066),
    (427, 640): (800, 1199),
    (640, 427): (1199, 800),
    (375, 500): (800, 1066),
    (333, 500): (800, 1201),
    (1000, 300): (1333, 399),
    (612, 612): (800, 800),
    (800, 1333): (800, 1333),
    (799, 1201): (800, 1202),
    (334, 500): (799, 1197),
    (500, 335): (1194, 799),
    (386, 640): (799, 1326),
    (161, 200): (799, 993),
    (2000, 1147): (1333, 764),
}


@pytest.mark.parametrize(("hw", "expected"), TORCHVISION_SIZES.items())
def test_torchvisions_sizes_are_cut_off(hw, expected):
    assert transforms.resized_hw(*hw, 800, 1333, "floor") == expected


def test_resizing_a_resized_picture_changes_nothing():
    rng = np.random.default_rng(0)
    for h, w in rng.integers(1, 3000, (500, 2)):
        once = transforms.resized_hw(h, w, 800, 1333)
        assert transforms.resized_hw(*once, 800, 1333) == once


@pytest.mark.parametrize("case", ["up", "down"])
def test_pixels_and_boxes_equal_mmdetection(case):
    z = np.load(GOLDEN)
    image = np.ascontiguousarray(z["img"][..., ::-1])
    h, w = image.shape[:2]
    hw = transforms.resized_hw(h, w, min(z[f"{case}_scale"]), max(z[f"{case}_scale"]))
    resized = transforms.resize(image, hw, "cv2_u8")
    np.testing.assert_array_equal(resized[..., ::-1], z[f"{case}_img"])
    scale = np.array([hw[1] / w, hw[0] / h], np.float32)
    np.testing.assert_array_equal(scale, z[f"{case}_scale_factor"])
    boxes = transforms.scale_boxes(z["boxes"], scale, hw)
    np.testing.assert_array_equal(boxes, z[f"{case}_boxes"])
    flipped = transforms.hflip(resized, boxes)
    np.testing.assert_array_equal(flipped[1], z[f"{case}_flip_boxes"])
    np.testing.assert_array_equal(flipped[0], resized[:, ::-1])


def float_bilinear(image, hw):
    """Half-pixel bilinear sampling with clamped positions, axis by axis."""
    out = image.astype(np.float64)
    for axis, n in enumerate(hw):
        size = image.shape[axis]
        at = ((np.arange(n) + 0.5) * size / n - 0.5).clip(0, size - 1)
        low = np.minimum(np.floor(at).astype(int), max(size - 2, 0))
        t = (at - low).reshape([-1 if a == axis else 1 for a in range(3)])
        high = np.minimum(low + 1, size - 1)
        out = out.take(low, axis) * (1 - t) + out.take(high, axis) * t
    return out


@pytest.mark.parametrize("hw", [(60, 83), (20, 28), (37, 51), (1, 1)])
def test_float_resize_is_rounded_bilinear(hw):
    image = np.random.default_rng(1).integers(0, 256, (37, 51, 3), np.uint8)
    resized = transforms.resize(image, hw, "cv2_f32")
    assert resized.dtype == np.uint8
    assert np.abs(resized - float_bilinear(image, hw)).max() <= 0.51


@pytest.mark.parametrize("hw", [(13, 7), (3, 4), (40, 61)])
def test_pillow_resize_is_antialiased_when_it_shrinks(hw):
    """Against the definition: triangles as wide as the step, at least one pixel."""

    def weights(new, old):
        scale = old / new
        reach = max(scale, 1.0)
        centres = (np.arange(new) + 0.5) * scale
        found = np.zeros((new, old))
        for row, centre in enumerate(centres):
            low = max(int(centre - reach + 0.5), 0)
            high = min(int(centre + reach + 0.5), old)
            at = np.arange(low, high)
            found[row, at] = (1 - np.abs((at + 0.5 - centre) / reach)).clip(0)
        return found / found.sum(1, keepdims=True)

    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    rows, columns = weights(hw[0], 20), weights(hw[1], 30)
    # Pillow rounds to whole levels after the columns, and again after the rows.
    between = np.rint(np.einsum("xw,hwc->hxc", columns, image.astype(float)))
    expected = np.einsum("yh,hxc->yxc", rows, between)
    resized = transforms.resize(image, hw, "pil")
    assert resized.dtype == np.uint8 and resized.shape == (*hw, 3)
    error = np.abs(resized - expected)  # ties go either way
    assert error.max() <= 1.51 and error.mean() < 0.3


def test_unknown_resize_is_named():
    with pytest.raises(ValueError, match="'area'.*cv2_u8"):
        transforms.resize(gradient(), (5, 5), "area")


def mask_extent(mask):
    """Return the box around the marked pixels, right and bottom edges included."""
    y, x = np.nonzero(mask)
    return np.array([x.min(), y.min(), x.max() + 1, y.max() + 1])


def test_flip_of_no_boxes_and_twice_is_identity():
    image, boxes = transforms.hflip(gradient(), np.zeros((0, 4), np.float32))
    assert boxes.shape == (0, 4)
    boxes = np.float32([[1, 2, 3.5, 9]])
    image, again = transforms.hflip(*transforms.hflip(gradient(), boxes))
    np.testing.assert_array_equal(again, boxes)
    np.testing.assert_array_equal(image, gradient())


# ---- reduced decoding


@pytest.mark.parametrize(
    ("at_least", "parts"),
    [(0.0, 1), (0.51, 1), (0.5, 2), (0.3, 2), (0.25, 4), (0.01, 8)],
)
@pytest.mark.parametrize("orientation", [1, 6])
def test_large_jpegs_may_be_decoded_in_part(tmp_path, at_least, parts, orientation):
    h, w = 97, 130
    exif = Image.Exif()
    exif[0x0112] = orientation
    smooth = cv2.GaussianBlur(gradient(h, w), (0, 0), 15)
    Image.fromarray(smooth).save(tmp_path / "a.jpg", quality=98, exif=exif)
    hw = (h, w) if orientation == 1 else (w, h)
    rec = record(tmp_path / "a.jpg", hw, [])
    whole = transforms.read_pixels(rec)
    pixels = transforms.read_pixels(rec, at_least=at_least)
    assert pixels.full_hw == hw and whole.image.shape[:2] == hw
    assert pixels.image.shape[:2] == tuple(-(-side // parts) for side in hw)
    again = cv2.resize(pixels.image, hw[::-1])
    assert np.abs(again.astype(float) - whole.image).mean() < 2 * parts


def test_only_jpegs_of_the_stated_size_are_decoded_in_part(tmp_path):
    Image.fromarray(gradient(64, 64)).save(tmp_path / "a.png")
    Image.fromarray(gradient(64, 64)).save(tmp_path / "b.jpg")
    for name, stated in (("a.png", (64, 64)), ("b.jpg", (60, 64))):
        rec = record(tmp_path / name, stated, [])
        pixels = transforms.read_pixels(rec, at_least=0.1)
        assert pixels.image.shape[:2] == (64, 64)
