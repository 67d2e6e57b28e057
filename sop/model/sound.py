"""The sound net: a U-Net that turns a mixture's spectrogram into C component maps."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# How often each net halves height and width.
UNET_LEVELS = {"unet5": 5, "unet6": 6, "unet7": 7}


class SoundNet(nn.Module):
    """U-Net of the published architecture.

    Down: 4x4 convolutions of stride 2. Up: bilinear upsampling by 2 (align_corners) and 3x3
    convolutions. Every level's input is joined to what comes back up from below it.

    Args:
        levels: how often height and width are halved: 5, 6 or 7 (unet5, unet6, unet7).
        channels: C, maps that come out.
        width: channels of the first level; they double down to eight times that.

    Source: Zhao et al., The Sound of Pixels, ECCV 2018 (audio analysis network), after
    Ronneberger et al., U-Net, 2015.
    """

    def __init__(self, levels: int = 7, channels: int = 32, width: int = 64) -> None:
        super().__init__()
        widths = [width * min(2**level, 8) for level in range(levels)]
        self.norm = nn.BatchNorm2d(1)
        self.down = nn.ModuleList(
            nn.Conv2d(before, after, 4, stride=2, padding=1, bias=False)
            for before, after in zip([1, *widths], widths, strict=False)
        )
        # The outermost level and the bottom are not normalised on the way down.
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
        """Map log magnitudes to component maps.

        Args:
            log_magnitude: log of the mixture's magnitude, (B, 1, R, M); R and M multiples of
                2 ** levels.

        Returns:
            (B, C, R, M).
        """
        x: Tensor = self.norm(log_magnitude)
        skips: list[Tensor] = []
        last = len(self.down) - 1
        for level, convolution in enumerate(self.down):
            x = convolution(x if level == 0 else F.leaky_relu(x, 0.2))
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
