"""DINOv2 features (Oquab et al. 2023) as in torch-fidelity, without code from torch hub."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from aigc_ops.core.errors import EvaluationError
from aigc_ops.interfaces.evaluation import EvaluationSettings
from aigc_ops.modalities.image.config import ImageEvaluationConfig
from aigc_ops.modalities.image.extractors import weights
from aigc_ops.modalities.image.extractors.base import (
    PACKAGES,
    Extractor,
    ExtractorIdentity,
    batch_size_on,
    default_to_fp32,
)
from aigc_ops.modalities.image.extractors.resizing import TENSORFLOW_RESIZE, resized_as_tensorflow

INPUT_SIZE, PATCH_SIZE = 224, 14
SIDE = INPUT_SIZE // PATCH_SIZE
OFFSET = 0.1  # added by the original to the number of patches, see `_positions`
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# torch-fidelity's names, with facebookresearch's name, width, layers and heads.
SHAPES = {
    "dinov2-vit-s-14": ("dinov2_vits14", 384, 12, 6),
    "dinov2-vit-b-14": ("dinov2_vitb14", 768, 12, 12),
    "dinov2-vit-l-14": ("dinov2_vitl14", 1024, 24, 16),
    "dinov2-vit-g-14": ("dinov2_vitg14", 1536, 40, 24),
}
# Names of a block's layers: facebookresearch's and transformers'.
PARTS = {
    "norm1": "norm1",
    "attn.proj": "attention.output.dense",
    "ls1.gamma": "layer_scale1.lambda1",
    "norm2": "norm2",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
    "mlp.w12": "mlp.weights_in",
    "mlp.w3": "mlp.weights_out",
    "ls2.gamma": "layer_scale2.lambda1",
}


def load_dinov2(
    config: ImageEvaluationConfig, settings: EvaluationSettings, device: torch.device
) -> Extractor:
    """Return the configured DINOv2 with facebookresearch's weights."""
    file_name, width = SHAPES[config.extractor][:2]
    digest, state = weights.dinov2_weights(file_name, config.dinov2_weights)
    network = network_of(config.extractor, state).to(device)
    mean, std = (255 * torch.tensor(each, device=device).view(3, 1, 1) for each in (MEAN, STD))

    def features(images: Tensor) -> Tensor:
        with torch.autocast(device.type, enabled=False):
            inputs = (resized_as_tensorflow(images, INPUT_SIZE) - mean) / std
        # The normalised class token.
        pooled: Tensor = network(inputs).pooler_output
        return pooled

    identity = ExtractorIdentity(
        name=config.extractor,
        weights=digest,
        width=width,
        input_size=INPUT_SIZE,
        resize=TENSORFLOW_RESIZE,
        normalisation=f"(x - {list(MEAN)}) / {list(STD)} of x in [0, 1]",
        precision=default_to_fp32(settings),
    )
    return Extractor(
        f"fd_{file_name}_{digest[:8]}",
        identity,
        device,
        features,
        batch_size_on(device, settings),
        packages=(*PACKAGES, "torch-fidelity", "transformers"),
    )


def network_of(name: str, state: Mapping[str, Tensor]) -> Any:
    """Return transformers' network with facebookresearch's weights, in eval mode."""
    from transformers import Dinov2Config, Dinov2Model

    file_name, width, num_layers, num_heads = SHAPES[name]
    config = Dinov2Config(
        hidden_size=width,
        num_hidden_layers=num_layers,
        num_attention_heads=num_heads,
        image_size=INPUT_SIZE,
        patch_size=PATCH_SIZE,
        use_swiglu_ffn=name == "dinov2-vit-g-14",
    )
    untyped: Any = Dinov2Model
    try:
        # `from_pretrained` knows the names of published files in each version of transformers;
        # those of the network's modules have changed.
        with torch.random.fork_rng(devices=[]):
            network, found = untyped.from_pretrained(
                None,
                config=config,
                state_dict=dict(_renamed(state, num_layers)),
                output_loading_info=True,
            )
        if wrong := [
            f"{kind} {sorted(map(str, names))[:3]}" for kind, names in found.items() if names
        ]:
            raise ValueError(", ".join(wrong))
    except (KeyError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise EvaluationError(
            f"not weights of {name} ({reason}); give facebookresearch's {file_name}_pretrain.pth"
        ) from error
    return network.requires_grad_(False).eval()


def _renamed(state: Mapping[str, Tensor], num_layers: int) -> Iterator[tuple[str, Tensor]]:
    """Yield facebookresearch's weights under the names of transformers."""
    yield "embeddings.cls_token", state["cls_token"]
    yield "embeddings.mask_token", state["mask_token"]
    yield "embeddings.position_embeddings", _positions(state["pos_embed"])
    for end in ("weight", "bias"):
        projection = state[f"patch_embed.proj.{end}"]
        yield f"embeddings.patch_embeddings.projection.{end}", projection
        yield f"layernorm.{end}", state[f"norm.{end}"]
    for layer in range(num_layers):
        source, target = f"blocks.{layer}.", f"encoder.layer.{layer}."
        for end in ("weight", "bias"):
            # The original stacks query, key and value in one matrix, in this order.
            parts = state[f"{source}attn.qkv.{end}"].chunk(3)
            for part, tensor in zip(("query", "key", "value"), parts, strict=True):
                yield f"{target}attention.attention.{part}.{end}", tensor
        for name, tensor in state.items():
            part = name.removeprefix(source)
            for old, new in PARTS.items():
                if part != name and part.startswith(old):
                    yield target + new + part.removeprefix(old), tensor


def _positions(positions: Tensor) -> Tensor:
    """Return (1, 1 + P, D) position embeddings resized to the patches of a 224 px image."""
    # The weights are for 518 px. The original resizes their positions at every call, with an
    # offset against rounding errors that shifts the result; it must be reproduced exactly.
    first, patches = positions[:, :1], positions[:, 1:]
    side = round(patches.shape[1] ** 0.5)
    if side == SIDE:
        return positions
    grid = patches.reshape(1, side, side, -1).permute(0, 3, 1, 2)
    scale = (SIDE + OFFSET) / side
    grid = functional.interpolate(grid, scale_factor=(scale, scale), mode="bicubic")
    return torch.cat([first, grid.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)
