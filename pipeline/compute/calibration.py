"""How fast this machine is: rates of one thread by kind of work, measured once by a probe and kept in a user file.

    rates = current()                # measured here, or the reference machine's
    rates.seconds(statistic.cost(infos))

`varve plan --calibrate` writes the file: ~/.cache/varve/calibration.json, under XDG_CACHE_HOME where that is set.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analyzers import costs
from analyzers.errors import ComputeError

if TYPE_CHECKING:
    from analyzers.contract import Cost

FORMAT = 1
REFERENCE_RATIOS: Mapping[str, float] = {
    "float64": 0.93, "float32": 0.87, "bfloat16": 0.76, "float16": 0.88, "float8_e4m3fn": 0.9, "float8_e5m2": 0.75,
}  # fmt: skip
"""blosc lz4 bitshuffle on weights: field values for trained float32 and bfloat16, Gaussian values for the others."""


@dataclass(frozen=True)
class Handling:
    """What the pipeline takes beside the statistics, in CPU seconds of one thread.

    ingest_bytes: bytes per second, read, hashed, compressed and written. ingest_tensor, ingest_checkpoint: beside it.
    unit: finding, reading and storing one unit of work. group: a message to a worker, and a batch written. start:
    imports. worker: the start of a process. report_unit, report: deriving and drawing.
    """

    ingest_bytes: float = 1.5e8
    ingest_tensor: float = 2e-4
    ingest_checkpoint: float = 1.5e-2
    unit: float = 3e-4
    group: float = 5e-3
    start: float = 4.0
    worker: float = 3.0
    report_unit: float = 4e-4
    report: float = 7.5


@dataclass(frozen=True)
class Calibration:
    """Rates (see `analyzers.costs`), what handling takes, the codec's ratio by dtype (stored / raw), and of what.

    `machine`, `software` and `date` say what was measured; empty for the reference machine's own numbers.
    """

    rates: costs.Rates = field(default_factory=lambda: costs.REFERENCE)
    handling: Handling = field(default_factory=Handling)
    ratios: Mapping[str, float] = field(default_factory=lambda: dict(REFERENCE_RATIOS))
    machine: Mapping[str, Any] = field(default_factory=dict)
    software: Mapping[str, str] = field(default_factory=dict)
    date: str = ""

    @property
    def measured(self) -> bool:
        """Whether this was measured, and is not the reference machine's."""
        return bool(self.date)

    def seconds(self, cost: Cost) -> float:
        """CPU seconds of one thread. A cost that does not say what its seconds are made of is scaled as a whole."""
        if cost.work:
            return costs.seconds(cost.work, self.rates)
        return cost.seconds * costs.rate(costs.REFERENCE, "svd", 512) / costs.rate(self.rates, "svd", 512)

    def ratio(self, dtype: str) -> float:
        """Stored bytes per byte of a tensor of this dtype."""
        return self.ratios.get(dtype, 1.0)

    def to_json(self) -> dict[str, Any]:
        """Plain data, the inverse of `from_json`."""
        return {
            "format": FORMAT,
            "date": self.date,
            "machine": dict(self.machine),
            "software": dict(self.software),
            "rates": {kind: {str(side): r for side, r in by.items()} for kind, by in self.rates.items()},
            "handling": asdict(self.handling),
            "ratios": dict(self.ratios),
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Calibration:
        """The calibration that `to_json` wrote. Raises KeyError, TypeError or ValueError for anything else."""
        if data["format"] != FORMAT:
            raise ValueError(f"its format is {data['format']!r}, but this varve reads {FORMAT}")
        rates = {k: {int(side): _positive(r) for side, r in by.items()} for k, by in data["rates"].items()}
        if missing := set(costs.REFERENCE) - set(rates):
            raise ValueError(f"it has no rates of {', '.join(sorted(missing))}")
        return Calibration(
            rates,
            Handling(**{name: _positive(value) for name, value in data["handling"].items()}),
            {str(dtype): _positive(ratio) for dtype, ratio in data["ratios"].items()},
            dict(data["machine"]),
            dict(data["software"]),
            str(data["date"]),
        )


def _positive(value: Any) -> float:
    number = float(value)
    if not 0 < number < float("inf"):
        raise ValueError(f"a rate must be positive and finite, got {value!r}")
    return number


def calibration_path() -> Path:
    """Where the calibration of this user and machine is kept."""
    base = os.environ.get("XDG_CACHE_HOME") or ""
    folder = Path(base) if Path(base).is_absolute() else Path("~/.cache").expanduser()
    return folder / "varve" / "calibration.json"


def current() -> Calibration:
    """What was measured here; else the reference machine's. Raises `ComputeError` for a file that is damaged."""
    path = calibration_path()
    try:
        stamp = path.stat().st_mtime_ns
    except OSError:
        return reference()
    return _load(path, stamp)


@functools.lru_cache(maxsize=1)
def reference() -> Calibration:
    """The reference machine's."""
    return Calibration()


@functools.lru_cache(maxsize=4)
def _load(path: Path, stamp: int) -> Calibration:
    try:
        return Calibration.from_json(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ComputeError(
            f"{path} is not a calibration ({type(error).__name__}: {error}); delete it, or replace it with "
            "`varve plan --calibrate`"
        ) from error


def save(calibration: Calibration) -> Path:
    """Keeps it for this user; whole or not at all."""
    path = calibration_path()
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(f".{os.getpid()}.tmp")
    draft.write_text(json.dumps(calibration.to_json(), indent=2) + "\n", encoding="utf-8")
    draft.replace(path)
    return path
