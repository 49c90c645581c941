import os

import cv2
import numpy as np
import pytest
from PIL import Image

from frcnn_jax import config
from frcnn_jax.data import sources
from frcnn_jax.data.findings import Findings
from frcnn_jax.doctor import check, pictures
from tests.doctor.samples import encode, scene

SMOOTH = Image.fromarray(scene())
FRAMES = [Image.fromarray(scene(shade)) for shade in (0, 90)]
ANIMATED = {"save_all": True, "append_images": FRAMES[1:]}


def looks(root, decode=True, **fields):
    data = config.Data(root=str(root), val="train", **fields)
    dataset = sources.load(data, "train", training=True)
    if decode:
        return list(pictures.examine(dataset.records, data))
    return list(pictures.examine_headers(dataset.records))


def clear(picture, share):
    alpha = np.full((40, 60), 255, np.uint8)
    alpha[:, : int(60 * share)] = 0
    return Image.fromarray(np.dstack([picture, alpha]))


def palette_with_hole():
    picture = SMOOTH.convert("P")
    return encode(picture, transparency=picture.getpixel((30, 20)))


def deep(kind):
    return cv2.imencode(kind, scene().astype(np.uint16) * 257)[1].tobytes()


def floats():
    return encode(Image.fromarray(np.zeros((40, 60), np.float32)), "TIFF")


def ycck():
    """Pillow writes plain CMYK; the Adobe marker's last byte says how to read it."""
    content = bytearray(encode(SMOOTH.convert("CMYK"), "JPEG", quality=95))
    content[content.index(b"Adobe") + 11] = 2
    return bytes(content)


CASES = {  # what it is: (file, faults with a part of their details)
    "rgb.jpg": (encode(SMOOTH, "JPEG"), {}),
    "rgb.png": (encode(SMOOTH), {}),
    "grey.jpg": (encode(SMOOTH.convert("L"), "JPEG"), {"converted": "grey"}),
    "one_bit.png": (encode(SMOOTH.convert("1")), {"converted": "1 bit"}),
    "palette.gif": (encode(SMOOTH.convert("P"), "GIF"), {"converted": "palette"}),
    "palette_hole.png": (
        palette_with_hole(),
        {"converted": "palette", "see-through": "palette"},
    ),
    "opaque.png": (encode(clear(scene(), 0)), {"converted": "alpha"}),
    "hidden.png": (
        encode(clear(scene(), 0.5)),
        {"converted": "alpha", "see-through": "alpha"},
    ),
    "grey_alpha.png": (
        encode(clear(scene(), 0).convert("LA")),
        {"converted": "grey with alpha"},
    ),
    "cmyk.jpg": (encode(SMOOTH.convert("CMYK"), "JPEG"), {"converted": "CMYK"}),
    "ycck.jpg": (ycck(), {"converted": "CMYK"}),
    "deep.png": (deep(".png"), {"converted": "16 bits"}),
    "deep_grey.png": (
        encode(Image.fromarray(scene()[..., 0].astype(np.uint16) * 257)),
        {"converted": "16 bits"},
    ),
    "float.tiff": (floats(), {"unreadable-image": "such as 32 bits or floats"}),
    "pages.tiff": (encode(FRAMES[0], "TIFF", **ANIMATED), {"frames": "2 of them"}),
    "moving.webp": (encode(FRAMES[0], "WEBP", **ANIMATED), {"frames": "2 of them"}),
    "moving.gif": (
        encode(FRAMES[0], "GIF", **ANIMATED),
        {"converted": "palette", "frames": "2 of them"},
    ),
    "stereo.jpg": (encode(FRAMES[0], "MPO", **ANIMATED), {"frames": "2 of them"}),
    "cut.jpg": (encode(SMOOTH, "JPEG")[:-200], {"unreadable-image": "truncated JPEG"}),
    "empty.jpg": (b"", {"unreadable-image": "empty file"}),
    "page.jpg": (
        b"<!DOCTYPE html><html>",
        {"unreadable-image": "not an image (starts with '<!DOCTYPE')"},
    ),
}


def test_every_kind_of_file_is_told(write_set):
    root = write_set({name: content for name, (content, _) in CASES.items()})
    found = looks(root)
    for name, look in zip(CASES, found, strict=True):
        told, expected = dict(look.faults), CASES[name][1]
        assert told.keys() == expected.keys(), name
        for fault, detail in expected.items():
            assert detail in told[fault], name
    assert len({look.digest for look in found}) == len(found)


def test_damage_inside_a_jpeg_is_told(write_set, capfd):
    picture = np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)
    good = encode(picture, "JPEG", quality=90)
    bad = bytearray(good)
    bad[len(bad) // 2 : len(bad) // 2 + 8] = bytes(8)
    damaged_png = bytearray(encode(picture))
    damaged_png[len(damaged_png) // 2] ^= 4
    files = {"good.jpg": good, "bad.jpg": bytes(bad), "bad.png": bytes(damaged_png)}
    first, second, third = looks(write_set(files))
    assert first.usable and not second.usable and not third.usable
    assert "Corrupt JPEG data" in dict(second.faults)["damaged-image"]
    assert "unreadable-image" in dict(third.faults)
    os.write(2, b"heard again\n")  # standard error is where it was
    assert capfd.readouterr().err == "heard again\n"


def test_one_flipped_bit_of_a_jpeg_is_an_error_where_it_breaks_the_code(write_set):
    """Others change the picture a little, and nobody can tell."""
    noise = np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)
    good, files = encode(noise, "JPEG", quality=90), {}
    for at in range(700, len(good) - 2, 100):
        flipped = bytearray(good)
        flipped[at] ^= 1 << at % 8
        files[f"{at:05}.jpg"] = bytes(flipped)
    root = write_set(files)
    found = [look.faults for look in looks(root) if not look.usable]
    assert len(files) / 4 < len(found) < len(files)
    kinds = {fault for faults in found for fault, _ in faults}
    assert kinds <= {"damaged-image", "unreadable-image"}
    run = config.Run()
    run.data.root = str(root)
    assert check.examine(run).count("error") == len(found)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_stated_size_may_be_that_before_or_after_rotation(write_set, orientation):
    tags = Image.Exif()
    tags[0x112] = orientation
    content = encode(SMOOTH, "JPEG", exif=tags)
    sizes = {"turned.jpg": (40, 60) if orientation > 4 else (60, 40)}
    files = {"turned.jpg": content, "stored.jpg": content + b"\n"}
    turned, stored = looks(write_set(files, sizes=sizes))
    assert turned.faults == () and turned.size == sizes["turned.jpg"]
    assert stored.size == (60, 40)
    told = (("unturned", "stored as 60x40"),) if orientation > 4 else ()
    assert stored.faults == told


def test_other_sizes_are_used_unless_boxes_leave_them(write_set):
    files = {f"{i}.png": encode(scene(i)) for i in range(2)}
    sizes = {"0.png": (70, 50), "1.png": (600, 400)}
    root = write_set(files, sizes=sizes, boxes={"1.png": [[300, 200, 50, 50]]})
    told = "the file is 60x40, "
    first, second = looks(root)
    assert first.faults == (("other-size", told + "stated is 70x50"),)
    assert first.size == (60, 40) and first.usable
    (fault, detail), *_ = second.faults
    assert fault == "size-and-boxes" and "boxes leave the file's picture" in detail
    assert [look.faults[0][0] for look in looks(root, decode=False)] == [
        "other-size"
    ] * 2


def test_a_decompression_bomb_is_refused_by_its_header(write_set):
    small = encode(Image.new("1", (20_000, 10_000)))  # 25 kB, 600 MB decoded
    sizes = {"bomb.png": (20_000, 10_000)}
    root = write_set({"bomb.png": small}, sizes=sizes)
    (look,) = looks(root)
    (told,) = look.faults
    assert told == (
        "too-many-pixels",
        "200,000,000 pixels, and data.max_image_pixels is 178,956,970",
    )
    assert not look.usable


def test_pixels_are_limited_as_told(write_set):
    root = write_set({"a.png": encode(scene())})
    assert [f for f, _ in looks(root, max_image_pixels=2399)[0].faults] == [
        "too-many-pixels"
    ]
    assert looks(root, max_image_pixels=2400)[0].faults == ()


def test_pictures_of_the_same_contents_are_named(write_set):
    one, other = encode(scene()), encode(scene(5))
    root = write_set({"a.png": one, "b.png": other, "c.png": one})
    data = config.Data(root=str(root), val="train")
    records = sources.load(data, "train", training=True).records
    findings = Findings()
    pictures.note(records, list(pictures.examine(records, data)), findings)
    (place,) = findings.of("same-image")
    assert place.image == 3 and place.detail == f"the same as {records[0].path}"


def test_what_vanishes_while_it_is_checked_is_named(write_set):
    root = write_set({"a.png": encode(scene())})
    data = config.Data(root=str(root), val="train")
    records = sources.load(data, "train", training=True).records
    (root / "images" / "a.png").unlink()
    (look,) = pictures.examine(records, data)
    assert look.faults == (
        ("unreadable-image", "cannot be read (No such file or directory)"),
    )
