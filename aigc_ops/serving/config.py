"""Settings of the package stage."""

from pydantic import BaseModel, ConfigDict, Field


class PackagingConfig(BaseModel):
    """How the champion becomes a Bento, and what its boot must show."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    enabled: bool = Field(
        default=True, description="Build and boot a Bento of the champion at the end of a run."
    )
    boot_timeout_seconds: float = Field(
        default=120, ge=1, le=3600, description="How long the service may take to become ready."
    )
    tolerance_levels: int = Field(
        default=1,
        ge=0,
        le=255,
        description="How many of 255 levels a served image may differ from its golden sample.",
    )
