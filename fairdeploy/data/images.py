"""Image files to arrays [channels, height, width]: JPEG, PNG, WebP, BMP and TIFF, upright, RGB or grey."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fairdeploy.data.tables import first_line
from fairdeploy.errors import MissingExtra
from fairdeploy.source import Resize

if TYPE_CHECKING:
    from PIL import Image

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")
MODES = {3: ("RGB", "RGBA", "L", "LA", "1", "P"), 1: ("L", "LA", "1")}


class _Refused(Exception):
    """Why an image cannot be used."""


def require_pillow() -> None:
    """Raise `MissingExtra` where Pillow is not installed."""
    try:
        import PIL.Image  # noqa: F401
    except ImportError:
        raise MissingExtra("reading images", "images") from None


def decode(
    image: Path | bytes, shape: tuple[int, ...], resize: Resize | None, *, error: Callable[[str], Exception]
) -> NDArray[np.uint8]:
    """Decode one image, turned as its EXIF orientation says.

    Parameters
    ----------
    image : Path or bytes
        A file, or what stands in one.
    shape : tuple of int
        Channels (3: RGB, grey becomes RGB; 1: grey), height and width.
    resize : {"crop", "stretch"}, optional
        How an image of another size gets it, by bilinear interpolation over the area of each new pixel: the largest
        middle part of the right proportions, or everything, distorted. An image of another size is refused without.
    error : callable
        Makes of what is wrong the exception that says where.

    Returns
    -------
    array of uint8 [channels, height, width]

    Raises
    ------
    Exception
        `error`, if it is no such image, is cut off, is transparent or of another mode, or has another size.
    """
    try:
        upright = _upright(image, shape, resize)
    except _Refused as refused:
        raise error(str(refused)) from None
    from PIL import Image, ImageOps

    channels, height, width = shape
    plain = upright.convert("RGB" if channels == 3 else "L")
    if resize == "crop":
        plain = ImageOps.fit(plain, (width, height), Image.Resampling.BILINEAR)
    elif resize == "stretch":
        plain = plain.resize((width, height), Image.Resampling.BILINEAR)
    pixels = np.asarray(plain, np.uint8).reshape(height, width, channels)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _upright(image: Path | bytes, shape: tuple[int, ...], resize: Resize | None) -> Image.Image:
    from PIL import Image, ImageOps, UnidentifiedImageError

    channels, height, width = shape
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(BytesIO(image) if isinstance(image, bytes) else image, formats=FORMATS) as opened:
                mode = opened.mode
                if resize is None:
                    _refuse_size(opened.size, opened.getexif().get(0x0112, 1), (width, height))
                upright = ImageOps.exif_transpose(opened)
    except _Refused:
        raise
    except FileNotFoundError:
        raise _Refused("no such file") from None
    except UnidentifiedImageError:
        raise _Refused(f"is no image in {', '.join(FORMATS[:-1])} or {FORMATS[-1]} format") from None
    except Exception as error:  # decoders raise whatever they come upon
        raise _Refused(f"does not decode: {first_line(error)}") from None
    if mode not in MODES[channels]:
        expected = "8-bit RGB or grey" if channels == 3 else "8-bit grey"
        raise _Refused(f"has the mode {mode}: expected {expected}")
    if upright.has_transparency_data and np.asarray(upright.convert("RGBA"))[..., 3].min() < 255:
        raise _Refused("is transparent: put it on a background")
    return upright


def _refuse_size(size: tuple[int, int], orientation: int, wanted: tuple[int, int]) -> None:
    found = size[::-1] if orientation in (5, 6, 7, 8) else size
    if found != wanted:
        raise _Refused(
            f"is {found[0]} x {found[1]} pixels, the model's input {wanted[0]} x {wanted[1]}: scale the images, or say "
            "resize: crop or stretch"
        )
