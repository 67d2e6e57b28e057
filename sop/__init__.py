"""The Sound of Pixels: learn from unlabeled videos which pixels make which sound."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sop.inference.separator import Separation, Separator

__all__ = ["Separation", "Separator"]


def __getattr__(name: str) -> Any:
    # They bring PyTorch, which takes seconds to import; most of what imports `sop` has no use for.
    if name in __all__:
        from sop.inference import separator

        return getattr(separator, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
