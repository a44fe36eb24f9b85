"""Inception v3 as in FID, with the standard weights or those of a file."""

import torch
from torch import Tensor, nn

from aigc_ops.compute.devices import release_freed_memory
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
    fold_norm,
)
from aigc_ops.modalities.image.extractors.resizing import (
    INCEPTION_INPUT_SIZE,
    RESIZE_NAMES,
    RESIZERS,
)

# torch-fidelity's layers up to the last pooling, in order.
LAYERS = (
    *("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "MaxPool_1", "Conv2d_3b_1x1"),
    *("Conv2d_4a_3x3", "MaxPool_2", "Mixed_5b", "Mixed_5c", "Mixed_5d", "Mixed_6a", "Mixed_6b"),
    *("Mixed_6c", "Mixed_6d", "Mixed_6e", "Mixed_7a", "Mixed_7b", "Mixed_7c"),
)


def load_inception(
    config: ImageEvaluationConfig, settings: EvaluationSettings, device: torch.device
) -> Extractor:
    """Return the Inception v3 of Heusel et al. 2017 in torch-fidelity's port, pooled features."""
    from torch_fidelity.feature_extractor_inceptionv3 import (
        BasicConv2d,
        FeatureExtractorInceptionV3,
    )

    if config.input_size not in (None, INCEPTION_INPUT_SIZE):
        raise EvaluationError(
            f"evaluation.image.input_size is {config.input_size}, but inception-v3 always uses "
            f"{INCEPTION_INPUT_SIZE} pixels; remove it"
        )
    digest, content = weights.inception_weights(config.inception_weights)
    with torch.random.fork_rng(devices=[]):
        try:
            network = FeatureExtractorInceptionV3(
                "inception-v3-compat", ["2048"], feature_extractor_weights_path=content
            )
        except (RuntimeError, KeyError) as error:
            reason = str(error).splitlines()[0]
            raise EvaluationError(
                f"{config.inception_weights}: not weights of torch-fidelity's Inception v3 "
                f"({reason}); give a file in its layout"
            ) from error
    for module in network.modules():
        if isinstance(module, BasicConv2d):
            fold_norm(module, "conv", "bn")
    network.to(device, memory_format=torch.channels_last)
    # The weights are about 100 MB; free them before features take memory.
    del content
    release_freed_memory()
    trunk = nn.Sequential(*(getattr(network, name) for name in LAYERS))
    resized = RESIZERS[config.inception_resize]

    def features(images: Tensor) -> Tensor:
        with torch.autocast(device.type, enabled=False):
            inputs = resized(images).contiguous(memory_format=torch.channels_last)
        maps: Tensor = trunk(inputs)
        # Pool in fp32: means in bf16 would change a distance by 2 to 3 %, like this by 0.5 %.
        return maps.float().mean(dim=(2, 3))

    identity = ExtractorIdentity(
        name=config.extractor,
        weights=digest,
        width=2048,
        input_size=INCEPTION_INPUT_SIZE,
        resize=RESIZE_NAMES[config.inception_resize],
        normalisation="2x / 255 - 1" if config.inception_resize == "legacy" else "(x - 128) / 128",
        # bf16 changes the value that other tools report, so it must be requested.
        precision=default_to_fp32(settings),
    )
    # Only standard weights and resizing give a value that may be compared with published FIDs.
    name = "fid" if digest == weights.INCEPTION_SHA256 else f"fd_inception_v3_{digest[:8]}"
    if config.inception_resize != "tensorflow":
        name = f"{name}_{config.inception_resize}"
    classifier = network.fc.weight.detach().float().cpu()
    return Extractor(
        name,
        identity,
        device,
        features,
        batch_size_on(device, settings),
        classifier,
        packages=(*PACKAGES, "torch-fidelity"),
    )
