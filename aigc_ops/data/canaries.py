"""Canaries of a training run: which are trained on, and the data with them."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from aigc_ops.compute.random import derive_seed
from aigc_ops.core.artifacts import Checkpoint, DatasetRef, json_digest
from aigc_ops.core.atomic_dirs import read_provenance
from aigc_ops.core.errors import ConfigError, EvaluationError
from aigc_ops.interfaces.canaries import Canaries, CanaryHooks, canaries_of, digest_with
from aigc_ops.interfaces.discovery import find_modality
from aigc_ops.statistics.privacy import Flags, ceiling

if TYPE_CHECKING:
    from aigc_ops.interfaces.data import TrainingData

COINS, CONTENT = 1, 2  # random streams that are independent of each other and of training
MOST_OF_ROWS = 0.2
"""Maximum number of canaries per training row; about half of them are trained on."""


@dataclass(frozen=True)
class PlantedCanaries:
    """Canaries with their coins."""

    record: Canaries
    samples: "TrainingData"
    included: Flags
    """(N,) true for canaries that are trained on."""
    hooks: CanaryHooks

    def plant(self, train: "TrainingData") -> "TrainingData":
        """Return the training data with the included canaries after it."""
        import torch

        indices = torch.from_numpy(np.flatnonzero(self.included))
        return self.hooks.join(train, self.samples.take(indices))

    def dataset(self, ref: DatasetRef) -> DatasetRef:
        """Return the record of the data with the included canaries."""
        num = ref.num_train + int(self.included.sum())
        digest = digest_with(ref.content_digest, self.record)
        return ref.model_copy(update={"content_digest": digest, "num_train": num})


def coins(num: int, *, seed: int) -> Flags:
    """Return (num,) independent fair coins; those of fewer canaries are the first of them."""
    # Not exactly half: the bound needs independent coins.
    key = derive_seed(seed, COINS)
    return np.array([derive_seed(key, index) & 1 for index in range(num)], bool)


def make_canaries(
    ref: DatasetRef, train: "TrainingData", num: int, *, seed: int
) -> PlantedCanaries:
    """Return the canaries of this number and seed for a training split without canaries."""
    hooks = _hooks(ref)
    samples = hooks.make(train, num, seed=derive_seed(seed, CONTENT))
    included = coins(num, seed=seed)
    digest = json_digest([hooks.digest(samples), included.tolist()])
    return PlantedCanaries(
        Canaries(num=num, seed=seed, canaries_digest=digest), samples, included, hooks
    )


def find_canaries(ref: DatasetRef, train: "TrainingData", record: Canaries) -> PlantedCanaries:
    """Return the canaries that a run has recorded, made again and checked by their digest."""
    found = make_canaries(ref, train, record.num, seed=record.seed)
    if found.record != record:
        raise EvaluationError(
            f"{ref.uri}: the canaries of this data are not those of the training run; evaluate on "
            "the data and with the versions of aigc-ops and NumPy that the model was trained with"
        )
    return found


def require_canaries(ref: DatasetRef, num: int, *, seed: int) -> None:
    """Raise ConfigError for so few canaries that they prove nothing, or too many for the data."""
    if num == 0:
        return
    _hooks(ref)
    most = int(MOST_OF_ROWS * ref.num_train)
    fewest = _fewest(seed)
    limits = (
        f"give {fewest} to {most}"
        if fewest <= most
        else f"an audit needs {fewest} canaries and {round(fewest / MOST_OF_ROWS)} training rows"
    )
    if ceiling(coins(num, seed=seed)) == 0:
        raise ConfigError(
            f"evaluation.canaries is {num}: even if every canary were recognised, so few could not "
            f"show a leak with 95 % confidence; {limits}"
        )
    if num > most:
        raise ConfigError(
            f"evaluation.canaries is {num}, but {ref.uri} has {ref.num_train} training rows and "
            f"canaries may be at most {MOST_OF_ROWS:.0%} as many; {limits}"
        )


def _fewest(seed: int) -> int:
    """Return the number of canaries from which on a perfect attack proves a leak."""
    num = 1
    while not all(ceiling(coins(num + more, seed=seed)) for more in range(8)):
        num += 1
    return num


def _hooks(ref: DatasetRef) -> CanaryHooks:
    modality = find_modality(ref.modality)
    if modality.canaries is None:
        raise ConfigError(
            f"evaluation.canaries: the modality {modality.name} has no canaries; set it to 0"
        )
    return modality.canaries


def require_clean_start(initial: Checkpoint | None) -> None:
    """Raise ConfigError for first weights that were trained on canaries."""
    # What starts from a diagnosis contains its canaries too, and its own record would not say so.
    if initial and canaries_of(read_provenance(Path(initial.uri))):
        raise ConfigError(
            f"training.init_from: {initial.uri} was trained with canaries, which a run with "
            "evaluation.canaries adds for a diagnosis; start from a model without them"
        )
