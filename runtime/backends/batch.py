"""How many tiles a stream is given at once."""

from ecea.runtime.backends import nvidia
from ecea.runtime.bundle import EngineRecord
from ecea.runtime.errors import RequestError

# More than any device holds of the smallest network's tiles.
MOST = 1024

# On CUDA, at most: a GPU is busy by then, and the rows of a scene wait for a batch to be full. A guess, not measured.
_MOST_BY_DEFAULT = 8

# What a tile of 256 px takes beside the weights: no more than PyTorch does, eager, on a CPU (1138 MB, 503 of them
# weights). Not measured on a GPU, so only half of what is free is counted on.
_TILE_BYTES = 640 << 20
_TILE_SIZE = 256
_SHARE = 0.5


def check_batch(batch: int) -> None:
    """See that a number of tiles can be a batch.

    Raises:
        RequestError: where it is below 1 or above 1024.
    """
    if not 1 <= batch <= MOST:
        raise RequestError(f"a batch of {batch} tiles is impossible: expected 1 to {MOST}")


def default_batch(backend: str, record: EngineRecord, tile_size: int, streams: int) -> int:
    """Tiles that a stream is given at once unless told otherwise.

    A processor computes tiles one by one as fast as several at once. A GPU does not: TensorRT gets as many as its
    largest plan is for, CUDA as many as fit into its memory, up to 8.

    Args:
        backend: what runs the engine, which is loaded.
        record: the engine in the form that this backend runs.
        tile_size: side of a tile in pixels.
        streams: batches under way at once.
    """
    if backend == "tensorrt" and record.plan is not None:
        return max(record.plan.batches)
    if backend == "cuda":
        ratio = tile_size / _TILE_SIZE
        tile_bytes = _TILE_BYTES * max(ratio**2, ratio**4)  # attention's weights grow with the fourth power
        fitting = int((nvidia.free_bytes() or 0) * _SHARE / streams / tile_bytes)
        return min(max(fitting, 1), _MOST_BY_DEFAULT)
    return 1
