"""What changes the weights: initial values, precision, optimizers, learning rates, the arithmetic of a step."""
