"""The one exception for mistakes a user can make."""


class UserError(Exception):
    """Bad input, in one line: what was wrong, where, and what to do. The command line prints it and exits with 1."""
