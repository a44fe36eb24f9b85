"""Settings of a run's dataset: path, column names, and a section per modality."""

from typing import TYPE_CHECKING

from aigc_ops.interfaces.ingestion import DataSettings
from aigc_ops.interfaces.sections import with_sections

__all__ = ["DataConfig"]


class DataConfig(DataSettings):
    """Dataset of a run; docs/data.md explains the formats."""


# The sections depend on the modalities that are installed, which type checkers cannot know.
if not TYPE_CHECKING:
    DataConfig = with_sections(DataConfig, "data_section")
