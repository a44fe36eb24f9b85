"""Data hooks of images: find, decode, measure."""

import hashlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from aigc_ops.core.artifacts import DatasetRef, ImageShape
from aigc_ops.core.errors import DataError
from aigc_ops.interfaces.ingestion import Check, DataHooks, DataSettings, SplitRows, Survey
from aigc_ops.interfaces.row import Row
from aigc_ops.modalities.image.config import ImageDataConfig, ImageValidationConfig
from aigc_ops.modalities.image.deep_images import to_8_bit
from aigc_ops.modalities.image.files import (
    COLOUR_MODES,
    DEEP_MODES,
    GREY_MODES,
    MAX_BYTES,
    OTHER_SUFFIXES,
    SUFFIXES,
    decode,
    flatten,
    measure,
    read_header,
    strips,
)

if TYPE_CHECKING:
    from aigc_ops.modalities.image.model import Images


CONVERTED = "converted to 8-bit (--data.image.convert)"


def image_settings(config: DataSettings) -> ImageDataConfig:
    """Return the section `data.image`."""
    section: ImageDataConfig = config.section("image")
    return section


class ImageSurvey(Survey):
    """Survey of a dataset: size of the first undamaged image, and whether all are grey."""

    def __init__(self) -> None:
        self.size: tuple[int, int] | None = None
        self.are_grey = True

    def add(self, row: Row) -> None:
        try:
            header = read_header(row.content or b"")
            self.are_grey &= header.mode in GREY_MODES
            self.size = self.size or decode(row.content or b"").size
        except DataError:
            pass  # damaged images are named by validation, with all others

    def shape_fields(self, config: DataSettings, class_names: tuple[str, ...]) -> dict[str, Any]:
        """Return the shape; empty if no image can be decoded."""
        if self.size is None:
            return {}
        width, height = self.size
        if (size := image_settings(config).size) is not None:
            width = height = size
        # One colour image makes all three channels necessary.
        channels = 1 if self.are_grey else 3
        shape = ImageShape(channels=channels, height=height, width=width, class_names=class_names)
        return {"image_shape": shape}


class ImageFiles(DataHooks):
    """Image files with one sub-folder per class, and Parquet files of encoded images."""

    name = "image"
    sample_noun = "an image"
    files_noun = "images"
    suffixes = SUFFIXES
    refused_suffixes = OTHER_SUFFIXES
    max_file_bytes = MAX_BYTES
    manifest_columns: ClassVar[Mapping[str, str]] = {
        "width": "Int64",
        "height": "Int64",
        "size": "object",
        "mode": "object",
        "format": "object",
        "num_frames": "Int64",
        "is_deep": "boolean",
    }

    def prepared(
        self,
        row: Row,
        config: DataSettings,
        piece_length: int | None,  # noqa: ARG002
    ) -> Iterator[Row]:
        """Yield the row, as 8-bit PNG if it is to be converted."""
        if image_settings(config).convert is None or row.content is None:
            yield row
            return
        try:
            converted = to_8_bit(row.content)
        except DataError as error:
            yield replace(row, content=None, error=str(error))
            return
        yield row if converted is None else replace(row, content=converted, change=CONVERTED)

    def survey(self) -> ImageSurvey:
        return ImageSurvey()

    def decode(self, source: SplitRows) -> "Images":
        """Return the images in memory, or a stream if they exceed `data.image.memory_gb`."""
        # A stream decodes an image when it is taken, so a damaged one is reported only then.
        from aigc_ops.modalities.image.decoding import image_data
        from aigc_ops.modalities.image.streaming import ImageStream

        shape, settings = source.ref.image_shape, image_settings(source.config)
        if shape is None:
            raise DataError(f"{source.ref.uri}: no image can be read; run validate for the reasons")
        num_bytes = source.num_rows * shape.channels * shape.height * shape.width
        if num_bytes > settings.memory_bytes:
            return ImageStream(source.layout, source.config, source.split, shape)
        return image_data(source.rows, source.num_rows, settings, shape)

    def measure(self, row: Row) -> dict[str, Any]:
        if row.content is None:
            return {"error": row.error or "null"}
        try:
            header, image = measure(row.content)
        except DataError as error:
            return {"error": str(error)}
        facts: dict[str, Any] = {
            "width": image.width,
            "height": image.height,
            "size": f"{image.width}x{image.height}",
            "mode": header.mode,
            "format": header.format,
            "num_frames": header.frames,
            "is_deep": header.mode in DEEP_MODES or None,
        }
        if header.mode in GREY_MODES + COLOUR_MODES and header.frames == 1:
            # An image that is refused has no digest, so it is not left out as a repeat. The digest
            # is over pixels rather than bytes, so it finds duplicates across formats. It is taken
            # strip by strip, because a large image would be copied whole.
            flat = flatten(image)
            digest = hashlib.sha256(f"{flat.mode} {facts['size']} ".encode())
            for _, strip in strips(flat):
                digest.update(strip.tobytes())
            facts["digest"] = digest.hexdigest()
        return facts

    def checks(
        self,
        ref: DatasetRef,
        config: DataSettings,
        rules: ImageValidationConfig,
        measured: Collection[str],
    ) -> list[Check]:
        low, high = rules.min_side, rules.max_side
        modes = GREY_MODES + COLOUR_MODES
        flags = ["--validation.image.min-side {low}", "--validation.image.max-side {high}"]
        rules_by_side = {
            side: f"every {side} is from {low} to {high} pixels" for side in ("width", "height")
        }
        checks = [
            Check(
                "in_set",
                "mode",
                f"every image is 8-bit: {', '.join(modes)}",
                values=modes,
                flags=["--data.image.convert 8-bit"] * ("is_deep" in measured),
            ),
            Check("in_set", "num_frames", "no image is animated", values=[1]),
            *(
                Check("between", side, rule, low=low, high=high, flags=flags)
                for side, rule in rules_by_side.items()
            ),
        ]
        shape = ref.image_shape
        if shape is not None and image_settings(config).size is None:
            size = f"{shape.width}x{shape.height}"
            one_size = f"every image is {size} as the first (data.image.size resizes them)"
            flags = [f"--data.image.size {min(shape.width, shape.height)}"]
            checks.append(Check("in_set", "size", one_size, values=[size], flags=flags))
        return checks
