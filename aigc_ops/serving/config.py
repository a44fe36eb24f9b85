"""Settings of the package stage."""

from pydantic import BaseModel, ConfigDict, Field


class PackagingConfig(BaseModel):
    """Settings of the Bento and of its smoke test."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    enabled: bool = Field(
        default=True, description="Build and test a Bento of the champion at the end of a run."
    )
    boot_timeout_seconds: float = Field(
        default=120, ge=1, le=3600, description="Time limit for the service to become ready."
    )
    # 1, not 0: on another CPU a float may round to the neighbouring one of the 256 pixel levels.
    tolerance_levels: int = Field(
        default=1,
        ge=0,
        le=255,
        description="Largest difference of a served image from its golden sample (levels of 255).",
    )
