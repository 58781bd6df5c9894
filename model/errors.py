"""What can be wrong with a checkpoint."""


class CheckpointError(Exception):
    """A file that is not a generator's checkpoint; the message is one sentence for the user."""
