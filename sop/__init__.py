"""The Sound of Pixels: learn from unlabeled videos which pixels make which sound."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sop.inference.localization import Localization, Region
    from sop.separate.api import SeparatedRegion, Separation, Separator
    from sop.separate.separation import SeparationOptions
    from sop.separate.source import Source

__all__ = [
    "Localization",
    "Region",
    "SeparatedRegion",
    "Separation",
    "SeparationOptions",
    "Separator",
    "Source",
    "__version__",
]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # Imported on first use: PyTorch takes seconds to import, and most users of `sop` do not need
    # it.
    if name in __all__:
        from sop.separate import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
