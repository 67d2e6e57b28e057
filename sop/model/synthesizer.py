"""The synthesizer: masks as sums of component maps, weighted by image features."""

import torch
from torch import Tensor, nn

from sop.params import SynthesizerKind


class Synthesizer(nn.Module):
    """Combine image features and component maps to the logits of masks.

    Args:
        kind: `linear` has a learned scale per channel and a bias; `bias` has only the bias.
        channels: C.

    Source: Zhao et al., The Sound of Pixels, ECCV 2018 (audio synthesizer network).
    """

    def __init__(self, kind: SynthesizerKind = "linear", channels: int = 32) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(channels)) if kind == "linear" else None
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, image: Tensor, sound: Tensor) -> Tensor:
        """Return the logits of each source's mask.

        Args:
            image: pooled features of each source, (B, N, C).
            sound: component maps, (B, C, F, M).

        Returns:
            (B, N, F, M).
        """
        return torch.einsum("bnc,bcfm->bnfm", self._scaled(image, -1), sound) + self.bias

    def pixelwise(self, image: Tensor, sound: Tensor) -> Tensor:
        """Return the logits of each pixel's mask.

        Args:
            image: features of the pixels of one frame, (B, C, h, w).
            sound: component maps, (B, C, F, M).

        Returns:
            (B, h, w, F, M).
        """
        return torch.einsum("bchw,bcfm->bhwfm", self._scaled(image, 1), sound) + self.bias

    def _scaled(self, image: Tensor, channel_axis: int) -> Tensor:
        if self.scale is None:
            return image
        shape = [1] * image.dim()
        shape[channel_axis] = -1
        return image * self.scale.view(shape)
