"""Settings of the denoising methods, one type for each method, and those that compete."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any, ClassVar, Literal, get_args

from sop.denoise.adaptive import AdaptiveFilter, Lms, Nlms, Rls
from sop.params import DenoiseParams

Method = Literal["lms", "nlms", "rls", "renormalise", "wiener"]
METHODS: tuple[Method, ...] = get_args(Method)

NONE = "none"
"""Stands for no method: the sounds stay as they are."""


@dataclass(frozen=True)
class MethodSettings:
    """Settings of one method; the fields are named as in `metrics/denoise.json`."""

    method: ClassVar[Method]

    @property
    def values(self) -> dict[str, Any]:
        """The settings by name."""
        return asdict(self)

    def __str__(self) -> str:
        """Return the method and its settings, such as `rls, taps 64, forgetting 0.999`."""
        return ", ".join([self.method, *(f"{name} {v:g}" for name, v in self.values.items())])


@dataclass(frozen=True)
class FilterSettings(MethodSettings):
    """Settings of an adaptive filter."""

    filter: ClassVar[type[AdaptiveFilter]]
    taps: int
    """Number of newest samples of each reference that the filter uses."""

    def make(self, references: int, levels: Sequence[float] | None = None) -> AdaptiveFilter:
        """Create a filter with these settings.

        Args:
            references: number of references.
            levels: mean power of each reference; None estimates it from the samples so far.

        Raises:
            FilterError: a setting is out of range.
        """
        return self.filter(references, **self.values, levels=levels)


@dataclass(frozen=True)
class LmsSettings(FilterSettings):
    """Settings of `Lms`."""

    method = "lms"
    filter = Lms
    rate: float


@dataclass(frozen=True)
class NlmsSettings(FilterSettings):
    """Settings of `Nlms`."""

    method = "nlms"
    filter = Nlms
    rate: float


@dataclass(frozen=True)
class RlsSettings(FilterSettings):
    """Settings of `Rls`."""

    method = "rls"
    filter = Rls
    forgetting: float


@dataclass(frozen=True)
class RenormaliseSettings(MethodSettings):
    """Settings of `sop.denoise.wiener.renormalised`."""

    method = "renormalise"
    power: float


@dataclass(frozen=True)
class WienerSettings(MethodSettings):
    """Settings of `sop.denoise.wiener.em_wiener`, which starts from renormalised masks."""

    method = "wiener"
    power: float
    frames: int
    iterations: int


_TYPES = (LmsSettings, NlmsSettings, RlsSettings, RenormaliseSettings, WienerSettings)


def settings_of(method: str, values: Mapping[str, float]) -> MethodSettings:
    """Return the settings of a method.

    Args:
        method: one of `METHODS`.
        values: its settings by name, as in `MethodSettings.values`.
    """
    types: dict[str, Any] = {settings.method: settings for settings in _TYPES}
    settings: MethodSettings = types[method](**values)
    return settings


def candidates(params: DenoiseParams) -> list[MethodSettings]:
    """List all candidates, in the order of `METHODS`; one method's only if that one is forced."""
    grids: dict[str, tuple[Any, ...]] = {
        "lms": (params.taps, params.lms_rates),
        "nlms": (params.taps, params.nlms_rates),
        "rls": (params.taps, params.rls_forgetting),
        "renormalise": (params.mask_powers,),
        "wiener": (params.mask_powers, params.wiener_frames, params.wiener_iterations),
    }
    return [
        settings(*values)
        for settings in _TYPES
        if params.method in (NONE, "auto", settings.method)
        for values in product(*grids[settings.method])
    ]
