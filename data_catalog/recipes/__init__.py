"""Recipes that train small real archives: `recipe(out, say, **arguments)` writes runs of checkpoints below `out`."""
