"""Draws scenes on the GPU: a background, then sprites over it, [B, 3, 256, 256] in -1..1.

Sizes are in pixels of the canvas; a sprite drawn much smaller than its texture is read from a blurred copy, so that nothing aliases.
"""

import numpy as np
import torch
import torch.nn.functional as F

from .scenes import CANVAS, SLOTS, Scene
from .vocabulary import BACKGROUNDS, COLOURS, GROUNDS, HERE, TEXTURE


def pack(scenes: list[Scene]) -> dict[str, torch.Tensor]:
    """Scenes as tensors: placed [B, SLOTS, 4] (sprite -1 where there is none), background [B, 2], seed [B]."""
    placed = np.full((len(scenes), SLOTS, 4), -1, np.float32)
    for row, scene in enumerate(scenes):
        placed[row, : len(scene.placed)] = scene.placed
    return {
        "placed": torch.from_numpy(placed),
        "background": torch.tensor([[scene.top, scene.bottom] for scene in scenes]),
        "seed": torch.tensor([scene.seed for scene in scenes]),
    }


class Renderer:
    def __init__(self, device: str):
        textures = torch.from_numpy(np.load(HERE / "sprites.npz")["textures"]).to(device).permute(0, 3, 1, 2).float() / 255
        textures[:, :3] *= textures[:, 3:]  # premultiplied, so that edges do not take the colour of what is transparent
        half = F.interpolate(textures, size=TEXTURE // 2, mode="area")
        self.sprites = len(textures)
        self.textures = torch.cat([textures, F.interpolate(half, size=TEXTURE, mode="bicubic").clamp(0, 1)]).half()
        self.colours = torch.tensor([*COLOURS.values()], device=device).float() / 255
        ticks = (torch.arange(CANVAS, device=device) + 0.5) / CANVAS
        self.y, self.x = torch.meshgrid(ticks, ticks, indexing="ij")
        self.device = device

    @torch.no_grad()
    def __call__(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        placed, background = batch["placed"].to(self.device), batch["background"].to(self.device)
        noise = torch.Generator(self.device).manual_seed(int(batch["seed"][0]))
        image = self.background(background, noise)
        for slot in range(SLOTS):
            rows = (placed[:, slot, 0] >= 0).nonzero()[:, 0]
            if len(rows):
                sprite = self.sprite(placed[rows, slot])
                image[rows] = image[rows] * (1 - sprite[:, 3:]) + sprite[:, :3]
        return image.clamp(0, 1) * 2 - 1

    def sprite(self, placed: torch.Tensor) -> torch.Tensor:
        """Premultiplied RGBA [B, 4, 256, 256] of one sprite each."""
        index, x, y, side = placed.unbind(1)
        index = index.long() + self.sprites * (side < 0.62 * TEXTURE).long()
        scale = CANVAS / side
        theta = torch.zeros(len(placed), 2, 3, device=self.device)
        theta[:, 0, 0] = theta[:, 1, 1] = scale
        theta[:, 0, 2] = -(x / CANVAS * 2 - 1) * scale
        theta[:, 1, 2] = -(y / CANVAS * 2 - 1) * scale
        grid = F.affine_grid(theta, [len(placed), 4, CANVAS, CANVAS], align_corners=False)
        colour, alpha = F.grid_sample(self.textures[index].float(), grid, mode="bicubic", align_corners=False).clamp(0, 1).split((3, 1), 1)
        return torch.cat([colour.minimum(alpha), alpha], 1)  # bicubic overshoot would leave bright dots along the edges

    def background(self, background: torch.Tensor, noise: torch.Generator) -> torch.Tensor:
        image = torch.empty(len(background), 3, CANVAS, CANVAS, device=self.device)
        colours = len(COLOURS)
        plain = (background[:, 0] < colours).nonzero()[:, 0]
        jitter = torch.randn(len(plain), 1, 3, generator=noise, device=self.device) * 0.012
        ends = (self.colours[background[plain]] + jitter)[..., None, None]
        image[plain] = ends[:, 0] * (1 - self.y) + ends[:, 1] * self.y
        for number, ground in enumerate(GROUNDS):
            rows = (background[:, 0] == BACKGROUNDS.index(ground)).nonzero()[:, 0]
            if len(rows):
                draw = lambda *shape: torch.rand(len(rows), *shape, generator=noise, device=self.device)
                image[rows] = getattr(self, ground)(draw)
        return image

    def fade(self, top: tuple, bottom: tuple, start: torch.Tensor | float = 0.0, end: torch.Tensor | float = 1.0) -> torch.Tensor:
        """A vertical gradient [3, H, W] or [B, 3, H, W] between two colours, from height `start` to `end`."""
        way = ((self.y - start) / (end - start)).clamp(0, 1)
        first, second = (torch.tensor(c, device=self.device).view(3, 1, 1) / 255 for c in (top, bottom))
        return first * (1 - way) + second * way

    def land(self, above: torch.Tensor, below: torch.Tensor, horizon: torch.Tensor) -> torch.Tensor:
        """`above` the horizon and `below`, with an edge one pixel soft."""
        mask = ((self.y - horizon) * CANVAS + 0.5).clamp(0, 1)
        return above * (1 - mask) + below * mask

    def hills(self, draw, low: float, high: float, waviness: float) -> torch.Tensor:
        """Height of a gently waving horizon [B, 1, 1, W]."""
        level, phase, pitch = low + (high - low) * draw(1, 1, 1), 6.28 * draw(1, 1, 1), 1.0 + 1.5 * draw(1, 1, 1)
        return level + waviness * torch.sin(6.28 * pitch * self.x[:1] + phase)

    def clouds(self, image: torch.Tensor, draw, count: int, strength: float, lowest: float) -> torch.Tensor:
        """White clouds of three soft-edged ellipses each."""
        for _ in range(count):
            cx, cy, size = draw(1, 1, 1), 0.06 + (lowest - 0.06) * draw(1, 1, 1), 0.06 + 0.05 * draw(1, 1, 1)
            cover = torch.zeros(len(cx), 1, CANVAS, CANVAS, device=self.device)
            for dx, dy, r in ((-0.9, 0.25, 0.75), (0, 0, 1.0), (0.9, 0.3, 0.7)):
                d = ((self.x - cx - dx * size) / (1.25 * r * size)) ** 2 + ((self.y - cy - dy * size) / (0.75 * r * size)) ** 2
                cover = torch.maximum(cover, ((1 - d) * 6).clamp(0, 1))
            image = image + (1 - image) * cover * strength
        return image

    def sky(self, draw):
        return self.clouds(self.fade((72, 160, 240), (178, 222, 252)).expand(len(draw(1)), -1, -1, -1), draw, 3, 0.85, 0.9)

    def grass(self, draw):
        above = self.fade((120, 190, 246), (206, 234, 252), 0.0, 0.7).expand(len(draw(1)), -1, -1, -1)
        below = self.fade((124, 196, 76), (62, 142, 52), 0.55, 1.0)
        return self.land(above, below, self.hills(draw, 0.55, 0.68, 0.02))

    def sea(self, draw):
        above = self.fade((140, 206, 248), (226, 244, 254), 0.0, 0.5).expand(len(draw(1)), -1, -1, -1)
        shift = 6.28 * draw(1, 1, 1)
        crest = (torch.sin(6.28 * (14 * self.y + 0.25 * torch.sin(18.8 * self.x + shift))) * 8 - 7).clamp(0, 1)
        below = self.fade((48, 146, 206), (16, 84, 160), 0.45, 1.0) + crest * 0.12
        return self.land(above, below, 0.40 + 0.12 * draw(1, 1, 1))

    def night(self, draw):
        image = self.fade((10, 14, 44), (44, 48, 104)).expand(len(draw(1)), -1, -1, -1)
        for _ in range(22):
            cx, cy, radius = draw(1, 1, 1), draw(1, 1, 1), 1.2 + 1.0 * draw(1, 1, 1)
            distance = (((self.x - cx) ** 2 + (self.y - cy) ** 2) * CANVAS**2).sqrt()
            image = image + (0.96 - image) * (radius + 0.5 - distance).clamp(0, 1)
        return image

    def sunset(self, draw):
        return torch.where(self.y < 0.5, self.fade((92, 62, 146), (240, 112, 108), 0, 0.5), self.fade((240, 112, 108), (255, 204, 112), 0.5, 1)) \
            .expand(len(draw(1)), -1, -1, -1)

    def snow(self, draw):
        above = self.fade((150, 190, 224), (216, 230, 244), 0.0, 0.6).expand(len(draw(1)), -1, -1, -1)
        return self.land(above, self.fade((252, 253, 255), (222, 234, 246), 0.5, 1.0), self.hills(draw, 0.52, 0.66, 0.025))

    def desert(self, draw):
        above = self.fade((126, 196, 244), (250, 236, 206), 0.0, 0.6).expand(len(draw(1)), -1, -1, -1)
        return self.land(above, self.fade((240, 206, 138), (214, 164, 92), 0.5, 1.0), self.hills(draw, 0.52, 0.66, 0.035))
