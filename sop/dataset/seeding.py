"""Random numbers that depend only on the seed, the purpose and the index."""

import zlib

import numpy as np


def generator(seed: int, purpose: str, *index: int | str) -> np.random.Generator:
    """Return a separate generator for one purpose and one item.

    Results then depend neither on the number and order of workers nor on a restart.

    Args:
        seed: of the section of params.yaml that the numbers belong to.
        purpose: use of the numbers, such as "mixture".
        index: the item, such as (epoch, position) or a video's name.
    """
    parts = (purpose, *index)
    words = (part if isinstance(part, int) else zlib.crc32(part.encode()) for part in parts)
    return np.random.default_rng([seed, *words])


def torch_seed(seed: int, purpose: str, *index: int | str) -> int:
    """Return a seed in [0, 2^63) for a `torch.Generator`, for one purpose and one item."""
    return int(generator(seed, purpose, *index).integers(2**63))
