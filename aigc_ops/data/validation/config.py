"""Settings of the validate stage."""

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from aigc_ops.interfaces.sections import SectionedConfig, with_sections


class ValidationConfig(SectionedConfig):
    """Requirements on a dataset before training."""

    min_train_rows: int = Field(default=1, ge=1, description="Minimum number of training rows.")
    min_heldout_rows: int = Field(default=1, ge=1, description="Minimum number of held-out rows.")
    max_duplicate_fraction: float = Field(
        default=0.25,
        ge=0,
        le=1,
        description="Maximum share of rows that may be left out because they repeat another row.",
    )
    require_licence: Literal["auto", "always", "never"] = Field(
        default="auto",
        description="Require a licence for every row; auto: if any row of the data has one.",
    )


# As for DataConfig, the sections depend on the modalities that are installed.
if not TYPE_CHECKING:
    ValidationConfig = with_sections(ValidationConfig, "validation_section")
