"""What a user can put right: reported as one clear line, with exit code 2."""


class InputError(ValueError):
    """Bad input: the message says what is wrong, what was found and what to do. Nothing has been changed."""


class UnavailableError(InputError):
    """What a recipe names is not here, or cannot be reached. What was made of it earlier may do in its place."""
