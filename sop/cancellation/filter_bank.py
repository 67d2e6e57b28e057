"""Several equal adaptive filters that run in parallel, each on its own signals.

Shapes: N filters, R references of each, s samples of a block.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np

from sop.cancellation.wav import Samples
from sop.denoise.adaptive import AdaptiveFilter, FilterError
from sop.denoise.settings import FilterSettings
from sop.runtime.errors import UserError


class FilterBank:
    """Adaptive filters with the same settings; created by `filter_bank`."""

    def __init__(
        self, settings: FilterSettings, filters: Sequence[AdaptiveFilter], pool: ThreadPoolExecutor
    ) -> None:
        self.settings = settings
        self._filters = filters
        self._pool = pool

    def clean(self, targets: Iterable[Samples], references: Iterable[Samples]) -> Samples:
        """Return the error signals of the next block.

        The result does not depend on the division into blocks.

        Args:
            targets: one for each filter, (N, s).
            references: one set for each filter, (N, R, s).

        Returns:
            (N, s).

        Raises:
            UserError: a filter would diverge.
        """
        try:
            clean = list(self._pool.map(_clean, self._filters, targets, references))
        except FilterError as error:
            raise UserError(
                f"{self.settings.method}: {error}; or use nlms, which works at any level"
            ) from None
        return np.array(clean, np.float32)


@contextmanager
def filter_bank(settings: FilterSettings, references: Sequence[int]) -> Iterator[FilterBank]:
    """Create filters that share the processor's cores until the block ends.

    Args:
        settings: the settings of all filters.
        references: number of references of each filter, (N,).

    Raises:
        UserError: a filter is impossible.
    """
    try:
        filters = [settings.make(count) for count in references]
    except FilterError as error:
        raise UserError(f"{settings.method}: {error}") from None
    # Threads run in parallel, because the compiled filters release Python's lock.
    with ThreadPoolExecutor(max(1, min(len(filters), os.cpu_count() or 1))) as pool:
        yield FilterBank(settings, filters, pool)


def _clean(adaptive: AdaptiveFilter, target: Samples, references: Samples) -> Samples:
    return adaptive.clean(target, references).astype(np.float32)
