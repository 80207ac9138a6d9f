"""The published network and its training step in PyTorch, for comparison with ours.

Written for the benchmark from the same description as ours (the authors' skips are added, not
concatenated) and checked against the same golden numbers. The weights have their published names.
It alone needs PyTorch: `pip install torch`.
"""

import itertools
from collections.abc import Callable, Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

torch.backends.cudnn.benchmark = True  # cuDNN tries its algorithms, as XLA does

STAGES = ((3, 64), (4, 128), (6, 256), (3, 512))


class Block(nn.Module):
    """Two 3x3 convolutions with BatchNorm and a shortcut; the first has a bias."""

    def __init__(self, channels: int, features: int, stride: int, project: bool) -> None:
        super().__init__()
        self.Res = nn.Sequential(
            nn.Conv2d(channels, features, 3, stride, 1),
            nn.BatchNorm2d(features),
            nn.ReLU(inplace=True),
            nn.Conv2d(features, features, 3, 1, 1, bias=False),
            nn.BatchNorm2d(features),
        )
        self.right: nn.Module = nn.Identity()
        if project:
            self.right = nn.Sequential(
                nn.Conv2d(channels, features, 1, stride, bias=False), nn.BatchNorm2d(features)
            )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.Res(x) + self.right(x))


class SpatialConv(nn.Module):
    """Equation 5 as a loop over rows and columns, in place on a list of slices.

    Args:
        channels: C of the feature map.
        size: k, width of the kernels, odd.
    """

    def __init__(self, channels: int, size: int = 9) -> None:
        super().__init__()
        row, column = (
            {"kernel_size": (1, size), "padding": (0, size // 2)},
            {
                "kernel_size": (size, 1),
                "padding": (size // 2, 0),
            },
        )
        self.up_down = nn.Conv2d(channels, channels, bias=False, **row)
        self.down_up = nn.Conv2d(channels, channels, bias=False, **row)
        self.left_right = nn.Conv2d(channels, channels, bias=False, **column)
        self.right_left = nn.Conv2d(channels, channels, bias=False, **column)

    def forward(self, x: Tensor) -> Tensor:
        for conv, axis, reverse in (
            (self.up_down, 2, False),
            (self.down_up, 2, True),
            (self.left_right, 3, False),
            (self.right_left, 3, True),
        ):
            slices = list(x.split(1, axis))
            order = range(len(slices))
            visited = list(reversed(order) if reverse else order)
            for before, here in itertools.pairwise(visited):
                slices[here] = slices[here] + F.relu(conv(slices[before]))
            x = torch.cat(slices, axis)
        return x


class DecoderLayer(nn.Module):
    """1x1 convolution, 3x3 transposed convolution of stride 2, 1x1 convolution."""

    def __init__(self, channels: int, features: int) -> None:
        super().__init__()
        middle = channels // 4
        self.conv1 = nn.Conv2d(channels, middle, 1)
        self.norm1 = nn.BatchNorm2d(middle)
        self.deconv2 = nn.ConvTranspose2d(middle, middle, 3, 2, 1, output_padding=1)
        self.norm2 = nn.BatchNorm2d(middle)
        self.conv3 = nn.Conv2d(middle, features, 1)
        self.norm3 = nn.BatchNorm2d(features)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm1(self.conv1(x)))
        x = F.relu(self.norm2(self.deconv2(x)))
        return F.relu(self.norm3(self.conv3(x)))


class TorchSSANet(nn.Module):
    """The published network: `[B, 2, H, W]` to logits `[B, 1, H, W]` and four energies."""

    def __init__(self) -> None:
        super().__init__()
        self.firstconv = nn.Sequential(
            nn.Conv2d(2, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(inplace=True)
        )
        channels = 64
        for stage, (blocks, features) in enumerate(STAGES, start=1):
            layers = []
            for block in range(blocks):
                stride = 2 if block == 0 and stage > 1 else 1
                layers.append(Block(channels, features, stride, project=block == 0))
                channels = features
            setattr(self, f"layer{stage}", nn.Sequential(*layers))
        self.message_passing = SpatialConv(512)
        self.decoder4 = DecoderLayer(512, 256)
        self.decoder3 = DecoderLayer(256, 128)
        self.decoder2 = DecoderLayer(128, 64)
        self.decoder1 = DecoderLayer(64, 64)
        self.finaldeconv1 = nn.ConvTranspose2d(64, 32, 4, 2, 1)
        self.finalconv2 = nn.Conv2d(32, 32, 3, padding=1)
        self.finalconv3 = nn.Conv2d(32, 1, 3, padding=1)

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        x = F.max_pool2d(self.firstconv(x), 3, 2, 1)
        e1 = self.layer1(x)
        e2 = self.layer2(e1)
        e3 = self.layer3(e2)
        e4 = self.layer4(e3)
        energies = [e.float().square().sum(1, keepdim=True) for e in (e1, e2, e3, e4)]
        x = self.decoder4(self.message_passing(e4)) + e3
        x = self.decoder3(x) + e2
        x = self.decoder2(x) + e1
        x = self.decoder1(x)
        x = F.relu(self.finalconv2(F.relu(self.finaldeconv1(x))))
        return self.finalconv3(x), energies


def attention_terms(energies: list[Tensor]) -> Tensor:
    """Compute equations 2 and 3: `[3]`, one term for each pair of neighbouring stages.

    Args:
        energies: `[B, 1, H_m, W_m]` of each stage, shallow to deep.
    """
    terms = []
    for shallow, deep in itertools.pairwise(energies):
        deep = F.interpolate(deep, shallow.shape[2:], mode="bilinear", align_corners=False)
        ours, teacher = (F.softmax(e.flatten(1), dim=1) for e in (shallow, deep))
        terms.append((ours - teacher).square().mean())
    return torch.stack(terms)


def total_loss(logits: Tensor, energies: list[Tensor], mask: Tensor) -> Tensor:
    """Compute equation 7 with Dice (eq. 6) and cross entropy (eq. 8), weights 1, 0.5 and 0.1.

    Args:
        logits: `[B, 1, H, W]`.
        energies: `[B, 1, H_m, W_m]` of each stage, shallow to deep.
        mask: `[B, 1, H, W]`, 0 or 1.
    """
    logits = logits.float()
    prob = torch.sigmoid(logits).flatten(1)
    truth = mask.flatten(1)
    both, size = (prob * truth).sum(1), (prob + truth).sum(1)
    dice = (1 - (2 * both + 1) / (size + 1)).mean()
    entropy = F.binary_cross_entropy_with_logits(logits, mask)
    return dice + 0.5 * entropy + 0.1 * attention_terms(energies).sum()


def training_step(
    network: nn.Module, *, autocast: bool, device: str
) -> Callable[[Tensor, Tensor], Tensor]:
    """Make the step `(image, mask) -> loss` with AdamW, as in our default configuration.

    Args:
        network: to train.
        autocast: whether the network computes in bfloat16.
        device: 'cuda' or 'cpu'.
    """
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=1e-8, fused=True)

    def step(image: Tensor, mask: Tensor) -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device, torch.bfloat16, enabled=autocast):
            logits, energies = network(image)
        loss = total_loss(logits, energies, mask)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


LAYOUTS = {"NCHW": torch.contiguous_format, "channels_last": torch.channels_last}
COMPILE_MODE = {"cuda": "reduce-overhead"}  # with CUDA graphs: faster there than its default


def device_name() -> str:
    """Return 'cuda' where PyTorch finds a GPU, else 'cpu'."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def _finished(step: Callable[[], object], count: int = 1) -> Callable[[], None]:
    """Make a run of steps that returns when their work is done, also on a GPU."""

    def run() -> None:
        for _ in range(count):
            step()
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    return run


def spatial_conv_runs(
    x: np.ndarray, kernels: Mapping[str, np.ndarray], dtype: str, *, backward: bool
) -> dict[str, Callable[[], None]]:
    """Make runs of the loop in both memory layouts.

    Args:
        x: `[B, H, W, C]`; also the cotangent.
        kernels: `[k, C, C]` of 'down', 'up', 'right', 'left'.
        dtype: 'float32' or 'bfloat16', of maps and kernels.
        backward: whether the gradients of map and kernels are computed too.
    """
    device, kind = device_name(), getattr(torch, dtype)
    runs = {}
    for layout, memory_format in LAYOUTS.items():
        loop = SpatialConv(x.shape[-1], next(iter(kernels.values())).shape[0])
        for conv, kernel in zip(loop.children(), kernels.values(), strict=True):
            weight = torch.tensor(kernel).permute(2, 1, 0)  # [to, from, offset]
            with torch.no_grad():
                conv.weight.copy_(weight.reshape(conv.weight.shape))
        loop = loop.to(device=device, dtype=kind, memory_format=memory_format)
        given = torch.tensor(x, dtype=kind, device=device).permute(0, 3, 1, 2)
        given = given.contiguous(memory_format=memory_format).requires_grad_(backward)
        run = _spatial_backward(loop, given) if backward else _spatial_forward(loop, given)
        runs[f"PyTorch's loop, {layout}"] = _finished(run)
    return runs


def _spatial_forward(loop: nn.Module, x: Tensor) -> Callable[[], object]:
    def run() -> None:
        with torch.inference_mode():
            loop(x)

    return run


def _spatial_backward(loop: nn.Module, x: Tensor) -> Callable[[], object]:
    cotangent = x.detach()

    def run() -> None:
        x.grad = None
        loop.zero_grad(set_to_none=True)
        loop(x).backward(cotangent)

    return run


def network_run(
    image: np.ndarray,
    mask: np.ndarray,
    dtype: str,
    *,
    layout: str,
    compiled: bool,
    training: bool,
    count: int,
) -> Callable[[], None]:
    """Make a run of the network's training step or inference.

    Args:
        image: `[B, H, W, 2]` float32.
        mask: `[B, H, W]`, 0 or 1.
        dtype: 'float32', or 'bfloat16' for autocast.
        layout: key of `LAYOUTS`.
        compiled: whether to use `torch.compile`.
        training: the training step, or inference.
        count: steps or inferences of the run.
    """
    device, autocast = device_name(), dtype == "bfloat16"
    memory_format = LAYOUTS[layout]
    torch.manual_seed(0)
    network = TorchSSANet().to(device=device, memory_format=memory_format)
    x = torch.tensor(image, device=device).permute(0, 3, 1, 2)
    x = x.contiguous(memory_format=memory_format)
    called = torch.compile(network, mode=COMPILE_MODE.get(device)) if compiled else network
    if not training:
        return _finished(_inference(called.eval(), x, autocast, device), count)
    truth = torch.tensor(mask, dtype=torch.float32, device=device)[:, None]
    step = training_step(called, autocast=autocast, device=device)
    return _finished(lambda: step(x, truth), count)


def _inference(network: nn.Module, x: Tensor, autocast: bool, device: str) -> Callable[[], object]:
    def run() -> None:
        with torch.no_grad(), torch.autocast(device, torch.bfloat16, enabled=autocast):
            network(x)

    return run
