"""The one exception that a user is meant to see."""


class UserError(Exception):
    """Bad input or a missing file. One line: what is wrong, where, what to do. run.py prints it and exits with 2."""
