"""Modes followed over the steps of a run by the overlap of their singular vectors."""
