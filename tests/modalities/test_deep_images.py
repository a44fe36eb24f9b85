"""Images of 16 bits a channel, and TIFF, become 8-bit images by scaling."""

import struct
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from aigc_ops.core.errors import DataError
from aigc_ops.data import DataConfig, Dataset, open_dataset
from aigc_ops.data.validation.config import ValidationConfig
from aigc_ops.data.validation.suite import validate
from aigc_ops.interfaces.ingestion import SPLITS
from aigc_ops.modalities.image.deep_images import to_8_bit
from tests.data.inputs.deep import MODES, png, tiff, values_of
from tests.data.making_data import encode, images_of, noise


def converted(content: bytes) -> Image.Image:
    found = to_8_bit(content)
    assert found is not None
    return Image.open(BytesIO(found))


def scaled(values: NDArray[np.uint16]) -> NDArray[np.uint8]:
    return np.rint(values / 257).astype(np.uint8)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_every_value_of_a_png_is_scaled_and_rounded(channels: int) -> None:
    values = values_of(channels, 300, 500)
    image = converted(png(values))
    assert image.mode == MODES[channels]
    assert np.array_equal(np.asarray(image).reshape(values.shape), scaled(values))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_every_value_of_a_tiff_is_scaled_and_rounded(channels: int, order: str) -> None:
    values = values_of(channels)
    image = converted(tiff(values, order))
    assert image.mode == MODES[channels]
    assert np.array_equal(np.asarray(image).reshape(values.shape), scaled(values))


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate"])
def test_a_compressed_tiff_is_scaled(compression: str) -> None:
    values = values_of(1)[..., 0]
    content = encode(Image.fromarray(values), "TIFF", compression=compression)
    assert np.array_equal(np.asarray(converted(content)), scaled(values))


@pytest.mark.parametrize("compression", [5, 8])
def test_a_compressed_tiff_in_colour_is_scaled(compression: int) -> None:
    # Pillow writes no 16-bit colour, so the pixels of an 8-bit one are read as half as many.
    values = values_of(3, 8, 8)
    wide = Image.fromarray(values.astype("<u2").view(np.uint8).reshape(8, 16, 3))
    names = {5: "tiff_lzw", 8: "tiff_adobe_deflate"}
    content = bytearray(encode(wide, "TIFF", compression=names[compression]))
    (directory,) = struct.unpack_from("<I", content, 4)
    (num,) = struct.unpack_from("<H", content, directory)
    for entry in range(directory + 2, directory + 2 + 12 * num, 12):
        (tag,) = struct.unpack_from("<H", content, entry)
        if tag == 256:
            struct.pack_into("<H", content, entry + 8, 8)
        if tag == 258:
            (bits,) = struct.unpack_from("<I", content, entry + 8)
            struct.pack_into("<3H", content, bits, 16, 16, 16)
    image = converted(bytes(content))
    assert np.array_equal(np.asarray(image), scaled(values))


def test_white_is_zero_in_some_tiff() -> None:
    values = values_of(1)
    assert np.array_equal(
        np.asarray(converted(tiff(values, photometric=0))), scaled(65535 - values)[..., 0]
    )


@pytest.mark.parametrize("channels", [1, 3])
def test_a_transparent_colour_is_compared_with_all_its_bits(channels: int) -> None:
    values = values_of(channels)
    values[0, 1] = values[0, 0] ^ 1  # differs in the lower byte
    chunk = values[0, 0].astype(">u2").tobytes()
    alpha = np.asarray(converted(png(values, tRNS=chunk)))[..., -1]
    assert (alpha[0, 0], alpha[0, 1]) == (0, 255)
    assert (alpha == 0).sum() == 1


def test_other_images_stay_as_they_are() -> None:
    assert to_8_bit(encode(noise(0))) is None
    assert to_8_bit(encode(noise(0), "JPEG")) is None


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (png(values_of(3))[:90], "undecodable"),
        (b"II*\0\x08" + bytes(9), "undecodable"),
        (png(np.zeros((4000, 4000, 1), np.uint16)), "more than 10,485,760 pixels"),
        (encode(noise(0).convert("CMYK"), "TIFF"), "mode CMYK is not converted"),
        (encode(noise(0), "TIFF", save_all=True, append_images=[noise(1)]), "2 frames or pages"),
    ],
    ids=["cut short", "damaged", "large", "CMYK", "pages"],
)
def test_what_cannot_be_converted_is_refused(content: bytes, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        to_8_bit(content)


def with_deep_images(folder: Path) -> Path:
    for index in range(20):
        (folder / f"{index}.png").write_bytes(encode(noise(index, mode="RGB")))
    (folder / "deep.png").write_bytes(png(values_of(4, 8, 8)))
    (folder / "deep.tif").write_bytes(tiff(values_of(3, 8, 8, seed=1)))
    return folder


def test_a_refusal_ends_with_the_flag(tmp_path: Path) -> None:
    config = DataConfig(path=str(with_deep_images(tmp_path)))
    folder = tmp_path.parent / "report"
    decoded, mode = validate(
        open_dataset(config), config, ValidationConfig(), folder=folder
    ).failures
    assert "deep.tif" in decoded
    assert "--data.image.convert 8-bit" in decoded
    assert mode.endswith("deep.png (mode RGBA;16); to allow it: --data.image.convert 8-bit")
    with pytest.raises(DataError, match=r"read it by --data\.image\.convert 8-bit$"):
        images_of(tmp_path)


def test_data_is_read_converted_and_the_conversion_is_noted(tmp_path: Path) -> None:
    settings = {"image": {"convert": "8-bit"}, "heldout_fraction": 0.3}
    config = DataConfig(path=str(with_deep_images(tmp_path)), **settings)
    ref = open_dataset(config)
    [group] = ref.noted
    assert (group.count, sorted(group.examples)) == (2, ["deep.png", "deep.tif"])
    assert validate(ref, config, ValidationConfig(), folder=tmp_path.parent / "report").success
    images = {
        row.name: image.numpy()
        for split in SPLITS
        for row, image in zip(
            Dataset(ref, config).rows(split),
            images_of(tmp_path, split, **settings).images,
            strict=True,
        )
    }
    expected = scaled(values_of(3, 8, 8, seed=1)).transpose(2, 0, 1)
    assert np.array_equal(images["deep.tif"], expected)


def test_transparency_is_over_white_as_in_8_bit_images(tmp_path: Path) -> None:
    values = values_of(4, 8, 8)
    values[..., 3] = np.where(np.arange(8) % 2, 0, 65535)
    (tmp_path / "deep.png").write_bytes(png(values))
    for index in range(3):
        (tmp_path / f"{index}.png").write_bytes(encode(noise(index, mode="RGB")))
    settings = {"image": {"convert": "8-bit"}, "heldout_fraction": 0.01}
    [*_, deep] = images_of(tmp_path, **settings).images
    assert (deep[:, :, 1::2] == 255).all()
    assert np.array_equal(deep[:, :, ::2].numpy(), scaled(values)[:, ::2, :3].transpose(2, 0, 1))
