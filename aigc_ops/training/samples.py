"""The samples of a run, of the same seeds at every step, to be looked at in order."""

from PIL import Image

from aigc_ops import sampling
from aigc_ops.generative import Data, Generative, ImageModel, TextData
from aigc_ops.tracking import Tracker
from aigc_ops.training.folder import RunFolder
from aigc_ops.training.state import TrainingState

NUM_GRID_SAMPLES = 100
NUM_TEXTS = 8


def show_samples(state: TrainingState, folder: RunFolder, tracker: Tracker, data: Data) -> None:
    """Draw a grid or texts with the sampling weights; keep and report them."""
    with state.sampling():
        if isinstance(state.model, ImageModel):
            grid = draw_grid(state.model)
            tracker.log_image("samples", grid, step=state.step)
            folder.keep_grid(grid, state.step)
        else:
            texts = _texts(state.model, data)
            tracker.log_text(texts, f"samples/step-{state.step:08d}.txt")
            folder.keep_texts(texts, state.step)


def draw_grid(model: ImageModel) -> Image.Image:
    """One picture of the fixed samples, classes side by side."""
    return sampling.grid(sampling.draw(model, sampling.requests(model, NUM_GRID_SAMPLES, seed=0)))


def _texts(model: Generative, data: Data) -> str:
    prompts = data.prompts if isinstance(data, TextData) else None
    taken = sampling.servable(model, prompts or (), NUM_TEXTS)
    asked = sampling.requests(model, NUM_TEXTS, seed=0, prompt=taken or None)
    texts = sampling.draw(model, asked)
    pairs = zip(asked, texts, strict=True)
    return "".join(f"{asked.prompt or ''} => {text}\n" for asked, text in pairs)
