"""What the later stages of a run need, checked before its first step of training."""

from typing import Any

from aigc_ops.core.artifacts import DatasetRef
from aigc_ops.core.errors import AigcOpsError
from aigc_ops.core.state_dir import full_disk_message, home
from aigc_ops.data.canaries import require_canaries
from aigc_ops.interfaces.discovery import find_modality
from aigc_ops.models import require_fit
from aigc_ops.pipeline.run_config import RunConfig
from aigc_ops.registry.client import connect, experiment_id
from aigc_ops.serving.bento.build import require_uv

NEEDED_BYTES = 2**29
"""Free disk without which not even a small run can store its checkpoints and its Bento."""


def require_stages(config: RunConfig[Any], dataset: DatasetRef) -> None:
    """Raise the error of the first stage that will lack something.

    Training may take days, and a mistake that only a later stage meets would lose that time. Rows,
    weights of extractors, disk space, MLflow's store and the tools of the build are checked.
    """
    require_fit(config.model.family, dataset.modality, dataset.uri)
    modality = find_modality(dataset.modality)
    modality.evaluation.require(
        dataset, config.evaluation.section(modality.name), config.evaluation
    )
    require_canaries(dataset, config.evaluation.canaries, seed=config.seed)
    if shortage := full_disk_message(home(), NEEDED_BYTES):
        raise AigcOpsError(
            f"{shortage}, and a run needs {NEEDED_BYTES:,}; free space (`aigc-ops cache prune`), "
            "or set AIGC_OPS_HOME to another disk"
        )
    # The experiment is created if it is absent, which shows that the credentials may write.
    experiment_id(connect())
    if config.packaging.enabled:
        require_uv()
