"""Settings of the evaluation: how many samples are judged, in which feature space."""

from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from aigc_ops.devices import DeviceName, PrecisionName
from aigc_ops.references import Reference

ExtractorName = Literal[
    "efficientnet-lite0",
    "inception-v3",
    "dinov2-vit-s-14",
    "dinov2-vit-b-14",
    "dinov2-vit-l-14",
    "dinov2-vit-g-14",
    "backbone",
]


CPU_BATCH, OTHER_BATCH = 8, 64


class BackboneConfig(BaseModel):
    """A network of your own whose features are compared."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    weights: Reference | None = Field(
        default=None,
        description="File of a torchvision network's state_dict (.safetensors or .pth), or a "
        "program of torch.export (.pt2) that makes (B, D) features of (B, 3, H, W) inputs.",
    )
    sha256: str | None = Field(
        default=None,
        pattern="^[0-9a-fA-F]{64}$",
        description="The file's SHA-256. A .pt2 needs it, for it can run code when it is loaded.",
    )
    architecture: str | None = Field(
        default=None,
        description="torchvision's name of the network of a state_dict, such as resnet50; its "
        "features are what its last linear layer sees.",
    )
    input_size: int = Field(
        default=224, ge=8, le=1024, description="Pixels to which each side is resized."
    )
    resize: Literal["bilinear", "bicubic"] = Field(
        default="bilinear", description="Filter of the resizing, antialiased."
    )
    mean: Sequence[float] = Field(
        default=[0.485, 0.456, 0.406],
        min_length=3,
        max_length=3,
        description="Subtracted from red, green and blue in [0, 1].",
    )
    std: Sequence[float] = Field(
        default=[0.229, 0.224, 0.225],
        min_length=3,
        max_length=3,
        description="By which they are then divided.",
    )


class EvaluationConfig(BaseModel):
    """What a checkpoint's samples are compared with, and by whom."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    num_samples: int = Field(
        default=2000, ge=2, le=1_000_000, description="Images drawn from the model and judged."
    )
    num_seeds: int = Field(
        default=1,
        ge=1,
        le=100,
        description="Sets of num_samples images, each from a seed of its own, for which the "
        "distance is told: the first is the score, the others its spread.",
    )
    num_reference: int = Field(
        default=5000,
        ge=2,
        description="Most images (or held-out texts) of the data that stand for all of it.",
    )
    reference: Literal["train", "heldout"] = Field(
        default="train", description="Split that images are compared with; texts: the held-out one."
    )
    extractor: ExtractorName = Field(
        default="efficientnet-lite0",
        description="Network whose features are compared. inception-v3 gives `fid`; "
        "efficientnet-lite0 is packaged and needs no network; dinov2-vit-l-14 and its like are "
        "torch-fidelity's; backbone is a network of your own.",
    )
    input_size: int | None = Field(
        default=None,
        ge=32,
        le=512,
        multiple_of=32,
        description="Pixels to which efficientnet-lite0 sees each side resized; empty: 128. "
        "The others have their own.",
    )
    inception_weights: Reference | None = Field(
        default=None,
        description="File of the FID weights; empty: torch-fidelity's cache, else its download. "
        "Values of other than the standard weights bear their digest and are not called `fid`.",
    )
    inception_resize: Literal["tensorflow", "clean", "legacy"] = Field(
        default="tensorflow",
        description="How inception-v3's images are resized, which is part of the number's name: "
        "tensorflow as the first FID and torch-fidelity (`fid`), clean as clean-fid, legacy as "
        "pytorch-fid.",
    )
    dinov2_weights: Reference | None = Field(
        default=None,
        description="File of DINOv2's weights; empty: torch hub's cache. They are never fetched.",
    )
    backbone: BackboneConfig = Field(
        default=BackboneConfig(), description="The network that the extractor backbone is."
    )
    num_texts: int = Field(
        default=64,
        ge=2,
        le=100_000,
        description="Texts drawn from the model and judged.",
    )
    text_extractor: Literal["minilm"] | None = Field(
        default="minilm",
        description="Network whose embeddings of texts are compared, where its package is "
        "installed; empty: texts are not compared by embeddings.",
    )
    general_path: Reference | None = Field(
        default=None,
        min_length=1,
        description="Other texts (as data.path) on which a text model is scored too, beside the "
        "model that its training started from: what has it forgotten?",
    )
    num_beginnings: int = Field(
        default=128,
        ge=0,
        le=100_000,
        description="Most training texts whose beginnings a text model goes on from, to see "
        "whether it knows them by heart, and as many held-out ones; 0: none.",
    )
    num_controls: int = Field(
        default=8,
        ge=0,
        description="Most controls of an image model, in its own order, whose effect is pictured "
        "and measured; 0: none.",
    )
    num_draws: int = Field(
        default=100,
        ge=1,
        le=100_000,
        description="Random draws for each held-out image where a family tells its likelihood: a "
        "VAE's importance samples.",
    )
    batch_size: int | None = Field(
        default=None,
        ge=1,
        le=4096,
        description="Images in a batch; empty: 8 on the CPU, whose caches hold them, 64 elsewhere.",
    )
    device: DeviceName = Field(default="auto", description="auto: CUDA, then MPS, then the CPU.")
    precision: PrecisionName = Field(
        default="auto",
        description="auto: bf16 where the processor has it for efficientnet-lite0; fp32 for "
        "the others, so that `fid` is what others report.",
    )

    def batch_size_on(self, device_type: str) -> int:
        """Images in a batch on such a device."""
        return self.batch_size or (CPU_BATCH if device_type == "cpu" else OTHER_BATCH)
