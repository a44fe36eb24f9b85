"""DINOv2 from facebookresearch's files: the same network, whoever names its weights."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from aigc_ops.core.errors import EvaluationError
from aigc_ops.modalities.image.extractors.base import Extractor
from tests.evaluation.conftest import image_extractor

WIDTH, NUM_LAYERS, NUM_HEADS = 384, 12, 6


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file in the layout of dinov2_vits14_pretrain.pth, of random weights."""
    generator = torch.Generator().manual_seed(0)

    def some(*shape: int) -> Tensor:
        return 0.05 * torch.randn(*shape, generator=generator)

    state = {
        "cls_token": some(1, 1, WIDTH),
        "pos_embed": some(1, 1 + 37 * 37, WIDTH),
        "mask_token": some(1, WIDTH),
        "patch_embed.proj.weight": some(WIDTH, 3, 14, 14),
        "patch_embed.proj.bias": some(WIDTH),
    }
    layers = {"attn.qkv": (3, 1), "attn.proj": (1, 1), "mlp.fc1": (4, 1), "mlp.fc2": (1, 4)}
    for layer in range(NUM_LAYERS):
        for name, (out, given) in layers.items():
            state[f"blocks.{layer}.{name}.weight"] = some(out * WIDTH, given * WIDTH)
            state[f"blocks.{layer}.{name}.bias"] = some(out * WIDTH)
        for name in ("norm1", "norm2"):
            state[f"blocks.{layer}.{name}.weight"] = 1 + some(WIDTH)
            state[f"blocks.{layer}.{name}.bias"] = some(WIDTH)
        for name in ("ls1", "ls2"):
            state[f"blocks.{layer}.{name}.gamma"] = 0.5 + some(WIDTH)
    state |= {"norm.weight": 1 + some(WIDTH), "norm.bias": some(WIDTH)}
    path = tmp_path_factory.mktemp("dinov2") / "dinov2_vits14_pretrain.pth"
    torch.save(state, path)
    return path


def by_hand(state: dict[str, Tensor], inputs: Tensor) -> Tensor:
    """The forward pass of Oquab et al. 2023 (a pre-norm ViT with layer scale), written out."""

    def linear(rows: Tensor, name: str) -> Tensor:
        return functional.linear(rows, state[f"{name}.weight"], state[f"{name}.bias"])

    def norm(rows: Tensor, name: str) -> Tensor:
        scale, shift = state[f"{name}.weight"], state[f"{name}.bias"]
        return functional.layer_norm(rows, (WIDTH,), scale, shift, eps=1e-6)

    projection = state["patch_embed.proj.weight"], state["patch_embed.proj.bias"]
    patches = functional.conv2d(inputs, *projection, stride=14).flatten(2).transpose(1, 2)
    square = state["pos_embed"][:, 1:].reshape(1, 37, 37, WIDTH).permute(0, 3, 1, 2)
    scale = 16.1 / 37
    resized = functional.interpolate(square, scale_factor=(scale, scale), mode="bicubic")
    places = resized.flatten(2).transpose(1, 2)
    first = (state["cls_token"] + state["pos_embed"][:, :1]).expand(len(inputs), -1, -1)
    rows = torch.cat([first, patches + places], dim=1)
    for layer in range(NUM_LAYERS):
        at = f"blocks.{layer}"
        packed = linear(norm(rows, f"{at}.norm1"), f"{at}.attn.qkv")
        heads = packed.unflatten(2, (3, NUM_HEADS, -1)).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)
        rows = rows + state[f"{at}.ls1.gamma"] * linear(mixed, f"{at}.attn.proj")
        hidden = functional.gelu(linear(norm(rows, f"{at}.norm2"), f"{at}.mlp.fc1"))
        rows = rows + state[f"{at}.ls2.gamma"] * linear(hidden, f"{at}.mlp.fc2")
    return norm(rows, "norm")[:, 0]


def dinov2(path: Path | None, name: str = "dinov2-vit-s-14") -> Extractor:
    where = None if path is None else str(path)
    return image_extractor(extractor=name, dinov2_weights=where)


def test_features_are_those_of_the_paper_on_torch_fidelitys_inputs(weights: Path) -> None:
    from torch_fidelity.interpolate_compat_tensorflow import (
        interpolate_bilinear_2d_like_tensorflow1x,
    )

    images = torch.randint(0, 256, (2, 3, 40, 40), generator=torch.Generator().manual_seed(0))
    inputs = interpolate_bilinear_2d_like_tensorflow1x(
        images.float(), size=(224, 224), align_corners=False
    )
    mean, std = (torch.tensor(c) for c in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    inputs = (inputs / 255 - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    with torch.inference_mode():
        expected = by_hand(torch.load(weights, weights_only=True), inputs).numpy()
    found = dinov2(weights).features(images.byte(), what="images")
    np.testing.assert_allclose(found, expected, atol=1e-3)
    assert expected.std() > 0.1


def test_its_identity_names_the_file(weights: Path) -> None:
    extractor = dinov2(weights)
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    assert extractor.metric == f"fd_dinov2_vits14_{digest[:8]}"
    identity = extractor.identity
    assert (identity.name, identity.weights) == ("dinov2-vit-s-14", digest)
    assert (identity.width, identity.input_size, identity.precision) == (384, 224, "fp32")


def test_torch_hubs_cache_is_used_and_nothing_is_fetched(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(
        EvaluationError,
        match=r"checkpoints/dinov2_vits14_pretrain\.pth: .*--evaluation\.image\.dinov2",
    ):
        dinov2(None)
    cached = tmp_path / "hub" / "checkpoints" / weights.name
    cached.parent.mkdir(parents=True)
    cached.symlink_to(weights)
    assert dinov2(None).identity == dinov2(weights).identity


def test_weights_of_another_size_are_refused(weights: Path) -> None:
    with pytest.raises(EvaluationError, match="not weights of dinov2-vit-b-14"):
        dinov2(weights, "dinov2-vit-b-14")
