"""Reading, measuring and checking pulses."""

from contextlib import suppress
from typing import ClassVar

import numpy as np
import torch

from aigc_ops.core.errors import DataError
from aigc_ops.interfaces.data import TrainingData
from aigc_ops.interfaces.ingestion import Check, DataHooks, Survey


def levels(content):
    """Return the (T,) float32 levels of a pulse; raises DataError for other bytes."""
    if not content or len(content) % 4:
        raise DataError("not whole float32 numbers")
    return np.frombuffer(content, dtype="<f4")


class PulseData(TrainingData):
    """Pulses (N, T) float32, and labels (N,) int64 or None."""

    def __init__(self, pulses, labels, class_names):
        self.pulses, self.labels, self.class_names = pulses, labels, class_names

    def __len__(self):
        return len(self.pulses)

    def take(self, indices):
        labels = None if self.labels is None else self.labels[indices]
        return PulseData(self.pulses[indices], labels, self.class_names)


class PulseSurvey(Survey):
    """Survey that records the length of the first valid pulse."""

    length = 0

    def add(self, row):
        with suppress(DataError):  # validation names the row
            self.length = self.length or len(levels(row.content))

    def shape_fields(self, config, class_names):
        return {"shape": {"length": self.length, "class_names": list(class_names)}}


class PulseFiles(DataHooks):
    """Parquet with a column of bytes, or one `.pulse` file each, classes by sub-folder."""

    name = "pulses"
    sample_noun = "a pulse"
    files_noun = "pulses"
    suffixes = (".pulse",)
    priority = 60
    manifest_columns: ClassVar = {"length": "Int64", "peak": "float64"}

    def survey(self):
        return PulseSurvey()

    def decode(self, source):
        names = tuple(source.ref.shape["class_names"])
        pulses, labels = [], []
        for row in source.rows:
            try:
                pulses.append(levels(row.content))
            except DataError as error:
                raise DataError(f"{row.name}: {error}") from error
            labels.append(names.index(str(row.label)) if names else 0)
        rows = torch.from_numpy(np.stack(pulses))
        return PulseData(rows, torch.tensor(labels) if names else None, names)

    def measure(self, row):
        facts = super().measure(row)
        try:
            found = levels(row.content)
        except DataError as error:
            return {"error": str(error)}
        return facts | {"length": len(found), "peak": float(np.abs(found).max())}

    def checks(self, ref, config, rules, measured):
        length, most = ref.shape["length"], rules.max_level
        return [
            Check("in_set", "length", f"every pulse has {length} levels", values=[length]),
            Check("between", "peak", f"every level is within {most:g}", low=0, high=most),
        ]
