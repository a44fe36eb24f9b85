"""Images of 16 bits a channel, which Pillow writes in grey only."""

import struct
import zlib

import numpy as np
from numpy.typing import NDArray

MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}


def values_of(channels: int, height: int = 9, width: int = 7, seed: int = 0) -> NDArray[np.uint16]:
    """Return random (H, W, C) values."""
    generator = np.random.default_rng(seed)
    return generator.integers(0, 2**16, (height, width, channels), dtype=np.uint16)


def png(values: NDArray[np.uint16], **chunks: bytes) -> bytes:
    """Return a 16-bit PNG of (H, W, C) values."""
    height, width, channels = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, COLOUR_TYPES[channels], 0, 0, 0)
    parts = {"IHDR": header, **chunks, "IDAT": zlib.compress(rows), "IEND": b""}
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content))
        + name.encode()
        + content
        + struct.pack(">I", zlib.crc32(name.encode() + content))
        for name, content in parts.items()
    )


def tiff(values: NDArray[np.uint16], order: str = "<", photometric: int | None = None) -> bytes:
    """Return an uncompressed 16-bit TIFF of one strip."""
    height, width, channels = values.shape
    pixels = values.astype(f"{order}u2").tobytes()
    kind = photometric if photometric is not None else 1 if channels < 3 else 2
    bits_at = 8 + len(pixels)
    tags = [
        *((256, 4, 1, width), (257, 4, 1, height)),
        (258, 3, channels, bits_at if channels > 2 else 16),
        *((259, 3, 1, 1), (262, 3, 1, kind), (273, 4, 1, 8), (277, 3, 1, channels)),
        *((278, 4, 1, height), (279, 4, 1, len(pixels))),
        *([(338, 3, 1, 2)] if channels == 4 else []),
    ]
    directory = struct.pack(f"{order}H", len(tags))
    for tag, form, count, value in tags:
        short = form == 3 and count == 1
        packed = struct.pack(f"{order}HH", value, 0) if short else struct.pack(f"{order}I", value)
        directory += struct.pack(f"{order}HHI", tag, form, count) + packed
    bits = struct.pack(f"{order}{channels}H", *[16] * channels)
    mark = b"II*\0" if order == "<" else b"MM\0*"
    start = struct.pack(f"{order}I", bits_at + len(bits))
    return mark + start + pixels + bits + directory + bytes(4)
