"""What becomes of an encoded image."""

import contextlib
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from aigc_ops.core.errors import DataError
from aigc_ops.modalities.image.files import (
    MAX_PIXELS,
    check_header,
    decode,
    fit,
    measure,
    read_header,
)
from tests.data.making_data import encode, noise


def png(width: int, height: int, bit_depth: int, color_type: int, pixels: bytes) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)

    header = struct.pack(">IIBBBBB", width, height, bit_depth, color_type, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(pixels))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("mode", "expected"),
    [("1", "L"), ("L", "L"), ("LA", "L"), ("P", "RGB"), ("RGB", "RGB"), ("RGBA", "RGB")],
)
def test_grey_stays_grey_and_the_rest_becomes_colour(mode: str, expected: str) -> None:
    assert decode(encode(noise(0, mode=mode))).mode == expected


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "GIF"])
def test_every_accepted_format_decodes_to_its_size(kind: str) -> None:
    assert decode(encode(noise(0, 9, 7, "RGB"), kind)).size == (9, 7)


def test_png_decodes_to_the_very_pixels() -> None:
    image = noise(3, 9, 7, "RGB")
    assert decode(encode(image)).tobytes() == image.tobytes()


def test_transparent_parts_become_white() -> None:
    image = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    image.putpixel((0, 0), (0, 128, 0, 255))
    decoded = decode(encode(image))
    assert decoded.getpixel((0, 0)) == (0, 128, 0)
    assert decoded.getpixel((1, 1)) == (255, 255, 255)


def test_exif_orientation_turns_the_image_upright() -> None:
    image = Image.new("RGB", (16, 8), "black")
    image.paste("white", (0, 0, 8, 8))
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its side: turn by 90 degrees clockwise to view
    decoded = decode(encode(image, "JPEG", exif=exif, quality=95))
    assert decoded.size == (8, 16)
    assert decoded.convert("L").getpixel((4, 3)) > 200
    assert decoded.convert("L").getpixel((4, 12)) < 50


def test_previews_behind_a_cameras_picture_are_passed_over() -> None:
    photo = noise(0, 16, 16, "RGB")
    both = encode(photo, "MPO", save_all=True, append_images=[noise(1, 8, 8, "RGB")])
    assert decode(both).size == (16, 16)
    check_header(measure(both)[0])


SIXTEEN_BIT_COLOUR = png(1, 1, 16, 2, b"\0" + b"\x12\x34" * 3)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (encode(Image.new("I;16", (4, 4))), "mode I;16"),
        (SIXTEEN_BIT_COLOUR, "mode RGB;16"),
        (encode(Image.new("CMYK", (4, 4)), "JPEG"), "mode CMYK"),
        (encode(noise(0), "GIF", save_all=True, append_images=[noise(1)]), "animated (2 frames)"),
        (encode(noise(0), "WEBP", save_all=True, append_images=[noise(1)]), "animated (2 frames)"),
        (encode(noise(0), "TIFF"), "not a PNG, JPEG, WebP, BMP or GIF"),
        (encode(noise(0, 64, 64))[:900], "undecodable"),
        (encode(noise(0, 64, 64), "JPEG")[:900], "undecodable"),
        (png(50_000, 50_000, 8, 0, b""), "undecodable"),
        (png(8_000, 8_000, 8, 0, b""), f"more than {MAX_PIXELS:,} pixels"),
        (b"", "not a PNG"),
        (b"<svg/>", "not a PNG"),
    ],
    ids=lambda value: value if isinstance(value, str) else "bytes",
)
def test_what_is_refused_is_refused_by_reason(content: bytes, reason: str) -> None:
    with pytest.raises(DataError, match=reason.replace("(", r"\(").replace(")", r"\)")):
        decode(content)


@given(st.binary(max_size=200), st.integers(0, 120))
def test_damaged_bytes_raise_a_data_error_or_decode(damage: bytes, place: int) -> None:
    sound = encode(noise(1, 12, 12, "RGB"))
    with contextlib.suppress(DataError):
        assert decode(sound[:place] + damage + sound[place + len(damage) :]).size


def test_the_header_tells_size_and_mode_without_decoding() -> None:
    header = read_header(encode(noise(0, 64, 32, "RGB"))[:60])
    assert (header.format, header.mode, header.width, header.height) == ("PNG", "RGB", 64, 32)


def test_fit_crops_the_centre_before_it_resizes() -> None:
    image = Image.new("L", (24, 8), 0)
    image.paste(200, (8, 0, 16, 8))
    assert fit(image, 4, 1).tolist() == np.full((1, 4, 4), 200).tolist()


def test_fit_without_a_size_keeps_every_pixel() -> None:
    image = noise(0, 5, 3)
    assert np.array_equal(fit(image, None, 1)[0], np.asarray(image))
    assert fit(image, None, 3).shape == (3, 3, 5)


def test_shrinking_is_antialiased() -> None:
    board = Image.fromarray((np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8))
    shrunk = fit(board, 8, 1)
    assert abs(shrunk.astype(int) - 127).max() <= 12


@pytest.mark.parametrize("mode", ["RGBA", "LA", "RGB", "L", "P"])
def test_large_images_are_worked_on_in_strips_and_come_out_the_same(mode: str) -> None:
    image = noise(0, 700, 500, "RGB").convert(mode)
    if mode in ("RGBA", "LA"):
        image.putalpha(noise(1, 700, 500, "L"))
    white = Image.new("RGBA", image.size, "white")
    whole = Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    pixels = fit(decode(encode(image)), None, 3)
    assert np.array_equal(pixels, np.asarray(whole).transpose(2, 0, 1))


BOMB = """
import resource, sys
from pathlib import Path
from aigc_ops.interfaces.row import Row
from aigc_ops.modalities.image.files import decode, fit
from aigc_ops.modalities.image.ingestion import ImageFiles
content = Path(sys.argv[1]).read_bytes()
fit(decode(Path(sys.argv[2]).read_bytes()), None, 3)  # imports Pillow's plugins
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert "error" not in ImageFiles().measure(Row("bomb", content))
fit(decode(content), None, 3)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.parametrize("case", ["RGBA", "palette", "turned", "webp"])
def test_the_largest_image_grows_memory_by_less_than_200_mb(tmp_path: Path, case: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    size, small = (5000, 5000), noise(0, 8, 8, "RGB")
    kind, options = "PNG", {}
    match case:
        case "RGBA":
            image = Image.new("RGBA", size, (1, 2, 3, 4))
        case "palette":
            image, options = Image.new("P", size), {"transparency": b"\x80" * 256}
        case "turned":
            image, kind, options = Image.new("RGB", size), "JPEG", {"exif": exif}
        case "webp":
            image, kind, options = Image.new("RGBA", (3238, 3238)), "WEBP", {"lossless": True}
    (tmp_path / "bomb").write_bytes(encode(image, kind, **options))
    (tmp_path / "small").write_bytes(encode(small, kind))
    words = [sys.executable, "-c", BOMB, str(tmp_path / "bomb"), str(tmp_path / "small")]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 200 * 1024


def test_a_photo_of_24_megapixels_is_decoded_and_webp_of_as_many_is_told_what_to_do() -> None:
    photo = Image.new("RGB", (6000, 4000), "blue")
    assert decode(encode(photo, "JPEG")).size == (6000, 4000)
    with pytest.raises(DataError, match=r"pixels for WebP \(save it as PNG or JPEG"):
        decode(encode(photo, "WEBP"))
    with pytest.raises(DataError, match="a side over 65,535"):
        decode(png(70_000, 1, 8, 0, b"\0" * 70_001))
