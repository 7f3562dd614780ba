"""Several tests at once: adjusted p-values, simultaneous intervals, gains over two references."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float
from scipy.special import chdtrc, fdtrc

from concordant.core.errors import MetricError
from concordant.metrics.inference import (
    Band,
    Estimate,
    check_paired,
    critical_value,
    joint_covariance,
    one_sided_p_value,
    wald_p_value,
)

_BLOCK = 2**12  # directions in memory at once
# eigenvalues of a correlation matrix below this, relative to the largest, are zeros
_ROUNDING = 1e-10


def holm(p_values: Float[np.ndarray, " test"]) -> Float[np.ndarray, " test"]:
    """Adjust a family of p-values, however dependent, to control the family-wise error.

    A NaN (a test that could not be made) stays NaN and still counts as a member of the family.
    Source: Holm, Scandinavian Journal of Statistics 6 (1979), 65-70.
    """
    p = _checked_p_values(p_values)
    order = np.argsort(p)  # NaN last
    factors = np.arange(len(p), 0, -1)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * factors), 1.0)
    return adjusted


def benjamini_hochberg(p_values: Float[np.ndarray, " test"]) -> Float[np.ndarray, " test"]:
    """Adjust independent or positively dependent p-values to control the false discovery rate.

    A NaN stays NaN and still counts as a member of the family.
    Source: Benjamini and Hochberg, Journal of the Royal Statistical Society B 57 (1995), 289-300.
    """
    p = _checked_p_values(p_values)
    order = np.argsort(p)[::-1]  # largest first, NaN before all
    scaled = p[order] * (len(p) / np.arange(len(p), 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.where(
        np.isnan(scaled), np.nan, np.minimum(np.fmin.accumulate(scaled), 1.0)
    )
    return adjusted


@dataclass(frozen=True, slots=True)
class MaximumT:
    """The distribution of max |T_j|, T multivariate t (or normal) with the estimates' correlation.

    T is a direction times a radius. Only the direction is drawn: given it, the probability that the
    maximum exceeds a limit is known (radius^2 / rank has an F distribution, radius^2 chi-squared
    under normality), so that tiny probabilities are precise too, and estimates that are all
    multiples of one need no simulation at all.

    Attributes:
        maxima: Per drawn direction the largest |T_j| at radius 1.
        count: Number of estimates that vary; 1 where all are multiples of one.
        rank: Rank of their correlation matrix.
        degrees: Degrees of freedom; None = normal.
    """

    maxima: Float[np.ndarray, " draw"]
    count: int
    rank: int
    degrees: float | None

    def exceedance(self, limit: float) -> float:
        """Return the probability that the maximum exceeds a limit."""
        return float(self._given_direction(limit).mean())

    def quantile(self, level: float) -> float:
        """Return the limit that the maximum does not exceed with this probability."""
        low, high = (
            critical_value(level, self.degrees),
            critical_value(1 - (1 - level) / self.count, self.degrees),
        )
        above, below = self._log_excess(low, level), self._log_excess(high, level)
        if above <= 0 or below >= 0:
            return low if above <= 0 else high
        previous = 0.0
        middle = low
        for _ in range(
            100
            # regula falsi; an end that stays twice has its value halved (Illinois), or it would
            # stay
            # for ever
        ):
            middle = (low * below - high * above) / (below - above)
            now = self._log_excess(middle, level)
            if abs(now) < 1e-10:
                break
            if now > 0:
                low, above, below = middle, now, below / 2 if previous > 0 else below
            else:
                high, below, above = middle, now, above / 2 if previous < 0 else above
            previous = now
        return middle

    def _log_excess(self, limit: float, level: float) -> float:
        return float(np.log(self.exceedance(limit) / (1 - level)))

    def error(self, limit: float) -> float:
        """Return the Monte Carlo standard error of a quantile: the probability's, by the slope."""
        relative = (
            self._given_direction(limit).std() / np.sqrt(self.maxima.size) / self.exceedance(limit)
        )
        return float(limit * relative / self._slope(limit))

    def _slope(self, limit: float) -> float:
        """Return how fast the logarithm of the exceedance falls with the logarithm of the limit."""
        near, far = self.exceedance(limit * 0.9999), self.exceedance(limit * 1.0001)
        return float(np.log(near / far) / np.log(1.0001 / 0.9999))

    def _given_direction(self, limit: float) -> Float[np.ndarray, " draw"]:
        squared = np.square(limit / self.maxima)
        return np.asarray(
            chdtrc(self.rank, squared)
            if self.degrees is None
            else fdtrc(self.rank, self.degrees, squared / self.rank)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Simultaneous:
    """Estimates with intervals that all hold at once and adjusted p-values (single-step max-T).

    Attributes:
        estimate: The estimates.
        standard_error: Their standard errors.
        degrees: Degrees of freedom of the t distribution; None = normal.
        level: The level `critical_value` belongs to.
        critical_value: Half the width of every interval, in standard errors.
        critical_value_error: Its Monte Carlo standard error.
        p_value: Per estimate, two-sided, adjusted: the probability of any |t| as large where all
            true values are 0. An estimate without a standard error could not be tested: 1 where it
            is 0, else NaN; it does not count in the family.
        maximum: The distribution the intervals and p-values are read off.
    """

    estimate: Float[np.ndarray, " contrast"]
    standard_error: Float[np.ndarray, " contrast"]
    degrees: float | None
    level: float
    critical_value: float
    critical_value_error: float
    p_value: Float[np.ndarray, " contrast"]
    maximum: MaximumT = field(repr=False)

    def interval(self, level: float | None = None) -> Band:
        """Return limits that hold all true values at once (None: with the first level)."""
        critical = self.critical_value if level is None else self.maximum.quantile(level)
        half = critical * self.standard_error
        return Band(self.estimate - half, self.estimate + half)


def simultaneous(
    estimates: Float[np.ndarray, " contrast"],
    covariance: Float[np.ndarray, "contrast contrast"],
    *,
    degrees: float | None = None,
    level: float = 0.95,
    seed: int = 0,
    draws: int = 2**16,
) -> Simultaneous:
    """Compute simultaneous intervals and adjusted p-values by the distribution of max |t|.

    It is sharper than Holm where estimates share a reference or a cohort, and it gives intervals.

    Args:
        estimates: The contrasts, jointly about normal.
        covariance: Their covariance matrix; it may be singular (contrasts that determine each
            other).
        degrees: Degrees of freedom, subjects (clusters) - 1; None = normal.
        level: Probability that all intervals hold.
        seed: Seed of the simulated directions; the same seed gives the same result.
        draws: Number of directions. The result says its Monte Carlo error; the default's is .001 to
            .005 for a critical value between 2.2 and 3.3.

    Raises:
        MetricError: Shapes that do not fit, a value that is not finite, a matrix that is not
            symmetric and positive semidefinite, or a level outside (0, 1).

    Source: Hothorn, Bretz and Westfall, Biometrical Journal 50 (2008), 346-363.
    """
    joint = _checked_joint(estimates, covariance)
    values, matrix = joint.estimates, joint.covariance
    if (degrees is not None and not degrees > 0) or draws < 2:
        raise MetricError(
            f"degrees is {degrees}, draws {draws}; expected degrees > 0 (None = normal) and at "
            "least 2 draws"
        )
    errors = np.sqrt(np.diag(matrix))
    maximum = _maximum_t(
        _correlation_root(matrix, errors), degrees, np.random.default_rng(seed), draws
    )
    critical = maximum.quantile(level)
    return Simultaneous(
        estimate=values,
        standard_error=errors,
        degrees=degrees,
        level=level,
        critical_value=critical,
        critical_value_error=maximum.error(critical),
        p_value=_adjusted(values, errors, maximum),
        maximum=maximum,
    )


def simultaneous_differences(
    differences: Sequence[Estimate], *, level: float = 0.95, seed: int = 0, draws: int = 2**16
) -> Simultaneous:
    """Compute simultaneous intervals and p-values of differences on the same subjects.

    Their covariance comes from their influences, clusters as a whole; the degrees of freedom are
    clusters - 1.

    Args:
        differences: The declared family.
        level: Probability that all intervals hold.
        seed: Seed of the simulated directions.
        draws: Number of directions.

    Raises:
        MetricError: No result, results of different subjects or clusters, or too few clusters for a
            standard error.
    """
    check_paired(differences)
    if any(np.isnan(difference.standard_error) for difference in differences):
        raise MetricError(
            "too few clusters to show any variance between them; expected more, three where pairs "
            "are compared"
        )
    return simultaneous(
        np.array([difference.estimate for difference in differences]),
        joint_covariance(differences),
        degrees=differences[0].degrees,
        level=level,
        seed=seed,
        draws=draws,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class GainOverBoth:
    """A test of "better than each of two references" (intersection-union).

    Attributes:
        to_a: Difference to the first reference, turned so that positive is better.
        to_b: Difference to the second.
        p_to_a: One-sided p-value of "no better than the first".
        p_to_b: One-sided p-value of "no better than the second".
        standard_errors: Of the two differences.
        degrees: Degrees of freedom of the t distribution.
    """

    to_a: float
    to_b: float
    p_to_a: float
    p_to_b: float
    standard_errors: tuple[float, float]
    degrees: int

    @property
    def gain(self) -> float:
        """The smaller of the two differences: the gain over the better reference in this sample."""
        return min(self.to_a, self.to_b)

    @property
    def p_value(self) -> float:
        """The larger of the two one-sided p-values, which needs no correction; NaN if one is."""
        return float(np.maximum(self.p_to_a, self.p_to_b))

    def lower_limit(self, level: float = 0.95) -> float:
        """Return a one-sided lower limit of the true gain over the better reference."""
        quantile = critical_value(2 * level - 1, self.degrees)
        return min(
            difference - quantile * error
            for difference, error in zip((self.to_a, self.to_b), self.standard_errors, strict=True)
        )


def gain_over_both(
    difference_to_a: Estimate, difference_to_b: Estimate, *, higher_is_better: bool = True
) -> GainOverBoth:
    """Test whether a model is better than both of two references, whichever is the better.

    Choosing the better reference by the same data and testing against it alone is biased; this is
    not.

    Args:
        difference_to_a: Model minus first reference (fusion minus CT alone, say).
        difference_to_b: Model minus second reference, on the same subjects.
        higher_is_better: False for an error such as the Brier score: the differences are turned
            round.

    Raises:
        MetricError: The two are not of the same subjects and clusters.

    Source: Berger, Technometrics 24 (1982), 295-300.
    """
    check_paired([difference_to_a, difference_to_b])
    sign = 1 if higher_is_better else -1
    to_a, to_b = sign * difference_to_a.estimate, sign * difference_to_b.estimate
    errors, degrees = (
        (difference_to_a.standard_error, difference_to_b.standard_error),
        difference_to_a.degrees,
    )
    return GainOverBoth(
        to_a=to_a,
        to_b=to_b,
        p_to_a=one_sided_p_value(to_a, errors[0], degrees=degrees),
        p_to_b=one_sided_p_value(to_b, errors[1], degrees=degrees),
        standard_errors=errors,
        degrees=degrees,
    )


def _checked_p_values(p_values: Float[np.ndarray, " test"]) -> Float[np.ndarray, " test"]:
    p = np.asarray(p_values, dtype=np.float64)
    if p.ndim != 1 or bool(((p < 0) | (p > 1)).any()):
        raise MetricError(
            "p-values must be a vector of numbers between 0 and 1 (NaN = could not be tested)"
        )
    return p


@dataclass(frozen=True, slots=True)
class _Joint:
    estimates: Float[np.ndarray, " contrast"]
    covariance: Float[np.ndarray, "contrast contrast"]


def _checked_joint(
    estimates: Float[np.ndarray, " contrast"], covariance: Float[np.ndarray, "contrast contrast"]
) -> _Joint:
    values, matrix = (
        np.asarray(estimates, dtype=np.float64),
        np.asarray(covariance, dtype=np.float64),
    )
    if values.ndim != 1 or values.size == 0 or matrix.shape != (values.size, values.size):
        raise MetricError(
            f"{values.shape} estimates and a {matrix.shape} covariance; expected (k,), k > 0, and "
            "(k, k)"
        )
    if not (np.isfinite(values).all() and np.isfinite(matrix).all()):
        raise MetricError(
            "estimates and covariance must be finite; leave out what could not be computed"
        )
    tolerance = _ROUNDING * np.abs(matrix).max()
    if (
        np.abs(matrix - matrix.T).max() > tolerance
        or np.linalg.eigvalsh(matrix).min() < -tolerance * values.size
    ):
        raise MetricError(
            "covariance is not symmetric and positive semidefinite; expected a covariance matrix"
        )
    return _Joint(values, matrix)


def _correlation_root(
    covariance: Float[np.ndarray, "contrast contrast"], errors: Float[np.ndarray, " contrast"]
) -> Float[np.ndarray, "contrast rank"]:
    """Return A of full column rank, A A' = correlation matrix of the contrasts that vary."""
    varying = errors > 0
    correlation = covariance[np.ix_(varying, varying)] / np.outer(errors[varying], errors[varying])
    eigenvalues, vectors = np.linalg.eigh(correlation)
    kept = eigenvalues > _ROUNDING * eigenvalues.max(initial=0)
    return np.asarray(vectors[:, kept] * np.sqrt(eigenvalues[kept]))


def _maximum_t(
    root: Float[np.ndarray, "contrast rank"],
    degrees: float | None,
    generator: np.random.Generator,
    draws: int,
) -> MaximumT:
    count, rank = root.shape
    if rank <= 1:  # |T_j| is the same for all: one test (or none, where no contrast varies)
        return MaximumT(np.ones(1), 1, 1, degrees)
    maxima = [
        _drawn_maxima(root, generator, min(_BLOCK, draws - start))
        for start in range(0, draws, _BLOCK)
    ]
    return MaximumT(np.concatenate(maxima), count, rank, degrees)


def _drawn_maxima(
    root: Float[np.ndarray, "contrast rank"], generator: np.random.Generator, count: int
) -> Float[np.ndarray, " draw"]:
    direction = generator.standard_normal((count, root.shape[1]))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    return np.asarray(np.abs(direction @ root.T).max(axis=1))


def _adjusted(
    estimates: Float[np.ndarray, " contrast"],
    errors: Float[np.ndarray, " contrast"],
    maximum: MaximumT,
) -> Float[np.ndarray, " contrast"]:
    """Return single-step p-values, kept between the single one and Bonferroni's."""
    single = np.array(
        [
            wald_p_value(*pair, degrees=maximum.degrees)
            for pair in zip(estimates, errors, strict=True)
        ]
    )
    adjusted = single.copy()
    for contrast in np.flatnonzero(errors > 0):
        joint = maximum.exceedance(abs(estimates[contrast] / errors[contrast]))
        adjusted[contrast] = np.clip(
            joint, single[contrast], min(1.0, maximum.count * single[contrast])
        )
    return adjusted
