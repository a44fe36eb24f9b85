"""A third modality: pulses, which are float32 values in a Parquet column or in a file each."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from aigc_ops.core.artifacts import DatasetRef
from aigc_ops.core.errors import DataError
from aigc_ops.interfaces.data import TrainingData
from aigc_ops.interfaces.ingestion import Check, DataHooks, DataSettings, SplitRows, Survey
from aigc_ops.interfaces.labels import class_of
from aigc_ops.interfaces.row import Row
from aigc_ops.interfaces.sections import SectionConfig


class PulseDataConfig(SectionConfig):
    """How pulses are read."""

    column: str = "pulse"
    gain: float = 1.0


@dataclass(frozen=True)
class PulseData(TrainingData):
    pulses: Tensor
    labels: Tensor | None

    def __len__(self) -> int:
        return len(self.pulses)

    def take(self, indices: Tensor) -> "PulseData":
        return PulseData(
            self.pulses[indices], None if self.labels is None else self.labels[indices]
        )


def decode(content: bytes | None) -> "np.ndarray[Any, np.dtype[np.float32]]":
    if not content or len(content) % 4:
        raise DataError(f"{len(content or b'')} bytes are no float32 values")
    return np.frombuffer(content, np.float32)


class PulseSurvey(Survey):
    length = 0

    def add(self, row: Row) -> None:
        self.length = self.length or len(row.content or b"") // 4

    def shape_fields(self, config: DataSettings, class_names: tuple[str, ...]) -> dict[str, Any]:
        return {"shape": {"length": self.length, "class_names": list(class_names)}}


class PulseFiles(DataHooks):
    name = "pulse"
    sample_noun = "a pulse"
    files_noun = "pulses"
    suffixes = (".f32",)
    manifest_columns: ClassVar[Mapping[str, str]] = {"length": "Int64"}

    def survey(self) -> PulseSurvey:
        return PulseSurvey()

    def decode(self, source: SplitRows) -> PulseData:
        pulses, labels, names = [], [], source.ref.class_names
        for row in source.rows:
            try:
                pulses.append(torch.tensor(decode(row.content)))
            except DataError as error:
                raise DataError(f"{row.name}: {error}") from error
            labels.append(class_of(row, names) if names else 0)
        gain = source.config.section("pulse").gain
        return PulseData(gain * torch.stack(pulses), torch.tensor(labels) if names else None)

    def measure(self, row: Row) -> dict[str, Any]:
        try:
            return {**super().measure(row), "length": len(decode(row.content))}
        except DataError as error:
            return {"error": str(error)}

    def checks(
        self, ref: DatasetRef, config: DataSettings, rules: Any, measured: Collection[str]
    ) -> list[Check]:
        length = (ref.shape or {})["length"]
        return [Check("in_set", "length", f"every pulse has {length} values", values=[length])]


class Pulse:
    """What discovery finds; the parts of a modality that data does not ask for are left out."""

    name = "pulse"
    data = PulseFiles()
    data_section = PulseDataConfig
    validation_section = None
