"""A module of a user that raises while it is imported."""

raise ZeroDivisionError("at import")
