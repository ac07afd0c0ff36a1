"""A rate with its Monte-Carlo error, and a table of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from scipy.stats import beta


@dataclass(frozen=True)
class Row:
    """`hits` of `trials` at a place; `nominal` is the rate that is claimed, NaN where none is."""

    what: str
    place: str
    nominal: float
    hits: int
    trials: int

    def interval(self) -> tuple[float, float]:
        """95 %, Clopper-Pearson."""
        low = beta.ppf(0.025, self.hits, self.trials - self.hits + 1) if self.hits else 0.0
        high = beta.ppf(0.975, self.hits + 1, self.trials - self.hits) if self.hits < self.trials else 1.0
        return float(low), float(high)


def table(rows: Sequence[Row]) -> str:
    """Markdown."""
    lines = ["| what | where | claimed | measured | 95 % of it | of |", "|---|---|---|---|---|---|"]
    for row in rows:
        low, high = row.interval()
        claimed = "" if row.nominal != row.nominal else f"{row.nominal:.3g}"
        rate = row.hits / row.trials
        lines.append(f"| {row.what} | {row.place} | {claimed} | {rate:.4f} | {low:.4f} to {high:.4f} | {row.trials} |")
    return "\n".join(lines)
