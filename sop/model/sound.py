"""The sound net: a U-Net that maps the spectrogram of a mixture to C component maps."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sop.params import SoundKind

# Number of times that each net halves height and width.
UNET_LEVELS: dict[SoundKind, int] = {"unet5": 5, "unet6": 6, "unet7": 7}

# Slope of the leaky ReLUs for negative values.
LEAK = 0.2


class SoundNet(nn.Module):
    """U-Net of the published architecture.

    Down: 4x4 convolutions of stride 2. Up: bilinear upsampling by 2 (align_corners) and 3x3
    convolutions. Skip connections concatenate the input of each level with the output of the
    levels below it.

    Args:
        kind: unet5, unet6 or unet7, which halve height and width 5, 6 or 7 times.
        channels: C, the number of component maps.
        width: number of channels of the first level; each level doubles it, up to eight times.

    Source: Zhao et al., The Sound of Pixels, ECCV 2018 (audio analysis network), after
    Ronneberger et al., U-Net, 2015.
    """

    def __init__(self, kind: SoundKind = "unet7", channels: int = 32, width: int = 64) -> None:
        super().__init__()
        levels = UNET_LEVELS[kind]
        widths = [width * min(2**level, 8) for level in range(levels)]
        self.norm = nn.BatchNorm2d(1)
        self.down = nn.ModuleList(
            nn.Conv2d(before, after, 4, stride=2, padding=1, bias=False)
            for before, after in zip([1, *widths], widths, strict=False)
        )
        # The first and the last level have no batch norm on the way down.
        self.down_norm = nn.ModuleList(nn.BatchNorm2d(after) for after in widths[1:-1])
        self.up = nn.ModuleList(
            nn.Conv2d(
                2 * here if level < levels - 1 else here,
                widths[level - 1] if level else channels,
                3,
                padding=1,
                bias=level == 0,
            )
            for level, here in enumerate(widths)
        )
        self.up_norm = nn.ModuleList(nn.BatchNorm2d(after) for after in widths[:-1])

    def forward(self, log_magnitude: Tensor) -> Tensor:
        """Return component maps.

        Args:
            log_magnitude: logarithm of the mixture's magnitude, (B, 1, R, M); R and M are multiples
                of 2 ** levels.

        Returns:
            (B, C, R, M).
        """
        x: Tensor = self.norm(log_magnitude)
        skips: list[Tensor] = []
        last = len(self.down) - 1
        for level, convolution in enumerate(self.down):
            x = convolution(x if level == 0 else F.leaky_relu(x, LEAK))
            if 0 < level < last:
                x = self.down_norm[level - 1](x)
            skips.append(x)
        x = skips.pop()
        for level in range(last, -1, -1):
            x = F.interpolate(F.relu(x), scale_factor=2, mode="bilinear", align_corners=True)
            x = self.up[level](x)
            if level > 0:
                x = torch.cat([skips.pop(), self.up_norm[level - 1](x)], dim=1)
        return x
