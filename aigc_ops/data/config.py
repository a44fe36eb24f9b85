"""The settings of a run's dataset: where it is, and what its columns are called."""

from typing import TYPE_CHECKING

from aigc_ops.interfaces.ingestion import DataSettings
from aigc_ops.interfaces.sections import with_sections

__all__ = ["DataConfig"]


class DataConfig(DataSettings):
    """The dataset of a run; docs/data.md explains the formats."""


if not TYPE_CHECKING:
    DataConfig = with_sections(DataConfig, "data_section")
