"""How samples lie among real ones in a feature space: which are near which.

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

NEAREST = 3
"""Neighbour whose distance is a ball's radius for precision and recall."""
WITHIN = 5
"""… for density and coverage."""
ALIKE = 0.01
"""Quantile of real samples' nearest distances, below which samples count as near duplicates."""

Features = NDArray[np.floating]
Mask = NDArray[np.bool_]


def neighbour_estimates(real: Features, drawn: Features) -> dict[str, Estimate]:
    """Return precision, recall, density, coverage, near duplicates of (M, D) and (N, D) features.

    The intervals are of draws of N other samples, the real ones held fixed. Every
    distance is kept, so memory grows with (M + N) squared.
    """
    spread = _Spread.of(real, drawn)
    figures: dict[str, Callable[[Mask], float]] = {
        "precision": spread.precision,
        "recall": spread.recall,
        "density": spread.density,
        "coverage": spread.coverage,
        "near_duplicates": spread.near_duplicates,
    }
    return {
        name: jackknife(figure, len(drawn), most=np.inf if name == "density" else 1.0)
        for name, figure in figures.items()
    }


def nearest_distances(rows: Features, others: Features) -> Tensor:
    """Return the distance (N,) of each row from the nearest of the others."""
    here, there = (torch.from_numpy(np.asarray(each, np.float32)) for each in (rows, others))
    return torch.cdist(here, there).min(dim=1).values


@dataclass(frozen=True)
class _Spread:
    """Distances among samples, and from real ones to them."""

    between: Tensor
    """(M, N)"""
    among: Tensor
    """(N, N), infinite from a sample to itself."""
    radii: dict[int, Tensor]
    """(M, 1) distances of each real sample to real neighbours, itself not counted."""
    alike: float

    @classmethod
    def of(cls, real: Features, drawn: Features) -> "_Spread":
        here, there = (torch.from_numpy(np.asarray(rows, np.float32)) for rows in (real, drawn))
        among = torch.cdist(there, there).fill_diagonal_(torch.inf)
        ranked = torch.cdist(here, here).fill_diagonal_(torch.inf)
        ranked = ranked.topk(min(WITHIN, len(here) - 1), largest=False).values
        radii = {
            rank: ranked[:, min(rank, ranked.shape[1]) - 1, None] for rank in (1, NEAREST, WITHIN)
        }
        alike = float(radii[1].quantile(ALIKE))
        return cls(torch.cdist(here, there), among, radii, alike)

    def _kept(self, kept: Mask) -> tuple[Tensor, Tensor]:
        rows = torch.from_numpy(kept)
        return self.between[:, rows], self.among[rows][:, rows]

    def precision(self, kept: Mask) -> float:
        between, _ = self._kept(kept)
        return float((between <= self.radii[NEAREST]).any(dim=0).float().mean())

    def recall(self, kept: Mask) -> float:
        between, among = self._kept(kept)
        rank = min(NEAREST, len(among) - 1)
        if rank < 1:
            return 0.0
        radii = among.kthvalue(rank, dim=1).values
        return float((between <= radii).any(dim=1).float().mean())

    def density(self, kept: Mask) -> float:
        between, _ = self._kept(kept)
        return float((between <= self.radii[WITHIN]).sum(dim=0).float().mean()) / WITHIN

    def coverage(self, kept: Mask) -> float:
        between, _ = self._kept(kept)
        return float((between <= self.radii[WITHIN]).any(dim=1).float().mean())

    def near_duplicates(self, kept: Mask) -> float:
        _, among = self._kept(kept)
        return float((among.min(dim=1).values < self.alike).float().mean())
