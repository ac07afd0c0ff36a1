"""From what the analyzers ask for to stored results: `plan.plan`, `cluster.open_cluster`, `run.compute`.

Importing this loads nothing: torch and Dask take seconds, and most commands need neither.
"""
