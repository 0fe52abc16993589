"""The error that a user can mend."""

from __future__ import annotations


class UserError(Exception):
    """Something the user asked for cannot be done; the message says what to change.

    The command line prints it as one line and exits with status 2, without a traceback.
    """
