"""Fréchet distance between sets of features, from means and covariances in float64."""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from aigc_ops.core.errors import EvaluationError

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Gaussian:
    """Mean and covariance of features; the covariance is `factor.T @ factor`."""

    mean: Array
    """(D,) float64."""
    factor: Array
    """(R, D) float64, with R at most D or the number of rows."""

    @classmethod
    def of_features(cls, features: NDArray[np.floating]) -> Self:
        """Compute the mean and unbiased covariance of (N, D) features, with N at least 2.

        Raises EvaluationError for fewer rows and for values that are not finite.
        """
        rows = check_features(features)
        mean = rows.mean(axis=0)
        factor = (rows - mean) / np.sqrt(len(rows) - 1)
        if len(factor) > len(mean):
            # R of the QR decomposition has the same R^T R. Forming the covariance instead would
            # square the condition number and lose half of the digits.
            factor = np.asarray(np.linalg.qr(factor, mode="r"))
        return cls(mean, factor)

    @classmethod
    def of_moments(cls, mean: Array, covariance: Array) -> Self:
        """Build from a mean (D,) and a symmetric positive semi-definite covariance (D, D)."""
        # Eigenvalues rather than Cholesky, which fails on a singular covariance; rounding may
        # make some of them slightly negative.
        values, vectors = np.linalg.eigh(covariance)
        return cls(mean, np.sqrt(values.clip(min=0))[:, None] * vectors.T)

    @property
    def width(self) -> int:
        """Number of features D."""
        return len(self.mean)

    @property
    def total_variance(self) -> float:
        """Trace of the covariance."""
        return float(np.square(self.factor).sum())


def check_features(features: NDArray[np.floating]) -> Array:
    """Return (N, D) features as float64; EvaluationError when N < 2 or a value is not finite."""
    if features.ndim != 2 or len(features) < 2:
        raise EvaluationError(
            f"expected features of shape (N, D) with N of at least 2, found {features.shape}; "
            "evaluate at least 2 samples"
        )
    check_finite(features)
    return features.astype(np.float64)


def check_finite(features: NDArray[np.floating], *, first: int = 0) -> None:
    """Raise EvaluationError with the first row that is not finite, counted from `first`."""
    finite = np.isfinite(features).all(axis=1)
    if not finite.all():
        bad = np.flatnonzero(~finite)
        raise EvaluationError(
            f"features of {len(bad)} of {len(features)} samples are not finite, the first at row "
            f"{first + bad[0]}; try --evaluation.precision fp32 (`score`: --mode exact)"
        )


def frechet_distance(a: Gaussian, b: Gaussian) -> float:
    """Return the squared 2-Wasserstein distance of two Gaussians: >= 0, and 0 for equal ones.

    ||m_a - m_b||^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)), with means of shape (D,) and
    covariances S of shape (D, D) given by their factors. Dowson & Landau 1982;
    Heusel et al. 2017, eq. 6. Raises EvaluationError when the widths D differ.
    """
    if a.width != b.width:
        raise EvaluationError(
            f"features are {a.width} and {b.width} wide; compare features of the same extractor"
        )
    # tr((S_a S_b)^(1/2)) is the nuclear norm of F_a F_b^T for S = F^T F. No matrix square root is
    # taken, which scipy's sqrtm makes complex for singular covariances.
    cross = nuclear_norm(a.factor @ b.factor.T)
    return frechet_terms(a.mean - b.mean, a.total_variance, b.total_variance, cross)


def frechet_terms(mean_gap: Array, variance_a: float, variance_b: float, cross: float) -> float:
    """Return the Fréchet distance from its terms, clipped at 0 against rounding."""
    return max(0.0, float(mean_gap @ mean_gap + variance_a + variance_b - 2 * cross))


def nuclear_norm(matrix: Array) -> float:
    """Return the sum of an (M, N) matrix's singular values, each to about 1e-8 of the largest."""
    # Roots of the eigenvalues of the smaller Gram matrix: 4 times as fast as an SVD, and half of
    # float64's digits are enough for a distance.
    rows, columns = matrix.shape
    gram = matrix @ matrix.T if rows <= columns else matrix.T @ matrix
    return float(np.sqrt(np.linalg.eigvalsh(gram).clip(min=0)).sum())
