"""Several equal adaptive filters with guards that run in parallel, each on its own signals.

Shapes: N filters, R references of each, s samples of a block.
"""

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from sop.cancellation.wav import Samples
from sop.denoise.adaptive import FilterError, Signal
from sop.denoise.guard import GuardedFilter, Kept, most_kept
from sop.denoise.settings import FilterSettings
from sop.runtime.errors import UserError


class FilterBank:
    """Adaptive filters with the same settings that share the processor's cores.

    Args:
        settings: the settings of all filters.
        references: number of references of each filter, (N,).
        sample_rate: Hz.
        levels: mean power of each reference of every filter, (R,); None estimates it from the
            samples so far.

    Raises:
        UserError: a filter is impossible.
    """

    def __init__(
        self,
        settings: FilterSettings,
        references: Sequence[int],
        sample_rate: float,
        levels: Sequence[float] | None = None,
    ) -> None:
        self._method = settings.method
        try:
            self._filters = [
                GuardedFilter(settings.make(count, levels), sample_rate) for count in references
            ]
        except FilterError as error:
            raise UserError(f"{self._method}: {error}") from None

    @property
    def kept(self) -> Kept:
        """How much of the targets was kept so far, in the filter that kept most."""
        return most_kept(one.kept for one in self._filters)

    def clean(self, targets: Iterable[Samples], references: Iterable[Samples]) -> Samples:
        """Filter the next block, and return the next results, which are delayed.

        The results do not depend on the division into blocks.

        Args:
            targets: one for each filter, (N, s).
            references: one set for each filter, (N, R, s).

        Returns:
            (N, samples of the results).

        Raises:
            UserError: a filter would diverge.
        """
        return self._parallel(GuardedFilter.clean, targets, references)

    def finish(self) -> Samples:
        """Return the results that are left, (N, samples).

        Raises:
            UserError: a filter would diverge.
        """
        return self._parallel(GuardedFilter.finish)

    def _parallel(self, method: Callable[..., Signal], *signals: Iterable[Samples]) -> Samples:
        """Call a method of all filters."""
        # Threads run in parallel, because the compiled filters release Python's lock.
        try:
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                results = list(pool.map(method, self._filters, *signals))
        except FilterError as error:
            raise UserError(f"{self._method}: {error}") from None
        return np.array(results, np.float32)
