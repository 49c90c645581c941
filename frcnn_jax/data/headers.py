"""The size of a picture from its header, without decoding it."""

import io
import re
import warnings
from pathlib import Path

from PIL import Image, UnidentifiedImageError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
# Pillow warns of half its limit; ours (data.max_image_pixels) has its own words.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
NO_SIZE = "it has no header of a picture, or of one far too large"  # `size` is None
_ORIENTATION = 0x0112  # EXIF tag
_TURNED = (5, 6, 7, 8)  # its values that exchange width and height


def size(picture) -> tuple[int, int] | None:
    """Return (width, height) in pixels, turned as the EXIF tag says.

    `picture` is the encoded bytes, a path, or anything with `read_bytes`. None for what
    is no picture.
    """
    file = picture
    if not isinstance(picture, Path):
        encoded = picture if isinstance(picture, bytes) else picture.read_bytes()
        file = io.BytesIO(encoded)
    try:
        with Image.open(file) as image:
            w, h = image.size
            turned = image.getexif().get(_ORIENTATION) in _TURNED
    except (OSError, UnidentifiedImageError, ValueError, SyntaxError):
        return None
    except Image.DecompressionBombError:
        return None  # decoding will say how large it is
    return (h, w) if turned else (w, h)


def pixels(encoded: bytes) -> int | None:
    """Return width * height of an encoded picture; None for what is no picture.

    Pillow refuses to open what is beyond its own limit, but says how large it is.
    """
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            return image.width * image.height
    except Image.DecompressionBombError as error:
        told = re.search(r"\d+", str(error))
        return int(told[0]) if told else None
    except (OSError, ValueError, SyntaxError):
        return None


def pictures_in(folder: Path) -> list[Path]:
    """Return the pictures in a folder and below, in the order of their names."""
    return sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES)
