"""Find outlying rows of a table, and the columns that make them outliers. Pure.

Numbers are scored by the tails of their own distribution, ECOD (Li et al., "ECOD: Unsupervised Outlier Detection Using
Empirical Cumulative Distribution Functions", IEEE TKDE 2022), and by their distance from the median in robust
deviations (Iglewicz and Hoaglin, 1993); categories are scored by their rarity.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

Floats = np.ndarray[Any, np.dtype[np.float64]]

ROBUST_Z = 3.5
LARGEST = 1e100
MAD_TO_SIGMA = 1.4826
# A category is an outlier when it is this rare while the usual ones are not.
RARE = 0.005


@dataclass(frozen=True)
class Column:
    """What is normal in one column, and the outlier score of each row in it (0 is usual)."""

    name: str
    score: Floats
    outliers: np.ndarray[Any, np.dtype[np.bool_]]
    expected: str


def numeric(name: str, values: Floats) -> Column | None:
    """Score a column of numbers; NaN is missing and never an outlier. None for a column without spread."""
    known = np.isfinite(values)
    if known.sum() < 3:
        return None
    # Sums and powers of the largest floats would overflow, so the column is rescaled.
    unit = max(1.0, float(np.abs(values[known]).max()) / LARGEST)
    values = values / unit
    some = values[known]
    centre = float(np.median(some))
    spread = float(np.median(np.abs(some - centre))) * MAD_TO_SIGMA
    if spread == 0:
        spread = float(np.abs(some - centre).mean()) * 1.2533
    if spread == 0:
        return None
    z = np.zeros(len(values))
    z[known] = (some - centre) / spread
    tails = np.zeros(len(values))
    order = np.sort(some)
    below = np.searchsorted(order, values[known], side="right") / len(some)
    above = 1 - np.searchsorted(order, values[known], side="left") / len(some)
    skewed_right = _skewness(some) > 0
    tails[known] = -np.log(np.clip(above if skewed_right else below, 1 / (2 * len(some)), 1))
    low, high = (unit * (centre + side * ROBUST_Z * spread) for side in (-1, 1))
    score = np.where(np.abs(z) > ROBUST_Z, np.abs(z) / ROBUST_Z, 0) + 0.1 * tails
    return Column(name, score, np.abs(z) > ROBUST_Z, f"{low:.6g} to {high:.6g} (median {unit * centre:.6g})")


def categorical(name: str, values: list[str | None]) -> Column | None:
    """Score a column of categories. None when nearly every row has its own."""
    rows = len(values)
    counts: dict[str | None, int] = {}
    for value in values:
        counts[value] = counts.get(value, 0) + 1
    if rows < 20 or len(counts) < 2 or len(counts) > max(10, rows // 10):
        return None
    share = np.array([counts[v] / rows for v in values])
    outliers = (share <= RARE) & np.array([v is not None for v in values])
    common = sorted((v for v in counts if v is not None), key=lambda v: -counts[v])[:3]
    return Column(name, np.where(outliers, -np.log10(share), 0.0), outliers, f"usually {', '.join(common)}")


def _skewness(values: Floats) -> float:
    deviation = values - values.mean()
    sigma = values.std()
    return float(((deviation / sigma) ** 3).mean()) if sigma else 0.0
