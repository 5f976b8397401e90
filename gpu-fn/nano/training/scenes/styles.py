"""Styles, implemented as filters on finished images [B, 3, H, W] in 0..1."""

import torch
import torch.nn.functional as F

from ..world.vocabulary import STYLES


def blur(image: torch.Tensor, radius: int) -> torch.Tensor:
    padded = F.pad(image, [radius] * 4, mode="replicate")
    return F.avg_pool2d(padded, 2 * radius + 1, 1)


def edges(image: torch.Tensor) -> torch.Tensor:
    """Gradient magnitude, [B, 1, H, W]."""
    padded = F.pad(image, [1] * 4, mode="replicate")
    across, down = padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2], padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]
    return (across.square() + down.square()).sum(1, keepdim=True).sqrt()


def pixel_art(image: torch.Tensor) -> torch.Tensor:
    """Blocks of 4 × 4 pixels in few colors: half a token of the transformer, so that edges are sharp."""
    small = F.avg_pool2d(image, 4)
    return F.interpolate((small * 12).round() / 12, scale_factor=4.0, mode="nearest")


def watercolor(image: torch.Tensor) -> torch.Tensor:
    """Pale washes with darker edges, on white paper."""
    wash = blur(blur(image, 1), 1)
    pooled = (edges(wash) * 0.6).clamp(0, 0.22)
    return (0.28 + 0.72 * wash - pooled).clamp(0, 1)


def line_drawing(image: torch.Tensor) -> torch.Tensor:
    """Dark lines on paper."""
    line = (blur(edges(image), 1) * 1.7 - 0.06).clamp(0, 1)
    paper = torch.tensor((0.98, 0.975, 0.96), device=image.device).view(1, 3, 1, 1)
    return paper - line * 0.86


def neon(image: torch.Tensor) -> torch.Tensor:
    """Glowing outlines in the objects' colors on a dark background."""
    line = (edges(image) * 1.4 - 0.05).clamp(0, 1)
    vivid = image - image.amin(1, keepdim=True) * 0.85
    vivid = vivid / vivid.amax(1, keepdim=True).clamp(min=0.15)
    light = blur(vivid, 1) * line
    night = torch.tensor((0.03, 0.02, 0.08), device=image.device).view(1, 3, 1, 1)
    return (night + 0.10 * image + light + 0.9 * blur(light, 4)).clamp(0, 1)


def sepia(image: torch.Tensor) -> torch.Tensor:
    gray = (image * torch.tensor((0.3, 0.59, 0.11), device=image.device).view(1, 3, 1, 1)).sum(1, keepdim=True)
    dark, light = (torch.tensor(c, device=image.device).view(1, 3, 1, 1) / 255 for c in ((52, 30, 14), (250, 232, 198)))
    return dark + (light - dark) * gray


FILTERS = dict(zip(STYLES, (pixel_art, watercolor, line_drawing, neon, sepia), strict=True))


def apply_styles(image: torch.Tensor, style: torch.Tensor) -> torch.Tensor:
    """`style` [B] is an index of STYLES, or −1."""
    for number, name in enumerate(STYLES):
        rows = (style == number).nonzero()[:, 0]
        if len(rows):
            image[rows] = FILTERS[name](image[rows])
    return image
