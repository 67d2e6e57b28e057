"""The vision net: a ResNet-18 that gives each pixel, or each clip, an embedding of C numbers."""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock

Pooling = Literal["maxpool", "avgpool"]


class VisionNet(nn.Module):
    """ResNet-18 without its pooling and classifier, and a 3x3 convolution to C channels.

    Args:
        channels: C.
        dilated: the last stage keeps its resolution (stride 16 in all instead of 32) and is
            dilated by 2 instead.
        width: channels of the first stage; each of the four doubles them.

    Source: Zhao et al., The Sound of Pixels, ECCV 2018 (video analysis network), after He et al.,
    Deep Residual Learning, 2016, and Yu et al., Dilated Residual Networks, 2017.
    """

    def __init__(self, channels: int = 32, dilated: bool = True, width: int = 64) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, stride=2, padding=1),
            _stage(width, width, stride=1),
            _stage(width, 2 * width, stride=2),
            _stage(2 * width, 4 * width, stride=2),
            _stage(4 * width, 8 * width, stride=2),
        )
        if dilated:
            self.trunk[7].apply(_dilate)
        self.head = nn.Conv2d(8 * width, channels, 3, padding=1)

    def forward(self, frames: Tensor) -> Tensor:
        """Embed every pixel of the frames' coarse grid.

        Args:
            frames: ImageNet-normalised, (B, T, 3, H, W).

        Returns:
            (B, T, C, H / stride, W / stride), stride 16 if dilated, else 32.
        """
        features: Tensor = self.head(self.trunk(frames.flatten(0, 1)))
        return features.view(*frames.shape[:2], *features.shape[1:])


def pool_pixels(features: Tensor, pooling: Pooling) -> Tensor:
    """Pool pixel features over frames, height and width: (B, T, C, h, w) to (B, C)."""
    pool = F.adaptive_max_pool3d if pooling == "maxpool" else F.adaptive_avg_pool3d
    return pool(features.transpose(1, 2), 1).flatten(1)


def _stage(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    """Two residual blocks; the first takes the stride, and a projection where shapes change."""
    projection = None
    if stride != 1 or inputs != outputs:
        projection = nn.Sequential(
            nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs)
        )
    return nn.Sequential(
        BasicBlock(inputs, outputs, stride, projection), BasicBlock(outputs, outputs)
    )


def _dilate(module: nn.Module) -> None:
    """Take the stride from a convolution; those behind it are dilated to see as far as before."""
    if not isinstance(module, nn.Conv2d):
        return
    if module.stride == (2, 2):
        module.stride = (1, 1)
    elif module.kernel_size == (3, 3):
        module.dilation = module.padding = (2, 2)
