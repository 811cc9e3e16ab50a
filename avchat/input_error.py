"""The fault of the one who typed: what the command line answers with `error:` and exit code 2."""


class InputError(Exception):
    """What the user gave cannot be used; the message is the one line they read."""
