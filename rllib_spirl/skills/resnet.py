"""A frozen ResNet-18, trained on other pictures, that sees for a skill prior."""

import pickle
from pathlib import Path
from typing import Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

from rllib_spirl.errors import UserError, one_line

# What damaged files, and files of something else, end in.
UNREADABLE = (
    OSError, EOFError, KeyError, IndexError, ValueError, RuntimeError, pickle.UnpicklingError, SafetensorError
)  # fmt: skip


class ResNet18Features(nn.Module):
    """Features of the pictures before and after a step by a frozen ResNet-18 (He et al. 2016), trained on ImageNet.

    Its stages up to the third, without the last, of which little would be left of small pictures. Names and shapes of
    the parameters are those of torchvision's, whose published weights `load` reads. The network is written here because
    torchvision's own needs a build that fits PyTorch's. It is evaluated without gradients and always as for inference.
    """

    MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's pictures, RGB from 0 to 1
    SIZE = 64  # pixels along an edge, to which pictures are enlarged
    WIDTHS = (64, 128, 256)  # channels of the stages

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, self.WIDTHS[0], 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(self.WIDTHS[0])
        inputs = self.WIDTHS[0]
        for stage, width in enumerate(self.WIDTHS, start=1):
            first = _ResidualBlock(inputs, width, stride=1 if stage == 1 else 2)
            self.add_module(f"layer{stage}", nn.Sequential(first, _ResidualBlock(width, width, stride=1)))
            inputs = width
        self.outputs = 2 * inputs * (self.SIZE // 16) ** 2
        self.requires_grad_(False)
        self.eval()

    def load(self, file: str | Path) -> None:
        """Read the published weights from torchvision's ``.pth`` or a ``.safetensors`` file.

        Nothing but tensors is read of a ``.pth`` file.

        Raises:
            UserError: If there is no such file, or it holds something else.
        """
        try:
            found = (
                load_file(file) if str(file).endswith(".safetensors") else torch.load(file, "cpu", weights_only=True)
            )
        except UNREADABLE as error:
            raise UserError(f"{file} cannot be read as weights of a ResNet-18: {one_line(error)}") from None
        own, found = self.state_dict(), found if isinstance(found, dict) else {}
        # How many batches normalisation has seen decides nothing here, and older files do not tell it.
        own = {name: value for name, value in own.items() if not name.endswith("num_batches_tracked")}
        missing = [name for name, value in own.items() if getattr(found.get(name), "shape", None) != value.shape]
        if missing:
            raise UserError(f"{file} is no file of a ResNet-18's weights: {missing[0]} is missing or of another shape")
        self.load_state_dict({name: found[name] for name in own}, strict=False)

    def train(self, mode: bool = True) -> Self:
        """Nothing changes: the statistics of its normalisation are frozen as well."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Pictures (B, 2, size, size, 3) uint8 to features (B, F)."""
        pixels = images.flatten(0, 1).float() / 255
        planes = ((pixels - pixels.new_tensor(self.MEAN)) / pixels.new_tensor(self.STD)).movedim(-1, 1)
        planes = F.interpolate(planes, (self.SIZE, self.SIZE), mode="bilinear", antialias=True)
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(planes))), 3, stride=2, padding=1)
        for stage in range(1, len(self.WIDTHS) + 1):
            x = self.get_submodule(f"layer{stage}")(x)
        return x.unflatten(0, images.shape[:2]).flatten(1)


class _ResidualBlock(nn.Module):
    """Two convolutions, whose result is added to their input: (B, C, h, w) to (B, D, h / stride, w / stride)."""

    def __init__(self, inputs: int, outputs: int, *, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = nn.Sequential()
        if stride != 1 or inputs != outputs:
            projection = nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)
            self.downsample = nn.Sequential(projection, nn.BatchNorm2d(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        residual = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(residual + self.downsample(x))
