"""What there is to compute, by reference: the selected part of a store, the matrices and checkpoints that units are made
of, their keys, and the trials of searches. No tensor is read here."""
