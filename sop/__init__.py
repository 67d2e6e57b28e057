"""The Sound of Pixels: learn from unlabeled videos which pixels make which sound."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sop.inference.localization import Localization, Region
    from sop.inference.separator import Separation, Separator

__all__ = ["Localization", "Region", "Separation", "Separator", "__version__"]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # Imported on first use: PyTorch takes seconds to import, and most users of `sop` do not need
    # it.
    if name in __all__:
        from sop.inference import separator

        return getattr(separator, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
