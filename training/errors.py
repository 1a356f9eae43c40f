"""What a user can put right: reported as one clear line, with exit code 2."""


class InputError(ValueError):
    """Bad input: the message says what is wrong, what was found and what to do. Nothing has been changed."""
