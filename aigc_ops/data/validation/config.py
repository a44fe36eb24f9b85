"""What a dataset must be before anything is trained on it."""

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from aigc_ops.interfaces.sections import SectionedConfig, with_sections


class ValidationConfig(SectionedConfig):
    """What a dataset must be before anything is trained on it."""

    min_train_rows: int = Field(default=1, ge=1, description="Fewest rows to train on.")
    min_heldout_rows: int = Field(default=1, ge=1, description="Fewest rows held out.")
    max_duplicate_fraction: float = Field(
        default=0.0, ge=0, le=1, description="Share of rows that may repeat an earlier one."
    )
    require_licence: Literal["auto", "always", "never"] = Field(
        default="auto",
        description="Whether each row must state a licence; auto: when the data has licences.",
    )


if not TYPE_CHECKING:
    ValidationConfig = with_sections(ValidationConfig, "validation_section")
