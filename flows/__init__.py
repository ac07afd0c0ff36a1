"""When it happens: the Prefect flows around `pipeline`, and the command `varve` in `flows.cli`.

Importing this package costs nothing; the modules that hold flows (ingest, analyze, report, nightly) import Prefect.
"""
