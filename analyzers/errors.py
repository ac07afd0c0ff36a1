"""The error hierarchy. Everything varve raises on purpose is a `VarveError` and quotes the actual values.

It stands on the ground floor so that every room can raise and catch the same types.
"""

from __future__ import annotations


class VarveError(Exception):
    """Base of all errors that varve raises on purpose: the message says what, where and the way out."""


class ContractError(VarveError):
    """A statistic or an analyzer breaks the contract of `analyzers.contract`."""


class ParameterError(VarveError):
    """A setting of an analyzer is unknown or out of range; names the nearest right one."""


class Unmeasurable(VarveError):  # noqa: N818 - a finding about the data, not a fault of the program
    """A matrix has no value for this statistic, whatever is tried: NaN entries, no entries, zero rank.

    Raised by `Statistic.compute`. The reason is stored under the unit's key, so that it is found once,
    listed in every report, and not tried again.
    """


class ArchiveError(VarveError):
    """A file of an archive cannot be read: damaged, hostile, half-written or of an unknown format."""


class BaseNotFoundError(ArchiveError):
    """The base that a checkpoint is to be compared with cannot be found; says where it was looked for.

    `why`: what asked for which base, equal for all runs that lack the same one. `looked`: the places searched.
    """

    def __init__(self, message: str, why: str = "", looked: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.why = why
        self.looked = looked


class StoreError(VarveError):
    """A store cannot be opened, written or trusted (version, permission, space, digest)."""


class DamageError(StoreError):
    """A file of a store is missing, or does not have the content that it was written with."""


class ComputeError(VarveError):
    """Work cannot be scheduled or finished: no worker, a lost cluster, an unmet resource."""


class ResourceError(ComputeError):
    """This machine lacks what a unit needs: a package, a version of one, memory, room on disk. Nothing is stored, and
    the next command tries again; trying again at once is no use."""


class ReportError(VarveError):
    """A report cannot be assembled, exported or written."""
