"""What can go wrong, as a user is told it.

A message is one sentence: the file, what was found, what was expected, what to do.
"""


class EceaError(Exception):
    """The work failed."""

    exit_status = 1


class RequestError(EceaError):
    """What was asked for cannot be done: a wrong file, option or combination of both."""

    exit_status = 2


class BackendUnavailable(EceaError):
    """A backend does not load on this machine; the message is the reason alone."""
