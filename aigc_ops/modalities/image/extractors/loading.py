"""Choose an extractor by the config."""

import warnings

from aigc_ops.compute.devices import choose_device
from aigc_ops.core.errors import EvaluationError
from aigc_ops.interfaces.evaluation import EvaluationSettings
from aigc_ops.modalities.image.config import ImageEvaluationConfig
from aigc_ops.modalities.image.extractors.base import Extractor


def load_extractor(config: ImageEvaluationConfig, settings: EvaluationSettings) -> Extractor:
    """Return the configured extractor, its weights checked; raises EvaluationError without them."""
    device = choose_device(settings.device)
    _warn_of_ignored(config)
    if config.extractor == "inception-v3":
        from aigc_ops.modalities.image.extractors.inception import load_inception

        return load_inception(config, settings, device)
    if config.extractor == "efficientnet-lite0":
        from aigc_ops.modalities.image.extractors.efficientnet import load_efficientnet

        return load_efficientnet(config, settings, device)
    if config.input_size is not None:
        raise EvaluationError(
            f"evaluation.image.input_size is of efficientnet-lite0, and the extractor is "
            f"{config.extractor}; leave it out"
        )
    if config.extractor == "backbone":
        from aigc_ops.modalities.image.extractors.backbones import load_backbone

        return load_backbone(config, settings, device)
    from aigc_ops.modalities.image.extractors.dinov2 import load_dinov2

    return load_dinov2(config, settings, device)


def _warn_of_ignored(config: ImageEvaluationConfig) -> None:
    """Warn of settings that are another extractor's."""
    for name, of in {
        "inception_weights": "inception-v3",
        "inception_resize": "inception-v3",
        "dinov2_weights": "dinov2",
        "backbone": "backbone",
    }.items():
        is_set = getattr(config, name) != ImageEvaluationConfig.model_fields[name].default
        if is_set and not config.extractor.startswith(of):
            warnings.warn(
                f"evaluation.image.{name} is ignored: the extractor is {config.extractor}",
                stacklevel=3,
            )
