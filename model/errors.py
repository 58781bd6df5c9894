"""What can be wrong with a checkpoint."""


class CheckpointError(Exception):
    """A file that is not the checkpoint of the network that was expected; the message is one sentence for the user."""
