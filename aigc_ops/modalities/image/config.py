"""Settings of images: under `data.image`, `validation.image` and `evaluation.image`."""

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from aigc_ops.core.input_paths import Reference
from aigc_ops.interfaces.guard import Guard
from aigc_ops.interfaces.sections import SectionConfig

ExtractorName = Literal[
    "efficientnet-lite0",
    "inception-v3",
    "dinov2-vit-s-14",
    "dinov2-vit-b-14",
    "dinov2-vit-l-14",
    "dinov2-vit-g-14",
    "backbone",
]


class ImageDataConfig(SectionConfig):
    """How images are read."""

    former_names: ClassVar[Mapping[str, str]] = {
        "size": "image_size",
        "column": "image_column",
        "memory_gb": "memory_gb",
        "num_workers": "num_workers",
    }

    size: int | None = Field(
        default=None,
        ge=4,
        le=1024,
        description=(
            "Side in pixels to which images are centre-cropped and resized (bicubic, "
            "antialiased); empty: the data's own size, which all images must share."
        ),
    )
    column: str = Field(
        default="image",
        min_length=1,
        description="Parquet column of encoded images: bytes, or a struct with a bytes field.",
    )
    memory_gb: float = Field(
        default=4.0,
        gt=0,
        description=(
            "Most memory for a split's images, in GiB; a larger split is read from its files as "
            "it is needed, near rows shuffled among one another."
        ),
    )
    num_workers: int = Field(
        default=2, ge=1, le=64, description="Threads that decode images read as needed."
    )

    @property
    def memory_bytes(self) -> int:
        """`memory_gb` in bytes."""
        return int(self.memory_gb * 2**30)


class ImageValidationConfig(SectionConfig):
    """What images must be before anything is trained on them."""

    former_names: ClassVar[Mapping[str, str]] = {
        "min_side": "min_image_side",
        "max_side": "max_image_side",
    }

    min_side: int = Field(default=4, ge=1, description="Least width and height, in pixels.")
    max_side: int = Field(default=4096, ge=1, description="Most width and height, in pixels.")


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


class ImageEvaluationConfig(SectionConfig):
    """How images are judged, and in which feature space."""

    former_names: ClassVar[Mapping[str, str]] = {
        name: name
        for name in (
            *("num_samples", "num_seeds", "reference", "extractor", "input_size"),
            *("inception_weights", "inception_resize", "dinov2_weights", "backbone"),
            *("num_controls", "num_draws"),
        )
    }

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
    reference: Literal["train", "heldout"] = Field(
        default="train", description="Split that images are compared with."
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
    num_controls: int = Field(
        default=8,
        ge=0,
        description="Most controls of a model, in its own order, whose effect is pictured "
        "and measured; 0: none.",
    )
    num_draws: int = Field(
        default=100,
        ge=1,
        le=100_000,
        description="Random draws for each held-out image where a family tells its likelihood: a "
        "VAE's importance samples.",
    )


GUARDS = {
    "coverage": Guard(
        higher_is_better=True,
        limit=0.05,
        at_most=1,
        former_name="max_coverage_loss",
        description="How much less of the data may be covered than by the champion: less is "
        "what a collapse looks like while the distance still falls.",
    ),
    "label_agreement": Guard(
        higher_is_better=True,
        limit=0.03,
        at_most=1,
        former_name="max_agreement_loss",
        description="How many more samples may show another class than asked for: users see "
        "each of them.",
    ),
    "class_spread": Guard(
        higher_is_better=True,
        limit=0.1,
        at_most=1,
        former_name="max_spread_loss",
        description="How much less varied the least varied class may be, as a fraction of the "
        "real class's spread.",
    ),
    "near_duplicates": Guard(
        higher_is_better=False,
        limit=0.03,
        at_most=1,
        former_name="max_duplicates_gain",
        description="How many more samples may be near duplicates of one another.",
    ),
}

MEANINGS = {
    "fid": "Fréchet distance to the data in Inception's features; lower is better",
    "fd_efficientnet_lite0": "Fréchet distance to the data in EfficientNet-Lite0's features",
    "kid": "kernel distance in Inception's features, unbiased; lower is better",
    "kd_efficientnet_lite0": "kernel distance in EfficientNet-Lite0's features, unbiased",
    "inception_score": "how sure Inception is of single samples and how varied they are together",
    "precision": "share of samples that lie among real images",
    "recall": "share of real images that lie among samples",
    "density": "real neighbourhoods that a sample lies in, over their number; near 1 is good",
    "coverage": "share of real images with a sample in their neighbourhood",
    "near_duplicates": "share of samples nearer to another than 99 % of real images are to theirs",
    "label_agreement": "share of samples that show the class asked for, as a linear probe sees it",
    "real_label_agreement": "the same of real images: the most to be expected",
    "class_spread": "least spread of a class over the real one's; 0: a class is one image",
    "copies_in_pixels": "share of samples nearer to a training image than 99 % of held-out "
    "images are; 1 % is expected",
    "copies_in_features": "the same among features",
    "nll": "importance-weighted -log likelihood of held-out images, in nats; lower is better",
    "elbo": "evidence lower bound of held-out images, in nats; higher is better",
    "reconstruction": "expected log likelihood part of the bound, in nats",
    "kl": "divergence of the codes from the prior, in nats",
    "fid_*": "Fréchet distance in Inception's features of images resized as",
    "kid_*": "kernel distance in Inception's features of images resized as",
    "inception_score_*": "Inception Score by weights or a resizing that are not the standard ones:",
}
"""What each metric means; a name that ends in `*` stands for all that begin so."""
