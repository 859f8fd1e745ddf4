"""The one error a user's mistake raises: a ValueError whose message is one line and says what to do."""

from __future__ import annotations


class UserError(ValueError):
    """A mistake in what the user gave: a key, a file, an image or annotation id is named in the message.

    The command line prints it as one line. A DataLoader worker wraps the message of what it raises in its
    own traceback; the constructor takes the last line of such a text, so that the message stays one line.
    """

    def __init__(self, message: str = "") -> None:
        lines = [line for line in str(message).splitlines() if line.strip()]
        text = lines[-1] if lines and lines[0].startswith("Caught ") else str(message)
        name = type(self).__name__ + ": "
        super().__init__(text.split(name, 1)[1] if name in text else text)


class DataError(UserError):
    """A data set that cannot be used as it is: names the file and the image, annotation or category id."""


class CheckpointError(UserError):
    """A weights file or checkpoint that cannot be loaded: names the file and the first tensors at fault."""


class RunError(UserError):
    """A folder that is not a run directory, or a file of one that cannot be read: names the folder or file."""


class NewerSchemaError(RunError):
    """A run directory that a newer version of this program has written."""
