"""Training hooks of image models: online metrics and previews."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aigc_ops.core.artifacts import differences
from aigc_ops.core.errors import ModelError
from aigc_ops.interfaces.data import TrainingData
from aigc_ops.interfaces.media import Media, Picture
from aigc_ops.interfaces.model import Generative
from aigc_ops.interfaces.training import Monitor, TrainingHooks
from aigc_ops.modalities.image.model import ImageModel, Images
from aigc_ops.modalities.image.monitor import SampleMonitor
from aigc_ops.modalities.image.pictures import grid
from aigc_ops.sampling import sampler

NUM_GRID_SAMPLES = 100


class ImageTraining(TrainingHooks):
    """Training hooks: distances in pixels, and a grid of samples."""

    previews_failures = True
    memory_settings = ("data.image.size", "data.image.memory_gb")

    def monitor(self, train: TrainingData) -> Monitor | None:
        assert isinstance(train, Images), type(train)
        return SampleMonitor(train)

    def example_data(self) -> Mapping[str, TrainingData]:
        from aigc_ops.modalities.image.example_data import example_data

        return example_data()

    def preview(self, model: Generative[Any], data: TrainingData | None) -> Media:  # noqa: ARG002
        """Return a grid of samples with fixed seeds; classes are side by side."""
        requests = sampler.requests(model, NUM_GRID_SAMPLES, seed=0)
        return Picture(grid(sampler.generate(model, requests)))

    def check_start(self, model: Generative[Any], data: TrainingData, source: Path) -> None:
        assert isinstance(model, ImageModel), type(model)
        assert isinstance(data, Images), type(data)
        if model.shape != data.shape:
            trained_on, current = (
                shape.model_dump(mode="json") for shape in (model.shape, data.shape)
            )
            raise ModelError(
                f"{source}: was trained on other images: {differences(trained_on, current)}; "
                "start without it, or resize the data to that shape (data.image.size)"
            )
