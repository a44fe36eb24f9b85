"""Decode image files; accepted are small, still, 8-bit images in grey or colour."""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from aigc_ops.core.errors import DataError

SUFFIXES = (".png", ".jpg", ".jpeg", ".jpe", ".jif", ".jfif", ".webp", ".bmp", ".gif")
# Formats that are not accepted. Their files are still read, so that an error names them;
# otherwise they would be missing without a message.
OTHER_SUFFIXES = (
    *(".tif", ".tiff", ".heic", ".heif", ".avif", ".jxl", ".jp2", ".apng", ".ico", ".tga", ".psd"),
    *(".eps", ".svg", ".ppm", ".pgm", ".pbm", ".pnm", ".pcx", ".dds", ".exr", ".hdr", ".dng"),
    *(".cr2", ".cr3", ".nef", ".arw"),
)
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF")
GREY_MODES = ("1", "L", "LA")
COLOUR_MODES = ("RGB", "RGBA", "P")
DEEP_MODES = ("I;16", "I;16B", "RGB;16", "RGBA;16")
MAX_PIXELS = 24 * 2**20  # of a decoded image: 96 MiB at Pillow's 4 bytes per pixel
MAX_WEBP_PIXELS = 10 * 2**20  # the WebP decoder holds an image four times in memory
MAX_SIDE = 2**16 - 1  # JPEG's own limit; keeps a strip of rows small
STRIP_PIXELS = 2**17  # of a strip of rows that is converted at once
MAX_BYTES = 256 * 2**20  # of an encoded image

TIFF_MARKS = (b"II*\0", b"MM\0*")
CONVERT = "read it by --data.image.convert 8-bit"

# Exceptions that Pillow's decoders raise for damaged or hostile bytes: not only OSError, since
# plugins let errors of parsing through.
DECODER_FAULTS = (
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
    """The header of an image file, read without decoding its pixels."""

    format: str
    mode: str
    """Pillow's mode, with `;16` for 16-bit colour, which Pillow silently reduces to 8 bits."""
    width: int
    height: int
    frames: int


def read_header(content: bytes) -> ImageHeader:
    """Return the header of an encoded image; raises DataError if it is not one."""
    return _header(_open(content), content)


def decode(content: bytes) -> Image.Image:
    """Return the image upright, in mode L or RGB, with transparency over white.

    Raises DataError with the reason but without the row's name, which the caller adds.
    """
    image = _open(content)
    check_header(_header(image, content))
    return flatten(_load(image))


def decode_as_stored(content: bytes) -> Image.Image:
    """Return the image as Pillow converts it to RGB, neither rotated nor over white.

    pytorch-fid, clean-fid and torch-fidelity do the same. Raises DataError as `decode` does.
    """
    image = _open(content)
    check_header(_header(image, content))
    return _converted(_load(image, upright=False), "RGB")


def measure(content: bytes) -> tuple[ImageHeader, Image.Image]:
    """Return header and upright pixels of an image, in the file's own mode."""
    image = _open(content)
    header = _header(image, content)
    return header, _load(image)


def check_header(header: ImageHeader) -> None:
    """Raise DataError unless the image is still, 8-bit, and grey or colour."""
    if header.mode not in GREY_MODES + COLOUR_MODES:
        accepted = ", ".join(GREY_MODES + COLOUR_MODES)
        more = f"; in a dataset, {CONVERT}" if header.mode in DEEP_MODES else ""
        raise DataError(
            f"mode {header.mode} is not one of {accepted}; convert it to 8-bit RGB{more}"
        )
    if header.frames > 1:
        raise DataError(f"animated ({header.frames} frames); keep one frame")


def is_deep_png(content: bytes) -> bool:
    """Return whether content is a PNG of 16 bits a channel."""
    # Byte 24 of a PNG is the bit depth in its IHDR chunk.
    return content[24:25] == b"\x10" and content.startswith(b"\x89PNG\r\n\x1a\n")


def flatten(image: Image.Image) -> Image.Image:
    """Return the image in mode L or RGB, its transparent parts white."""
    mode = "L" if image.mode in GREY_MODES else "RGB"
    if not image.has_transparency_data:
        return _converted(image, mode)
    # Strip by strip: converting to RGBA and compositing would hold three copies of the image.
    flat = Image.new(mode, image.size)
    for top, strip in strips(image):
        colour = strip.convert("RGBA")
        white = Image.new("RGBA", strip.size, "white")
        flat.paste(Image.alpha_composite(white, colour).convert(mode), (0, top))
    return flat


def strips(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """Yield the first row and the image of each strip of rows."""
    num_rows = max(1, STRIP_PIXELS // image.width)
    if num_rows >= image.height:
        yield 0, image  # the usual case; a crop would copy the image
        return
    for top in range(0, image.height, num_rows):
        yield top, image.crop((0, top, image.width, min(top + num_rows, image.height)))


def fit(image: Image.Image, size: int | None, channels: int) -> NDArray[np.uint8]:
    """Return a grey or colour image as a (channels, height, width) uint8 array.

    With `size`, the largest centred square is resized to it, bicubic and antialiased.
    """
    if size is not None and image.size != (size, size):
        # Crop first: resize(box=...) would blend in pixels from outside the crop.
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        if image.size != (side, side):
            image = image.crop((left, top, left + side, top + side))
        image = image.resize((size, size), Image.Resampling.BICUBIC)
    image = _converted(image, "L" if channels == 1 else "RGB")
    # Filled by strips, because np.asarray of a Pillow image goes through a copy of its bytes.
    pixels = np.empty((image.height, image.width, channels), dtype=np.uint8)
    for top, strip in strips(image):
        pixels[top : top + strip.height] = np.asarray(strip).reshape(-1, image.width, channels)
    return pixels.transpose(2, 0, 1)


def _open(content: bytes) -> Image.Image:
    try:
        image = Image.open(BytesIO(content), formats=FORMATS)
    except UnidentifiedImageError as error:
        more = f" but TIFF; in a dataset, {CONVERT}" if content[:4] in TIFF_MARKS else ""
        raise DataError(f"not a PNG, JPEG, WebP, BMP or GIF image{more}") from error
    except DECODER_FAULTS as error:
        raise DataError(f"undecodable ({fault_reason(error)})") from error
    # Open reads only the header, so the limits hold before a decoder allocates the pixels.
    most = MAX_WEBP_PIXELS if image.format == "WEBP" else MAX_PIXELS
    if image.width * image.height > most:
        webp = " for WebP (save it as PNG or JPEG)" if most < MAX_PIXELS else ""
        raise DataError(
            f"{image.width}x{image.height} is more than {most:,} pixels{webp}; reduce its size"
        )
    if max(image.size) > MAX_SIDE:
        raise DataError(
            f"{image.width}x{image.height} has a side over {MAX_SIDE:,} pixels; reduce it"
        )
    return image


def _header(image: Image.Image, content: bytes) -> ImageHeader:
    mode = image.mode
    if is_deep_png(content) and mode.startswith("RGB"):
        mode += ";16"
    try:
        # MPO: a camera's JPEG with further pictures such as previews, which are no animation.
        frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
    except DECODER_FAULTS as error:
        raise DataError(f"undecodable ({fault_reason(error)})") from error
    return ImageHeader(str(image.format), mode, image.width, image.height, frames)


def _load(image: Image.Image, *, upright: bool = True) -> Image.Image:
    try:
        image.load()
        if upright:
            ImageOps.exif_transpose(image, in_place=True)
    except DECODER_FAULTS as error:
        raise DataError(f"undecodable ({fault_reason(error)})") from error
    return image


def _converted(image: Image.Image, mode: str) -> Image.Image:
    """Return the image in a mode, without a copy if it already has that mode."""
    return image if image.mode == mode else image.convert(mode)


def fault_reason(error: BaseException) -> str:
    """Return the message of a decoder's error, or its type if it has none."""
    return str(error) or type(error).__name__
