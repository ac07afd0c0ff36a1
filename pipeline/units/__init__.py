"""What there is to compute, by reference: the selected part of a store, the matrices and checkpoints of units, their
keys, and the trials of searches. No tensor is read here."""
