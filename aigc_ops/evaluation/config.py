"""Settings of the evaluate stage: common ones, and a section for each modality."""

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from aigc_ops.compute.devices import DeviceName, PrecisionName
from aigc_ops.interfaces.sections import SectionedConfig, with_sections


class EvaluationConfig(SectionedConfig):
    """Settings of the reference data, device and precision; modalities add sections."""

    added_fields: ClassVar[frozenset[str]] = frozenset({"canaries"})

    num_reference: int = Field(
        default=5000,
        ge=2,
        description="Maximum number of reference rows, a fixed subset of the data.",
    )
    batch_size: int | None = Field(
        default=None,
        ge=1,
        le=4096,
        description="Images per batch; empty: 8 on the CPU, 64 elsewhere.",
    )
    device: DeviceName = Field(default="auto", description="auto: CUDA, then MPS, then the CPU.")
    precision: PrecisionName = Field(
        default="auto",
        description="auto: bf16 for efficientnet-lite0 if the hardware supports it; fp32 for "
        "other extractors, so that `fid` equals published values.",
    )
    canaries: int = Field(
        default=0,
        ge=0,
        description="Number of random canaries for a privacy audit: each is put into the training "
        "data with probability 1/2. A run with canaries is a diagnosis and is never promoted. "
        "0: no audit.",
    )


# Sections of installed modalities become fields at run time, which a type checker cannot follow.
if not TYPE_CHECKING:
    EvaluationConfig = with_sections(EvaluationConfig, "evaluation_section")
