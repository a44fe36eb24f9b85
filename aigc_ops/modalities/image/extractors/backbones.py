"""Custom extractors: weights of a torchvision network, or an exported program."""

import difflib
import io
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.export.passes import move_to_device_pass
from torch.nn import functional

from aigc_ops.core.errors import EvaluationError
from aigc_ops.interfaces.evaluation import EvaluationSettings
from aigc_ops.modalities.image.config import BackboneConfig, ImageEvaluationConfig
from aigc_ops.modalities.image.extractors.base import (
    PACKAGES,
    Extractor,
    ExtractorIdentity,
    batch_size_on,
    default_to_fp32,
)
from aigc_ops.statistics.weights import plain_tensors, read_file

Network = Callable[[Tensor], Tensor]


def load_backbone(
    config: ImageEvaluationConfig, settings: EvaluationSettings, device: torch.device
) -> Extractor:
    """Return the configured backbone; raises EvaluationError if its file is not trusted."""
    # 1. Load. A state_dict is read as plain tensors. An exported program can run code when it
    #    is loaded, so it is opened only if its SHA-256 is the one in the config.
    backbone = config.backbone
    digest, content = _content(backbone)
    if str(backbone.weights).endswith(".pt2"):
        name, network = "pt2", _exported(backbone, content, device)
    else:
        name, network = _checked_architecture(backbone), _torchvision(backbone, content, device)
    # 2. Preprocess: the config gives mean and std for [0, 1], the pixels are in [0, 255].
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in (backbone.mean, backbone.std))
    mean, std = (255 * each.to(device) for each in (mean, std))
    size = (backbone.input_size, backbone.input_size)

    def features(images: Tensor) -> Tensor:
        with torch.autocast(device.type, enabled=False):
            pixels = functional.interpolate(
                images.float(), size=size, mode=backbone.resize, antialias=True
            ).clamp(0, 255)  # bicubic overshoots
            inputs = ((pixels - mean) / std).contiguous(memory_format=torch.channels_last)
        return network(inputs)

    # 3. Try the network once, so that a wrong file fails here and not within an evaluation.
    width = _width(backbone, features, device)
    identity = ExtractorIdentity(
        name=name,
        weights=digest,
        width=width,
        input_size=backbone.input_size,
        resize=f"{backbone.resize}-antialiased",
        normalisation=f"(x - {list(backbone.mean)}) / {list(backbone.std)} of x in [0, 1]",
        # The error of bf16 is unknown for an arbitrary network, so it must be requested.
        precision=default_to_fp32(settings),
    )
    return Extractor(
        f"fd_{name}_{digest[:8]}",
        identity,
        device,
        features,
        batch_size_on(device, settings),
        packages=(*PACKAGES, "torchvision"),
    )


def _content(backbone: BackboneConfig) -> tuple[str, bytes]:
    """Return SHA-256 and bytes of the file, checked against the config's SHA-256 if it has one."""
    if not backbone.weights:
        raise EvaluationError(
            "evaluation.image.extractor is backbone, but evaluation.image.backbone.weights is not "
            "set; give a state_dict (.safetensors or .pth) or an exported program (.pt2)"
        )
    digest, content = read_file(backbone.weights, "check evaluation.image.backbone.weights")
    if backbone.sha256 is not None and digest != backbone.sha256.lower():
        raise EvaluationError(
            f"{backbone.weights}: SHA-256 is {digest}, but evaluation.image.backbone.sha256 is "
            f"{backbone.sha256.lower()}; use the file with that SHA-256"
        )
    if str(backbone.weights).endswith(".pt2") and backbone.sha256 is None:
        raise EvaluationError(
            f"{backbone.weights}: an exported program can run code when it is loaded; if you trust "
            f"this file, set evaluation.image.backbone.sha256: {digest}"
        )
    return digest, content


def _checked_architecture(backbone: BackboneConfig) -> str:
    from torchvision import models

    if backbone.architecture is None:
        raise EvaluationError(
            f"{backbone.weights}: holds weights only; name their torchvision network with "
            "evaluation.image.backbone.architecture, such as resnet50"
        )
    known = models.list_models(module=models)
    if backbone.architecture not in known:
        near = difflib.get_close_matches(backbone.architecture, known, n=3)
        raise EvaluationError(
            f"evaluation.image.backbone.architecture: {backbone.architecture!r} is not a "
            "torchvision classifier; "
            f"{'did you mean ' + ', '.join(near) if near else 'use one such as resnet50'}"
        )
    return backbone.architecture


def _torchvision(backbone: BackboneConfig, content: bytes, device: torch.device) -> Network:
    """Return torchvision's network with these weights, without its last linear layer."""
    from torchvision.models import get_model

    assert backbone.architecture is not None
    # The random initial weights are replaced below; the caller's generator must not move.
    with torch.random.fork_rng(devices=[]):
        network = get_model(backbone.architecture, weights=None)
    linear = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise EvaluationError(
            f"evaluation.image.backbone.architecture: {backbone.architecture} has no linear layer, "
            "whose input would be the features; use another network"
        )
    last = linear[-1]
    network.set_submodule(last, nn.Identity())
    state = plain_tensors(str(backbone.weights), content)
    for name in (f"{last}.weight", f"{last}.bias"):  # their shape depends on the classes
        state.pop(name, None)
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise EvaluationError(
            f"{backbone.weights}: not weights of {backbone.architecture} ({reason}); name their "
            "network in evaluation.image.backbone.architecture"
        ) from error
    network.eval().requires_grad_(False)
    placed: Network = network.to(device, memory_format=torch.channels_last)
    return placed


def _exported(backbone: BackboneConfig, content: bytes, device: torch.device) -> Network:
    """Return the module of a trusted exported program on the device."""
    try:
        program = torch.export.load(io.BytesIO(content))
    except Exception as error:  # torch.export.load documents no exception types
        raise EvaluationError(
            f"{backbone.weights}: not a torch.export program that this torch version can read "
            f"({str(error).splitlines()[0]}); export it again with torch.export.save"
        ) from error
    module: Network = move_to_device_pass(program, device).module()
    return module


def _width(
    backbone: BackboneConfig, features: Callable[[Tensor], Tensor], device: torch.device
) -> int:
    """Return the number of features by running two batches."""
    # Two batch sizes, because a program may be exported for one fixed B.
    try:
        with torch.inference_mode():
            for num in (2, 3):
                result = features(torch.zeros(num, 3, 8, 8, dtype=torch.uint8, device=device))
    except (RuntimeError, ValueError, AssertionError, TypeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise EvaluationError(
            f"{backbone.weights}: cannot be run on (B, 3, {backbone.input_size}, "
            f"{backbone.input_size}) inputs ({reason}); export it for any B, or set "
            "evaluation.image.backbone.input_size"
        ) from error
    if not isinstance(result, Tensor) or result.ndim != 2:
        shape = tuple(result.shape) if isinstance(result, Tensor) else type(result).__name__
        raise EvaluationError(
            f"{backbone.weights}: returns {shape} for 3 images; expected features of shape (B, D)"
        )
    return result.shape[1]
