"""The vision net: a ResNet-18 that maps each pixel of a coarse grid to C features."""

from itertools import pairwise

from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock

from sop.params import Pooling, VisionKind


class VisionNet(nn.Module):
    """ResNet-18 without its pooling and classifier, followed by a 3x3 convolution to C channels.

    Args:
        channels: C.
        kind: `resnet18fc` has all four stages and stride 32. `resnet18dilated` has dilation 2
            instead of stride 2 in its last stage, and stride 16. `resnet18half` has only the
            first two stages and stride 8: its smaller receptive field resolves places in small
            frames.
        width: number of channels of the first stage; each further stage doubles it.

    Source: Zhao et al., The Sound of Pixels, ECCV 2018 (video analysis network), after He et al.,
    Deep Residual Learning, 2016, and Yu et al., Dilated Residual Networks, 2017.
    """

    def __init__(
        self, channels: int = 32, kind: VisionKind = "resnet18dilated", width: int = 64
    ) -> None:
        super().__init__()
        stages = 2 if kind == "resnet18half" else 4
        widths = [width * 2**stage for stage in range(stages)]
        self.trunk = nn.Sequential(
            nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, stride=2, padding=1),
            _stage(width, width, stride=1),
            *(_stage(inputs, outputs, stride=2) for inputs, outputs in pairwise(widths)),
        )
        if kind == "resnet18dilated":
            self.trunk[-1].apply(_dilate)
        self.head = nn.Conv2d(widths[-1], channels, 3, padding=1)

    def forward(self, frames: Tensor) -> Tensor:
        """Return the features of each pixel of the coarse grid.

        Args:
            frames: ImageNet-normalized, (B, T, 3, H, W).

        Returns:
            (B, T, C, H / stride, W / stride).
        """
        features: Tensor = self.head(self.trunk(frames.flatten(0, 1)))
        return features.view(*frames.shape[:2], *features.shape[1:])


def pool_pixels(features: Tensor, pooling: Pooling) -> Tensor:
    """Pool pixel features over frames, height and width.

    With `maxpool`, each channel may come from a different pixel, so that the result matches no
    single pixel. With `attention`, the result is a weighted mean of whole pixels. The weights are
    a softmax over pixels of each pixel's largest channel.

    Args:
        features: pixel features, (B, T, C, h, w).
        pooling: maxpool, avgpool or attention.

    Returns:
        (B, C).
    """
    pixels = features.transpose(1, 2).flatten(2)
    if pooling == "maxpool":
        return pixels.amax(dim=-1)
    if pooling == "avgpool":
        return pixels.mean(dim=-1)
    attention = pixels.amax(dim=1, keepdim=True).softmax(dim=-1)
    return (pixels * attention).sum(dim=-1)


def pool_background(features: Tensor) -> Tensor:
    """Return features of the background: the lower quartile of each channel over all pixels.

    Args:
        features: pixel features, (B, T, C, h, w).

    Returns:
        (B, C).
    """
    pixels = features.transpose(1, 2).flatten(2)
    quarter = max(1, pixels.shape[-1] // 4)
    return pixels.kthvalue(quarter, dim=-1).values


def _stage(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    """Two residual blocks; the first has the stride, and a projection if shapes change."""
    projection = None
    if stride != 1 or inputs != outputs:
        projection = nn.Sequential(
            nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs)
        )
    return nn.Sequential(
        BasicBlock(inputs, outputs, stride, projection), BasicBlock(outputs, outputs)
    )


def _dilate(module: nn.Module) -> None:
    """Remove the stride of a convolution; dilate the 3x3 convolutions that follow it."""
    if not isinstance(module, nn.Conv2d):
        return
    if module.stride == (2, 2):
        module.stride = (1, 1)
    elif module.kernel_size == (3, 3):
        module.dilation = module.padding = (2, 2)
