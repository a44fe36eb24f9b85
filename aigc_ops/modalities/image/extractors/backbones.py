"""Extractors from a file of your own: weights of a torchvision network, or an exported program."""

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
    """Return the configured backbone; raises EvaluationError when it cannot be trusted.

    A state_dict is read as plain tensors. An exported program can run code when it is loaded, so
    it is opened only when its SHA-256 is the one that the config states.
    """
    backbone = config.backbone
    digest, content = _content(backbone)
    if str(backbone.weights).endswith(".pt2"):
        name, network = "pt2", _exported(backbone, content, device)
    else:
        name, network = _checked_architecture(backbone), _torchvision(backbone, content, device)
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in (backbone.mean, backbone.std))
    mean, std = (255 * each.to(device) for each in (mean, std))
    size = (backbone.input_size, backbone.input_size)

    def features(images: Tensor) -> Tensor:
        with torch.autocast(device.type, enabled=False):
            pixels = functional.interpolate(
                images.float(), size=size, mode=backbone.resize, antialias=True
            ).clamp(0, 255)
            inputs = ((pixels - mean) / std).contiguous(memory_format=torch.channels_last)
        return network(inputs)

    width = _width(backbone, features, device)
    identity = ExtractorIdentity(
        name=name,
        weights=digest,
        width=width,
        input_size=backbone.input_size,
        resize=f"{backbone.resize}-antialiased",
        normalisation=f"(x - {list(backbone.mean)}) / {list(backbone.std)} of x in [0, 1]",
        # What bf16 does to a network that nobody has measured is not known.
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
    """SHA-256 and bytes of the file, which are the ones asked for where the config says so."""
    if not backbone.weights:
        raise EvaluationError(
            "evaluation.image.extractor is backbone, but evaluation.image.backbone.weights names "
            "no file; give a state_dict (.safetensors or .pth) or an exported program (.pt2)"
        )
    digest, content = read_file(backbone.weights, "check evaluation.image.backbone.weights")
    if backbone.sha256 is not None and digest != backbone.sha256.lower():
        raise EvaluationError(
            f"{backbone.weights}: SHA-256 is {digest}, and evaluation.image.backbone.sha256 is "
            f"{backbone.sha256.lower()}; give the file that was meant"
        )
    if str(backbone.weights).endswith(".pt2") and backbone.sha256 is None:
        raise EvaluationError(
            f"{backbone.weights}: an exported program can run code when it is loaded; if you trust "
            f"this file, say so with evaluation.image.backbone.sha256: {digest}"
        )
    return digest, content


def _checked_architecture(backbone: BackboneConfig) -> str:
    from torchvision import models

    if backbone.architecture is None:
        raise EvaluationError(
            f"{backbone.weights}: holds weights alone; name torchvision's network that they belong "
            "to with evaluation.image.backbone.architecture, such as resnet50"
        )
    known = models.list_models(module=models)
    if backbone.architecture not in known:
        near = difflib.get_close_matches(backbone.architecture, known, n=3)
        raise EvaluationError(
            f"evaluation.image.backbone.architecture: {backbone.architecture!r} is no classifier "
            f"of torchvision's; {'did you mean ' + ', '.join(near) if near else 'such as resnet50'}"
        )
    return backbone.architecture


def _torchvision(backbone: BackboneConfig, content: bytes, device: torch.device) -> Network:
    """Torchvision's network with these weights, up to what its last linear layer sees."""
    from torchvision.models import get_model

    assert backbone.architecture is not None
    with torch.random.fork_rng(devices=[]):
        network = get_model(backbone.architecture, weights=None)
    linear = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise EvaluationError(
            f"evaluation.image.backbone.architecture: {backbone.architecture} ends in no linear "
            "layer, whose input would be the features; take another network"
        )
    last = linear[-1]
    network.set_submodule(last, nn.Identity())
    state = plain_tensors(str(backbone.weights), content)
    for name in (f"{last}.weight", f"{last}.bias"):  # of as many classes as it was trained on
        state.pop(name, None)
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise EvaluationError(
            f"{backbone.weights}: not weights of {backbone.architecture} ({reason}); name the "
            "network that they belong to"
        ) from error
    network.eval().requires_grad_(False)
    placed: Network = network.to(device, memory_format=torch.channels_last)
    return placed


def _exported(backbone: BackboneConfig, content: bytes, device: torch.device) -> Network:
    """The module of a trusted exported program."""
    try:
        program = torch.export.load(io.BytesIO(content))
    except Exception as error:  # whatever torch's reader finds wrong with it
        raise EvaluationError(
            f"{backbone.weights}: not a program of this torch ({str(error).splitlines()[0]}); "
            "export it anew with torch.export.save"
        ) from error
    module: Network = move_to_device_pass(program, device).module()
    return module


def _width(
    backbone: BackboneConfig, features: Callable[[Tensor], Tensor], device: torch.device
) -> int:
    """Number of features, found by trying two batches."""
    try:
        with torch.inference_mode():
            for num in (2, 3):
                found = features(torch.zeros(num, 3, 8, 8, dtype=torch.uint8, device=device))
    except (RuntimeError, ValueError, AssertionError, TypeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise EvaluationError(
            f"{backbone.weights}: cannot be run on (B, 3, {backbone.input_size}, "
            f"{backbone.input_size}) inputs ({reason}); export it for any B, or set "
            "evaluation.image.backbone.input_size"
        ) from error
    if not isinstance(found, Tensor) or found.ndim != 2:
        shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise EvaluationError(
            f"{backbone.weights}: gives {shape} for 3 images; features of shape (B, D) are needed"
        )
    return found.shape[1]
