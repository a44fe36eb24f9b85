"""Preview samples of a run, with the same seeds at every step."""

from aigc_ops.core.tracking import Tracker
from aigc_ops.interfaces.data import TrainingData
from aigc_ops.interfaces.discovery import find_modality
from aigc_ops.interfaces.media import log_medium
from aigc_ops.training.run_dir import RunFolder
from aigc_ops.training.state import TrainingState


def show_samples(
    state: TrainingState, folder: RunFolder, tracker: Tracker, data: TrainingData
) -> None:
    """Generate the preview samples with the EMA weights, write them and log them."""
    with state.sampling():
        medium = find_modality(state.model.modality).training.preview(state.model, data)
    log_medium(tracker, "samples", medium, step=state.step)
    folder.write_samples(medium, state.step)
