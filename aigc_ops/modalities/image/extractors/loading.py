"""Load the extractor that the config names."""

import warnings

from aigc_ops.compute.devices import choose_device
from aigc_ops.core.errors import EvaluationError
from aigc_ops.interfaces.evaluation import EvaluationSettings
from aigc_ops.modalities.image.config import ImageEvaluationConfig
from aigc_ops.modalities.image.extractors.base import Extractor


def load_extractor(config: ImageEvaluationConfig, settings: EvaluationSettings) -> Extractor:
    """Return the configured extractor with verified weights; raises EvaluationError otherwise."""
    device = choose_device(settings.device)
    _warn_of_ignored(config)
    # Each branch imports its own module, because their libraries take seconds to import.
    if config.extractor == "inception-v3":
        from aigc_ops.modalities.image.extractors.inception import load_inception

        return load_inception(config, settings, device)
    if config.extractor == "efficientnet-lite0":
        from aigc_ops.modalities.image.extractors.efficientnet import load_efficientnet

        return load_efficientnet(config, settings, device)
    if config.input_size is not None:
        raise EvaluationError(
            f"evaluation.image.input_size applies only to efficientnet-lite0, but the extractor is "
            f"{config.extractor}; remove it"
        )
    if config.extractor == "backbone":
        from aigc_ops.modalities.image.extractors.backbones import load_backbone

        return load_backbone(config, settings, device)
    from aigc_ops.modalities.image.extractors.dinov2 import load_dinov2

    return load_dinov2(config, settings, device)


def _warn_of_ignored(config: ImageEvaluationConfig) -> None:
    """Warn about settings that apply to another extractor."""
    for name, extractor in {
        "inception_weights": "inception-v3",
        "inception_resize": "inception-v3",
        "dinov2_weights": "dinov2",
        "backbone": "backbone",
    }.items():
        is_set = getattr(config, name) != ImageEvaluationConfig.model_fields[name].default
        if is_set and not config.extractor.startswith(extractor):
            warnings.warn(
                f"evaluation.image.{name} is ignored: the extractor is {config.extractor}",
                stacklevel=3,
            )
