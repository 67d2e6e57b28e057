"""The synthesizer: image features choose among the sound net's components."""

from typing import Literal

import torch
from torch import Tensor, nn


class Synthesizer(nn.Module):
    """Masks before their activation, from image features and component maps.

    Args:
        kind: "linear" weighs each channel by a learned scale; "bias" has the bias alone.
        channels: C.

    Source: Zhao et al., The Sound of Pixels, ECCV 2018 (audio synthesizer network).
    """

    def __init__(self, kind: Literal["linear", "bias"] = "linear", channels: int = 32) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(channels)) if kind == "linear" else None
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, image: Tensor, sound: Tensor) -> Tensor:
        """Mask of each source.

        Args:
            image: pooled features of each source, (B, N, C).
            sound: component maps, (B, C, F, M).

        Returns:
            (B, N, F, M).
        """
        return torch.einsum("bnc,bcfm->bnfm", self._weigh(image, -1), sound) + self.bias

    def pixelwise(self, image: Tensor, sound: Tensor) -> Tensor:
        """Mask of each pixel.

        Args:
            image: features of one frame's pixels, (B, C, h, w).
            sound: component maps, (B, C, F, M).

        Returns:
            (B, h, w, F, M).
        """
        return torch.einsum("bchw,bcfm->bhwfm", self._weigh(image, 1), sound) + self.bias

    def _weigh(self, image: Tensor, channel_axis: int) -> Tensor:
        if self.scale is None:
            return image
        shape = [1] * image.dim()
        shape[channel_axis] = -1
        return image * self.scale.view(shape)
