"""What changes the weights: initial values, precision, optimizers, learning rates, a step's arithmetic. Imports no room."""
