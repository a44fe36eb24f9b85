"""Convert TIFF, and images of 16 bits a channel, to 8-bit PNG.

A value v becomes v / 257, rounded, which maps 65,535 to 255.
"""

import sys
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps

from aigc_ops.core.errors import DataError
from aigc_ops.modalities.image.files import (
    COLOUR_MODES,
    DECODER_FAULTS,
    GREY_MODES,
    MAX_WEBP_PIXELS,
    TIFF_MARKS,
    fault_reason,
    is_deep_png,
    strips,
)

DEEP_GREY = ("I;16", "I;16L", "I;16B")
WHITE_IS_ZERO = (262, 0)  # TIFF's tag PhotometricInterpretation
# Pillow reads one byte of each 16-bit value; the raw mode of the other byte order reads the other.
OTHER_BYTE = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}


def to_8_bit(content: bytes) -> bytes | None:
    """Return TIFF or a 16-bit PNG as 8-bit PNG, upright; None for other content.

    Raises DataError for an image that cannot be converted.
    """
    if not is_deep_png(content) and content[:4] not in TIFF_MARKS:
        return None
    try:
        image = _open(content)
        num_frames = getattr(image, "n_frames", 1)
        if num_frames > 1:
            raise DataError(f"{num_frames} frames or pages; keep one")
        reduced = _reduced(image, content)
        ImageOps.exif_transpose(reduced, in_place=True)
        file = BytesIO()
        reduced.save(file, "PNG", compress_level=1)
    except DECODER_FAULTS as error:
        raise DataError(f"undecodable ({fault_reason(error)})") from error
    return file.getvalue()


def _open(content: bytes) -> ImageFile.ImageFile:
    image = Image.open(BytesIO(content), formats=("PNG", "TIFF"))
    # Both bytes of the values are in memory at once, as an image each.
    if image.width * image.height > MAX_WEBP_PIXELS:
        raise DataError(
            f"{image.width}x{image.height} is more than {MAX_WEBP_PIXELS:,} pixels for TIFF and 16 "
            "bits; reduce its size, or save it as 8-bit PNG"
        )
    return image


def _reduced(image: ImageFile.ImageFile, content: bytes) -> Image.Image:
    """Return an opened image with 8 bits a channel."""
    transparent = image.info.get("transparency")
    if image.mode in DEEP_GREY:
        image.load()
        is_inverted = getattr(image, "tag_v2", {}).get(WHITE_IS_ZERO[0]) == WHITE_IS_ZERO[1]
        reduced = Image.new("L" if transparent is None else "LA", image.size)
        for top, strip in strips(image):
            values = np.asarray(strip).astype(np.uint16)
            levels = _levels((65535 - values if is_inverted else values)[..., None])
            _paste(reduced, top, levels, None if transparent is None else values == transparent)
        return _with_exif(reduced, image)
    raw_modes = [_raw_mode(tile) for tile in image.tile]
    if not any(";16" in mode for mode in raw_modes):
        image.load()
        if image.mode not in GREY_MODES + COLOUR_MODES:
            raise DataError(f"mode {image.mode} is not converted; save it as 8-bit RGB")
        return image
    return _with_exif(_reduced_colour(image, content, raw_modes), image)


def _reduced_colour(
    image: ImageFile.ImageFile, content: bytes, raw_modes: list[str]
) -> Image.Image:
    grey_alpha = all(mode == "LA;16B" for mode in raw_modes)
    is_known = all(m[:-1] in ("RGB;16", "RGBA;16", "RGBX;16") for m in raw_modes)
    if not (grey_alpha or is_known):
        raise DataError(f"values stored as {raw_modes[0]} are not converted; save it as 8-bit RGB")
    lower = _open(content)
    if grey_alpha:
        # Four bytes a pixel, read as if they were red, green, blue and alpha.
        lower.tile = [_with_raw_mode(tile, "RGBA") for tile in lower.tile]
        upper = lower
    else:
        upper = image
        lower.tile = [
            _with_raw_mode(tile, mode[:-1] + OTHER_BYTE[mode[-1]])
            for tile, mode in zip(lower.tile, raw_modes, strict=True)
        ]
        upper.load()
    lower.load()
    transparent = image.info.get("transparency")
    mode = "LA" if grey_alpha else "RGB" if transparent is None else "RGBA"
    reduced = Image.new(image.mode if mode == "RGB" else mode, image.size)
    for (top, high), (_, low) in zip(strips(upper), strips(lower), strict=True):
        if grey_alpha:
            pairs = np.asarray(low).astype(np.uint16)
            values = pairs[..., ::2] * 256 + pairs[..., 1::2]
        else:
            values = np.asarray(high).astype(np.uint16) * 256 + np.asarray(low)
        is_clear = None if transparent is None else (values == np.array(transparent)).all(-1)
        _paste(reduced, top, _levels(values), is_clear)
    return reduced


def _levels(values: NDArray[np.uint16]) -> NDArray[np.uint8]:
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _paste(
    image: Image.Image, top: int, levels: NDArray[np.uint8], is_clear: NDArray[np.bool_] | None
) -> None:
    """Write a strip of (H, W, C) levels, with an alpha channel where a colour is transparent."""
    if is_clear is not None:
        alpha = np.where(is_clear, 0, 255).astype(np.uint8)[..., None]
        levels = np.concatenate([levels, alpha], axis=-1)
    strip = levels[..., 0] if levels.shape[-1] == 1 else levels
    image.paste(Image.fromarray(np.ascontiguousarray(strip)), (0, top))


def _with_exif(image: Image.Image, source: Image.Image) -> Image.Image:
    """Return the image with the source's EXIF data, which holds its orientation."""
    image.getexif().update(source.getexif())
    return image


def _raw_mode(tile: Any) -> str:
    return str(tile.args if isinstance(tile.args, str) else tile.args[0])


def _with_raw_mode(tile: Any, mode: str) -> Any:
    return tile._replace(args=mode if isinstance(tile.args, str) else (mode, *tile.args[1:]))
