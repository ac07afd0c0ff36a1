"""The one driver of an analysis: a request is resolved once, then run by stages that emit typed events.

The library, the command and the Prefect flows are listeners of the same stages; a `Runner` says how a piece of work is
called (plainly, or as a Prefect task).
"""
