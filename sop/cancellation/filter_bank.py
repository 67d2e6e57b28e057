"""Several equal adaptive filters that run in parallel, each on its own signals.

Shapes: N filters, R references of each, s samples of a block.
"""

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from sop.cancellation.wav import Samples
from sop.denoise.adaptive import AdaptiveFilter, FilterError
from sop.denoise.settings import FilterSettings
from sop.runtime.errors import UserError


class FilterBank:
    """Adaptive filters with the same settings that share the processor's cores.

    Args:
        settings: the settings of all filters.
        references: number of references of each filter, (N,).

    Raises:
        UserError: a filter is impossible.
    """

    def __init__(self, settings: FilterSettings, references: Sequence[int]) -> None:
        self._method = settings.method
        try:
            self._filters = [settings.make(count) for count in references]
        except FilterError as error:
            raise UserError(f"{self._method}: {error}") from None

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
        # Threads run in parallel, because the compiled filters release Python's lock.
        try:
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                clean = list(pool.map(AdaptiveFilter.clean, self._filters, targets, references))
        except FilterError as error:
            raise UserError(
                f"{self._method}: {error}; or use nlms, which works at any level"
            ) from None
        return np.array(clean, np.float32)
