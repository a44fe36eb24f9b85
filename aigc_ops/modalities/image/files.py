"""Encoded images and what the project accepts of them: small, still, 8-bit, grey or colour."""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from aigc_ops.core.errors import DataError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif")
OTHER_SUFFIXES = (".tif", ".tiff", ".heic", ".avif", ".jp2", ".ico", ".tga", ".psd", ".eps")
"""Of formats that are not accepted, but read all the same, so that the refusal names them."""
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF")
GREY_MODES = ("1", "L", "LA")
COLOUR_MODES = ("RGB", "RGBA", "P")
MAX_PIXELS = 24 * 2**20
"""Pixels of the largest image that is decoded: 96 MiB in Pillow's 4 bytes a pixel."""
MAX_WEBP_PIXELS = 10 * 2**20
"""Of WebP, which its decoder holds four times over."""
MAX_SIDE = 2**16 - 1
"""Pixels of the longest row, as JPEG has it, so that a strip of rows stays small."""
STRIP_PIXELS = 2**17
MAX_BYTES = 256 * 2**20
"""Of an encoded image."""

# What Pillow's decoders raise on damaged or hostile bytes.
_DECODER_FAULTS = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    EOFError,
    OverflowError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)


@dataclass(frozen=True)
class ImageHeader:
    """What an image file says of itself before its pixels are decoded."""

    format: str
    mode: str
    """Pillow's mode, with `;16` where Pillow would silently cut 16-bit colour to 8."""
    width: int
    height: int
    frames: int


def read_header(content: bytes) -> ImageHeader:
    """The header of an encoded image; raises DataError when it is not one."""
    return _header(_open(content), content)


def decode(content: bytes) -> Image.Image:
    """The image upright, in mode L or RGB, transparency laid over white.

    Raises DataError saying what is wrong with the image, without naming its row.
    """
    image = _open(content)
    check_header(_header(image, content))
    return flatten(_load(image))


def decode_as_stored(content: bytes) -> Image.Image:
    """The image in mode RGB as Pillow converts it, neither turned nor laid over white.

    So pytorch-fid, clean-fid and torch-fidelity take images. Raises DataError as `decode`.
    """
    image = _open(content)
    check_header(_header(image, content))
    return _converted(_load(image, upright=False), "RGB")


def measure(content: bytes) -> tuple[ImageHeader, Image.Image]:
    """Header and upright pixels, in the file's own mode, of any image that decodes."""
    image = _open(content)
    header = _header(image, content)
    return header, _load(image)


def check_header(header: ImageHeader) -> None:
    """Raise DataError unless the image is still, 8-bit, and grey or colour."""
    if header.mode not in GREY_MODES + COLOUR_MODES:
        accepted = ", ".join(GREY_MODES + COLOUR_MODES)
        raise DataError(f"mode {header.mode} is not one of {accepted}; convert it to 8-bit RGB")
    if header.frames > 1:
        raise DataError(f"animated ({header.frames} frames); keep one frame")


def flatten(image: Image.Image) -> Image.Image:
    """The image in mode L or RGB, its transparent parts white."""
    mode = "L" if image.mode in GREY_MODES else "RGB"
    if not image.has_transparency_data:
        return _converted(image, mode)
    flat = Image.new(mode, image.size)
    for top, strip in strips(image):
        colour = strip.convert("RGBA")
        white = Image.new("RGBA", strip.size, "white")
        flat.paste(Image.alpha_composite(white, colour).convert(mode), (0, top))
    return flat


def strips(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """First row and image of each strip of rows, for what would copy a large image whole."""
    num_rows = max(1, STRIP_PIXELS // image.width)
    if num_rows >= image.height:
        yield 0, image  # as most are, of which a crop would be a copy
        return
    for top in range(0, image.height, num_rows):
        yield top, image.crop((0, top, image.width, min(top + num_rows, image.height)))


def fit(image: Image.Image, size: int | None, channels: int) -> NDArray[np.uint8]:
    """(channels, height, width) uint8 of a grey or colour image.

    With `size`, the largest centred square is resized to it, bicubic and antialiased.
    """
    if size is not None and image.size != (size, size):
        # Cropped first: resize(box=...) would blend in pixels from beyond the crop.
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        if image.size != (side, side):
            image = image.crop((left, top, left + side, top + side))
        image = image.resize((size, size), Image.Resampling.BICUBIC)
    image = _converted(image, "L" if channels == 1 else "RGB")
    pixels = np.empty((image.height, image.width, channels), dtype=np.uint8)
    for top, strip in strips(image):
        pixels[top : top + strip.height] = np.asarray(strip).reshape(-1, image.width, channels)
    return pixels.transpose(2, 0, 1)


def _open(content: bytes) -> Image.Image:
    try:
        image = Image.open(BytesIO(content), formats=FORMATS)
    except UnidentifiedImageError as error:
        raise DataError("not a PNG, JPEG, WebP, BMP or GIF image") from error
    except _DECODER_FAULTS as error:
        raise DataError(f"undecodable ({_words(error)})") from error
    most = MAX_WEBP_PIXELS if image.format == "WEBP" else MAX_PIXELS
    if image.width * image.height > most:
        webp = " for WebP (save it as PNG or JPEG)" if most < MAX_PIXELS else ""
        raise DataError(
            f"{image.width}x{image.height} is more than {most:,} pixels{webp}; shrink it"
        )
    if max(image.size) > MAX_SIDE:
        raise DataError(f"{image.width}x{image.height} has a side over {MAX_SIDE:,}; shrink it")
    return image


def _header(image: Image.Image, content: bytes) -> ImageHeader:
    mode = image.mode
    if image.format == "PNG" and content[24:25] == b"\x10" and mode.startswith("RGB"):
        mode += ";16"
    try:
        # A camera's JPEG may hold previews behind the picture, which are no animation.
        frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
    except _DECODER_FAULTS as error:
        raise DataError(f"undecodable ({_words(error)})") from error
    return ImageHeader(str(image.format), mode, image.width, image.height, frames)


def _load(image: Image.Image, *, upright: bool = True) -> Image.Image:
    try:
        image.load()
        if upright:
            ImageOps.exif_transpose(image, in_place=True)
    except _DECODER_FAULTS as error:
        raise DataError(f"undecodable ({_words(error)})") from error
    return image


def _converted(image: Image.Image, mode: str) -> Image.Image:
    """The image in a mode; itself where it is in it, of which convert would make a copy."""
    return image if image.mode == mode else image.convert(mode)


def _words(error: BaseException) -> str:
    return str(error) or type(error).__name__
