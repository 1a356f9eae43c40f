"""What changes the weights: initial values, precision, optimizers, learning rates, steps. Imports no other room."""
