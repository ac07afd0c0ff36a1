"""What is measured: statistics and analyzers, pure numerics on tensors.

`analyzers.contract` is the page that a plugin author reads; `analyzers.registry` finds analyzers by name. Importing
this package loads neither, so that a command line that needs no numbers starts at once (torch alone costs 2 s).
"""
