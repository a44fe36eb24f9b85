"""Nearest-neighbour metrics of generated and real samples in a feature space.

Precision and recall are those of Kynkäänniemi et al. 2019 (eqs. 1 to 3), density and
coverage those of Naeem et al. 2020 (eqs. 3 and 4).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aigc_ops.statistics.intervals import Estimate, jackknife

K_PRECISION_RECALL = 3
"""Number of the neighbour whose distance is a ball's radius, for precision and recall."""
K_DENSITY_COVERAGE = 5
"""Number of the neighbour whose distance is a ball's radius, for density and coverage."""
DUPLICATE_QUANTILE = 0.01
"""Quantile of real samples' nearest distances below which generated ones are near duplicates."""

Features = NDArray[np.floating]
Mask = NDArray[np.bool_]


def neighbour_estimates(real: Features, generated: Features) -> dict[str, Estimate]:
    """Return precision, recall, density, coverage, near duplicates of (M, D) and (N, D) features.

    The intervals cover the choice of the N generated samples, with the real ones held fixed. All
    distances are in memory, so it grows with (M + N) squared.
    """
    spread = _Spread.of(real, generated)
    figures: dict[str, Callable[[Mask], float]] = {
        "precision": spread.precision,
        "recall": spread.recall,
        "density": spread.density,
        "coverage": spread.coverage,
        "near_duplicates": spread.near_duplicates,
    }
    return {
        name: jackknife(figure, len(generated), most=np.inf if name == "density" else 1.0)
        for name, figure in figures.items()
    }


def nearest_distances(rows: Features, others: Features) -> Tensor:
    """Return the distance (N,) of each row to the nearest of the others."""
    first, second = (torch.from_numpy(np.asarray(each, np.float32)) for each in (rows, others))
    return torch.cdist(first, second).min(dim=1).values


@dataclass(frozen=True)
class _Spread:
    """Distances among generated samples, and from real samples to them."""

    between: Tensor
    """(M, N)"""
    among: Tensor
    """(N, N), infinite from a sample to itself."""
    radii: dict[int, Tensor]
    """(M, 1) distances of each real sample to its k-th real neighbour, itself excluded, by k."""
    duplicate_distance: float

    @classmethod
    def of(cls, real: Features, generated: Features) -> "_Spread":
        real_rows = torch.from_numpy(np.asarray(real, np.float32))
        generated_rows = torch.from_numpy(np.asarray(generated, np.float32))
        # An infinite diagonal keeps a sample from being its own neighbour.
        among = torch.cdist(generated_rows, generated_rows).fill_diagonal_(torch.inf)
        ranked = torch.cdist(real_rows, real_rows).fill_diagonal_(torch.inf)
        ranked = ranked.topk(min(K_DENSITY_COVERAGE, len(real_rows) - 1), largest=False).values
        radii = {
            rank: ranked[:, min(rank, ranked.shape[1]) - 1, None]
            for rank in (1, K_PRECISION_RECALL, K_DENSITY_COVERAGE)
        }
        duplicate_distance = float(radii[1].quantile(DUPLICATE_QUANTILE))
        return cls(torch.cdist(real_rows, generated_rows), among, radii, duplicate_distance)

    def _select(self, mask: Mask) -> tuple[Tensor, Tensor]:
        rows = torch.from_numpy(mask)
        return self.between[:, rows], self.among[rows][:, rows]

    # Precision and density ask of generated samples whether they lie in balls around real ones,
    # coverage of real balls whether they hold a generated sample. Recall swaps the roles: its
    # balls are around generated samples, so their radii change with the mask.
    def precision(self, mask: Mask) -> float:
        between, _ = self._select(mask)
        return float((between <= self.radii[K_PRECISION_RECALL]).any(dim=0).float().mean())

    def recall(self, mask: Mask) -> float:
        between, among = self._select(mask)
        rank = min(K_PRECISION_RECALL, len(among) - 1)
        if rank < 1:  # a single sample has no neighbour, so its ball is empty
            return 0.0
        radii = among.kthvalue(rank, dim=1).values
        return float((between <= radii).any(dim=1).float().mean())

    def density(self, mask: Mask) -> float:
        between, _ = self._select(mask)
        balls = (between <= self.radii[K_DENSITY_COVERAGE]).sum(dim=0)
        return float(balls.float().mean()) / K_DENSITY_COVERAGE

    def coverage(self, mask: Mask) -> float:
        between, _ = self._select(mask)
        return float((between <= self.radii[K_DENSITY_COVERAGE]).any(dim=1).float().mean())

    def near_duplicates(self, mask: Mask) -> float:
        _, among = self._select(mask)
        return float((among.min(dim=1).values < self.duplicate_distance).float().mean())
