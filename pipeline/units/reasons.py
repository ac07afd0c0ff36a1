"""Why a unit has no value because an input of it has none: how that is written down, and told apart from the cause."""

from __future__ import annotations

import re

_OF_INPUT = re.compile(r"(?:of the reference: )?needs [\w.-]+: ")


def of_input(name: str, reason: str) -> str:
    """The reason of a unit whose input, a result of the statistic `name`, has this reason for having no value."""
    return f"needs {name}: {reason}"


def cause(reason: str) -> tuple[str, bool]:
    """The reason that a reason of inputs comes from, through any number of them, and whether there was such a chain."""
    own = reason
    while (match := _OF_INPUT.match(own)) is not None:
        own = own[match.end() :]
    return own, own != reason


LISTED = "listed"
"""The code of what is missing because of a file, tensor or base that is listed as a problem itself: it is counted, and
not reported again."""

UNMATCHED = "unmatched"
"""The code of a matrix without a counterpart in its reference, where most others have theirs: one note for all."""
