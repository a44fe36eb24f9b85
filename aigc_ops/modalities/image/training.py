"""What is measured and shown while an image model trains."""

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
    """Distances in pixels, and a grid of samples."""

    previews_failures = True
    memory_settings = ("data.image.size", "data.image.memory_gb")

    def monitor(self, train: TrainingData) -> Monitor | None:
        assert isinstance(train, Images), type(train)
        return SampleMonitor(train)

    def preview(self, model: Generative[Any], data: TrainingData | None) -> Media:  # noqa: ARG002
        """Return one picture of the fixed samples, classes side by side."""
        requests = sampler.requests(model, NUM_GRID_SAMPLES, seed=0)
        return Picture(grid(sampler.draw(model, requests)))

    def check_start(self, model: Generative[Any], data: TrainingData, source: Path) -> None:
        assert isinstance(model, ImageModel), type(model)
        assert isinstance(data, Images), type(data)
        if model.shape != data.shape:
            there, here = (shape.model_dump(mode="json") for shape in (model.shape, data.shape))
            raise ModelError(
                f"{source}: was trained for images of another kind: {differences(there, here)}; "
                "start without it, or bring the data to its shape (data.image.size)"
            )
