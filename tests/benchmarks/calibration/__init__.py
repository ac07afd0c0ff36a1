"""Error rates of what a report says, measured on data whose truth is known. One module per subject.

    python -m tests.benchmarks.calibration                     # all subjects
    python -m tests.benchmarks.calibration --only intruders    # one

A subject is a module of this package with `rows(scale) -> list[Row]`. The tables stand in docs/calibration.md.
"""
