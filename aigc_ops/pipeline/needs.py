"""What each stage needs, checked before the first step of training and before any server starts."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from aigc_ops.core.artifacts import DatasetRef
from aigc_ops.core.errors import AigcOpsError
from aigc_ops.core.extras import require_extra
from aigc_ops.core.state_dir import full_disk_message, home
from aigc_ops.data.canaries import require_canaries
from aigc_ops.interfaces.discovery import find_modality
from aigc_ops.models import require_fit
from aigc_ops.pipeline.run_config import RunConfig
from aigc_ops.registry.client import connect, experiment_id, require_writable
from aigc_ops.serving.bento.build import require_uv

NEEDED_BYTES = 2**29
"""Free disk without which not even a small run can store its checkpoints and its Bento."""

Need = Callable[[RunConfig[Any], DatasetRef], None]


def _training(config: RunConfig[Any], dataset: DatasetRef) -> None:
    require_fit(config.model.family, dataset.modality, dataset.uri)
    require_canaries(dataset, config.evaluation.canaries, seed=config.seed)
    if shortage := full_disk_message(home(), NEEDED_BYTES):
        raise AigcOpsError(
            f"{shortage}, and a run needs {NEEDED_BYTES:,}; free space (`aigc-ops cache prune`), "
            "or set AIGC_OPS_HOME to another disk"
        )
    # The experiment is created if it is absent, which shows that the credentials may write.
    experiment_id(connect())


def _evaluation(config: RunConfig[Any], dataset: DatasetRef) -> None:
    modality = find_modality(dataset.modality)
    if modality.extra:
        require_extra(modality.extra, f"evaluations of {modality.unit}")
    section = config.evaluation.section(modality.name)
    modality.evaluation.require(dataset, section, config.evaluation)


def _registration(config: RunConfig[Any], _: DatasetRef) -> None:
    require_writable(connect(), config.name)


def _packaging(config: RunConfig[Any], _: DatasetRef) -> None:
    if config.packaging.enabled:
        require_uv()


NEEDS: Mapping[str, Need] = {
    "train": _training,
    "evaluate": _evaluation,
    "register": _registration,
    "package": _packaging,
}
"""Check of each stage that needs more than the results of earlier ones."""


def require_stages(
    config: RunConfig[Any], dataset: DatasetRef, stages: Iterable[str] = tuple(NEEDS)
) -> None:
    """Raise the error of the first of the stages that will lack something.

    Training may take days, and a mistake that only a later stage meets would lose that time.
    """
    for stage in stages:
        NEEDS[stage](config, dataset)
