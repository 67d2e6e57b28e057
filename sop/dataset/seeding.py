"""Random numbers that depend on nothing but the seed, the purpose and the index."""

import zlib

import numpy as np


def generator(seed: int, purpose: str, *index: int | str) -> np.random.Generator:
    """A generator of its own for one purpose and one item.

    Results then do not depend on the number of workers, on their order or on a restart.

    Args:
        seed: `seed` of params.yaml.
        purpose: what the numbers are for, such as "mixture".
        index: which item, such as (epoch, position) or a video's name.
    """
    return np.random.default_rng([seed, *(_word(part) for part in (purpose, *index))])


def torch_seed(seed: int, purpose: str, *index: int | str) -> int:
    """The same for a `torch.Generator`: a seed in [0, 2^63)."""
    return int(generator(seed, purpose, *index).integers(2**63))


def _word(part: int | str) -> int:
    return part if isinstance(part, int) else zlib.crc32(part.encode())
