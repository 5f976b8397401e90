"""Backgrounds of nano's scenes, drawn on the GPU: plain colors, gradients and eighteen grounds with depth, each in many variants.

A ground is a method that returns [B, 3, H, W] in 0..1. `y` runs from 0 at the top to 1 at the bottom, and `x` uses the same unit, so that
circles stay round on wide canvases. `draw(…)` returns uniform random numbers [B, …].
"""

from collections.abc import Callable

import torch

from ..world.vocabulary import BACKGROUNDS, COLORS, GROUNDS

Draw = Callable[..., torch.Tensor]
TAU = 6.2832


class Grounds:
    def __init__(self, width: int, height: int, device: str):
        self.width, self.height, self.device = width, height, device
        rows, columns = torch.arange(height, device=device) + 0.5, torch.arange(width, device=device) + 0.5
        self.y, self.x = torch.meshgrid(rows / height, columns / height, indexing="ij")
        self.aspect = width / height
        self.colors = torch.tensor([*COLORS.values()], device=device).float() / 255

    def __call__(self, background: torch.Tensor, noise: torch.Generator) -> torch.Tensor:
        """Backgrounds [B, 2] of top and bottom, as indices of BACKGROUNDS."""
        image = torch.empty(len(background), 3, self.height, self.width, device=self.device)
        plain = (background[:, 0] < len(COLORS)).nonzero()[:, 0]
        jitter = torch.randn(len(plain), 1, 3, generator=noise, device=self.device) * 0.012
        ends = (self.colors[background[plain]] + jitter)[..., None, None]
        image[plain] = ends[:, 0] * (1 - self.y) + ends[:, 1] * self.y
        for ground in GROUNDS:
            rows = (background[:, 0] == BACKGROUNDS.index(ground)).nonzero()[:, 0]
            if len(rows):
                draw = lambda *shape, count=len(rows): torch.rand(count, *shape, generator=noise, device=self.device)
                image[rows] = getattr(self, ground)(draw).clamp(0, 1)
        return image

    # Parts

    def rgb(self, *color: int) -> torch.Tensor:
        return torch.tensor(color, device=self.device).view(3, 1, 1) / 255

    def vary(self, draw: Draw, *colors: tuple[int, int, int]) -> torch.Tensor:
        """A random choice from `colors` per image, slightly varied: [B, 3, 1, 1]."""
        table = torch.tensor(colors, device=self.device).float() / 255
        chosen = table[(draw(1)[:, 0] * len(colors)).long().clamp(max=len(colors) - 1)]
        return (chosen + (draw(3) - 0.5) * 0.05)[..., None, None]

    def blend(self, top: torch.Tensor, bottom: torch.Tensor, start: float = 0.0, end: float = 1.0) -> torch.Tensor:
        """A vertical gradient from height `start` to `end`."""
        way = ((self.y - start) / (end - start)).clamp(0, 1)
        return top * (1 - way) + bottom * way

    def fade(self, top: tuple, bottom: tuple, start: float = 0.0, end: float = 1.0) -> torch.Tensor:
        return self.blend(self.rgb(*top), self.rgb(*bottom), start, end)

    def cover(self, image: torch.Tensor, above: torch.Tensor, color: torch.Tensor, strength: float | torch.Tensor = 1.0) -> torch.Tensor:
        """`color` over `image` wherever `above` (in units of height) is positive, with an edge one pixel soft."""
        mask = (above * self.height + 0.5).clamp(0, 1) * strength
        return image * (1 - mask) + color * mask

    def land(self, above: torch.Tensor, below: torch.Tensor, horizon: torch.Tensor | float) -> torch.Tensor:
        return self.cover(above, self.y - horizon, below)

    def hills(self, draw: Draw, low: float, high: float, waviness: float, pitch: float = 1.0) -> torch.Tensor:
        """Height of a gently waving horizon [B, 1, 1, W]."""
        level, phase, speed = low + (high - low) * draw(1, 1, 1), TAU * draw(1, 1, 1), pitch * (1.0 + 1.5 * draw(1, 1, 1))
        return level + waviness * torch.sin(TAU * speed * self.x[:1] + phase)

    def peaks(self, draw: Draw, level: float, height: float, pitch: float) -> torch.Tensor:
        """Height of a jagged horizon [B, 1, 1, W]: two triangle waves, the finer of a third of the size."""
        line = level
        for scale in (1, 3.1):
            way = (self.x[:1] * pitch * scale * (0.8 + 0.4 * draw(1, 1, 1)) + draw(1, 1, 1)) % 1
            line = line - height / scale * (1 - (2 * way - 1).abs())
        return line

    def blobs(self, image: torch.Tensor, draw: Draw, count: int, size: tuple[float, float], color: torch.Tensor, strength: float,
              top: float = 0.0, bottom: float = 1.0) -> torch.Tensor:
        """Discs with hard edges: stars, bubbles, windows of light."""
        for _ in range(count):
            radius = size[0] + (size[1] - size[0]) * draw(1, 1, 1)
            cx, cy = self.aspect * draw(1, 1, 1), top + (bottom - top) * draw(1, 1, 1)
            image = self.cover(image, radius - ((self.x - cx) ** 2 + (self.y - cy) ** 2).sqrt(), color, strength)
        return image

    def clouds(self, image: torch.Tensor, draw: Draw, count: int, strength: float, lowest: float, color: torch.Tensor | float = 1.0) -> torch.Tensor:
        """Clouds of three soft-edged ellipses each."""
        for _ in range(count):
            cx, cy, size = self.aspect * draw(1, 1, 1), 0.06 + (lowest - 0.06) * draw(1, 1, 1), 0.06 + 0.05 * draw(1, 1, 1)
            cover = torch.zeros(len(cx), 1, self.height, self.width, device=self.device)
            for dx, dy, r in ((-0.9, 0.25, 0.75), (0, 0, 1.0), (0.9, 0.3, 0.7)):
                d = ((self.x - cx - dx * size) / (1.25 * r * size)) ** 2 + ((self.y - cy - dy * size) / (0.75 * r * size)) ** 2
                cover = torch.maximum(cover, ((1 - d) * 6).clamp(0, 1))
            image = image + (color - image) * cover * strength
        return image

    def waves(self, draw: Draw, pitch: float = 14) -> torch.Tensor:
        """Wave crests, 0..1."""
        shift = TAU * draw(1, 1, 1)
        return (torch.sin(TAU * (pitch * self.y + 0.25 * torch.sin(18.8 * self.x + shift))) * 8 - 7).clamp(0, 1)

    # Grounds of the first nano, unchanged

    def sky(self, draw: Draw) -> torch.Tensor:
        return self.clouds(self.fade((72, 160, 240), (178, 222, 252)).expand(len(draw(1)), -1, -1, -1), draw, 3, 0.85, 0.9)

    def grass(self, draw: Draw) -> torch.Tensor:
        above = self.fade((120, 190, 246), (206, 234, 252), 0.0, 0.7).expand(len(draw(1)), -1, -1, -1)
        return self.land(above, self.fade((124, 196, 76), (62, 142, 52), 0.55, 1.0), self.hills(draw, 0.55, 0.68, 0.02))

    def sea(self, draw: Draw) -> torch.Tensor:
        above = self.fade((140, 206, 248), (226, 244, 254), 0.0, 0.5).expand(len(draw(1)), -1, -1, -1)
        below = self.fade((48, 146, 206), (16, 84, 160), 0.45, 1.0) + self.waves(draw) * 0.12
        return self.land(above, below, 0.40 + 0.12 * draw(1, 1, 1))

    def night(self, draw: Draw) -> torch.Tensor:
        image = self.fade((10, 14, 44), (44, 48, 104)).expand(len(draw(1)), -1, -1, -1)
        return self.blobs(image, draw, 22, (0.0047, 0.0086), torch.full_like(self.rgb(0, 0, 0), 0.96), 1.0)

    def sunset(self, draw: Draw) -> torch.Tensor:
        upper, lower = self.fade((92, 62, 146), (240, 112, 108), 0, 0.5), self.fade((240, 112, 108), (255, 204, 112), 0.5, 1)
        return torch.where(self.y < 0.5, upper, lower).expand(len(draw(1)), -1, -1, -1)

    def snow(self, draw: Draw) -> torch.Tensor:
        above = self.fade((150, 190, 224), (216, 230, 244), 0.0, 0.6).expand(len(draw(1)), -1, -1, -1)
        return self.land(above, self.fade((252, 253, 255), (222, 234, 246), 0.5, 1.0), self.hills(draw, 0.52, 0.66, 0.025))

    def desert(self, draw: Draw) -> torch.Tensor:
        above = self.fade((126, 196, 244), (250, 236, 206), 0.0, 0.6).expand(len(draw(1)), -1, -1, -1)
        return self.land(above, self.fade((240, 206, 138), (214, 164, 92), 0.5, 1.0), self.hills(draw, 0.52, 0.66, 0.035))

    # New grounds

    def day(self, draw: Draw, end: float = 0.6) -> torch.Tensor:
        """Clear, hazy or evening sky over a landscape."""
        top = self.vary(draw, (90, 168, 238), (120, 190, 246), (150, 186, 220), (110, 120, 190))
        return self.blend(top, self.vary(draw, (222, 238, 252), (250, 232, 214), (214, 234, 246)), 0.0, end)

    def mountains(self, draw: Draw) -> torch.Tensor:
        image = self.clouds(self.day(draw), draw, 1, 0.7, 0.25)
        far, near = self.peaks(draw, 0.60, 0.36, 1.6), self.peaks(draw, 0.70, 0.26, 1.1)
        image = self.cover(image, self.y - far, self.blend(self.vary(draw, (150, 164, 196), (166, 160, 190)), self.rgb(186, 196, 214), 0.2, 0.7))
        image = self.cover(image, self.y - near, self.blend(self.vary(draw, (104, 112, 138), (122, 110, 112)), self.rgb(138, 148, 156), 0.3, 0.8))
        snow = self.cover(torch.zeros_like(image[:, :1]), self.y - near, 1.0) * ((near + 0.09 + 0.02 * torch.sin(90 * self.x) - self.y) * 60).clamp(0, 1)
        image = image * (1 - snow) + self.rgb(248, 250, 254) * snow
        return self.cover(image, self.y - self.hills(draw, 0.72, 0.80, 0.02), self.blend(self.vary(draw, (116, 170, 82), (96, 150, 90)), self.rgb(64, 120, 58), 0.7, 1.0))

    def lake(self, draw: Draw) -> torch.Tensor:
        image, horizon = self.day(draw, 0.5), 0.50
        ridge, color = self.peaks(draw, 0.50, 0.22, 1.4), self.vary(draw, (96, 130, 120), (110, 124, 160), (82, 128, 86))
        image = self.cover(image, self.y - ridge, color)
        image = self.cover(image, self.y - horizon, self.blend(self.vary(draw, (120, 184, 216), (132, 190, 204)), self.rgb(38, 104, 150), 0.5, 1.0))
        mirrored = (2 * horizon - ridge - self.y) * ((self.y - horizon) * self.height).clamp(0, 1)
        image = self.cover(image, mirrored, color * 0.8, 0.45)
        ripple = (torch.sin(TAU * (26 * self.y + 0.2 * torch.sin(14 * self.x + TAU * draw(1, 1, 1)))) * 8 - 7).clamp(0, 1) * (self.y > 0.56)
        image = image + ripple * 0.10
        return self.cover(image, self.y - self.hills(draw, 0.90, 0.96, 0.015), self.vary(draw, (96, 152, 74), (196, 176, 128)))

    def forest(self, draw: Draw) -> torch.Tensor:
        image = self.blend(self.vary(draw, (190, 222, 196), (168, 206, 216), (222, 222, 170)), self.rgb(150, 190, 140), 0.0, 0.7).expand(len(draw(1)), -1, -1, -1)
        for level, height, pitch, color in ((0.66, 0.40, 6, (122, 168, 124)), (0.72, 0.46, 4.5, (74, 128, 82)), (0.78, 0.58, 3, (38, 92, 58))):
            way = (self.x[:1] * pitch + draw(1, 1, 1)) % 1
            tall = 0.75 + 0.25 * torch.sin(TAU * (torch.floor(self.x[:1] * pitch + draw(1, 1, 1)) * 0.37 + draw(1, 1, 1)))
            steps = 0.06 * ((self.y * 14) % 1) * (self.y < level)
            width = (self.y - level + height * tall) / (height * tall) * 0.5 - steps
            image = self.cover(image, (width - (way - 0.5).abs()) / pitch, self.vary(draw, color))
        return self.cover(image, self.y - self.hills(draw, 0.74, 0.80, 0.012), self.blend(self.vary(draw, (92, 128, 62), (124, 106, 66)), self.rgb(58, 84, 44), 0.75, 1.0))

    def beach(self, draw: Draw) -> torch.Tensor:
        image = self.clouds(self.fade((86, 176, 240), (206, 236, 252), 0.0, 0.45).expand(len(draw(1)), -1, -1, -1), draw, 2, 0.8, 0.3)
        image = self.cover(image, self.y - 0.42, self.fade((30, 120, 188), (76, 196, 206), 0.42, 0.68) + self.waves(draw, 18) * 0.10)
        shore = self.hills(draw, 0.62, 0.70, 0.025)
        image = self.cover(image, self.y - shore + 0.025, self.rgb(244, 250, 250))
        image = self.cover(image, self.y - shore, self.rgb(214, 186, 132))
        return self.cover(image, self.y - shore - 0.03, self.blend(self.vary(draw, (248, 222, 164), (240, 210, 150)), self.rgb(226, 190, 124), 0.65, 1.0))

    def city(self, draw: Draw) -> torch.Tensor:
        top = self.vary(draw, (110, 180, 240), (60, 60, 120), (250, 170, 120))
        image = self.blend(top, top * 0.5 + 0.5, 0.0, 0.7)
        for pitch, low, high, color, light in ((7, 0.25, 0.55, 0.62, 0.0), (4.5, 0.38, 0.70, 0.42, 1.0)):
            place = self.x[:1] * pitch + draw(1, 1, 1)
            columns = draw(1, 1, 1, int(self.aspect * pitch) + 3)
            index = place.long().expand(len(columns), 1, 1, -1)
            tall = low + (high - low) * torch.gather(columns[:, 0], 3, index)
            gap = (place % 1 - 0.5).abs() < 0.46
            shade = torch.gather(draw(1, 1, 1, columns.shape[-1])[:, 0], 3, index) * 0.18
            wall = (color + shade) * self.vary(draw, (190, 200, 220), (200, 180, 190), (170, 190, 210))
            image = self.cover(image, (self.y - tall) * gap - (~gap) * 1.0, wall)
            window = (((place % 1) * 5 % 1 - 0.5).abs() < 0.24) & ((self.y * 22 % 1 - 0.5).abs() < 0.26) & gap & (self.y > tall + 0.03) & (self.y < 0.74)
            image = torch.where(window & (light > 0), self.vary(draw, (255, 226, 140), (196, 224, 244)), image)
        image = self.cover(image, self.y - 0.76, self.rgb(168, 168, 172))
        image = self.cover(image, self.y - 0.80, self.fade((84, 86, 92), (66, 68, 74), 0.8, 1.0))
        dash = ((self.x * 5 % 1 - 0.5).abs() < 0.28) & ((self.y - 0.90).abs() < 0.008)
        return torch.where(dash, self.rgb(240, 236, 220), image)

    def room(self, draw: Draw) -> torch.Tensor:
        wall = self.vary(draw, (236, 216, 186), (180, 206, 214), (214, 190, 200), (198, 212, 180), (228, 228, 222))
        image = self.blend(wall, wall * 0.92).expand(-1, -1, self.height, -1) + torch.zeros_like(self.x)
        left, wide = self.aspect * (0.10 + 0.55 * draw(1, 1, 1)), 0.15
        outside = self.blend(self.vary(draw, (120, 190, 246), (40, 46, 96), (246, 180, 140)), self.rgb(214, 236, 250), 0.1, 0.5)
        frame = torch.minimum(wide - (self.x - left - wide).abs(), 0.17 - (self.y - 0.28).abs())
        image = self.cover(image, frame + 0.018, self.rgb(250, 246, 238))
        image = self.cover(image, frame, outside)
        bars = torch.minimum(0.007 - torch.minimum((self.x - left - wide).abs(), (self.y - 0.28).abs()), frame)
        image = self.cover(image, bars, self.rgb(250, 246, 238))
        plank = ((self.x - self.aspect / 2) / (self.y - 0.4).clamp(min=0.05) * 5 % 1 - 0.5).abs() > 0.475
        floor = self.blend(self.vary(draw, (178, 128, 84), (150, 106, 72), (196, 160, 116)), self.rgb(140, 96, 60), 0.7, 1.0)
        image = self.cover(image, self.y - 0.66, self.rgb(246, 240, 230))
        return self.cover(image, self.y - 0.69, torch.where(plank, floor * 0.86, floor))

    def space(self, draw: Draw) -> torch.Tensor:
        image = self.fade((4, 4, 14), (14, 10, 34)).expand(len(draw(1)), -1, -1, -1)
        for color in (self.vary(draw, (120, 40, 160), (40, 80, 180), (170, 60, 110)), self.vary(draw, (30, 110, 150), (90, 40, 150))):
            cx, cy, size = self.aspect * draw(1, 1, 1), draw(1, 1, 1), 0.25 + 0.2 * draw(1, 1, 1)
            image = image + color * 0.5 * torch.exp(-((self.x - cx) ** 2 + 2 * (self.y - cy) ** 2) / size**2)
        image = self.blobs(image, draw, 26, (0.003, 0.008), self.rgb(250, 250, 255), 1.0)
        right, radius = self.aspect * (draw(1, 1, 1) < 0.5), 0.16 + 0.1 * draw(1, 1, 1)
        distance = radius - ((self.x - right) ** 2 + (self.y - (draw(1, 1, 1) < 0.5).float()) ** 2).sqrt()
        return self.cover(image, distance, self.vary(draw, (206, 120, 70), (90, 140, 200), (190, 160, 120)))

    def underwater(self, draw: Draw) -> torch.Tensor:
        image = self.blend(self.vary(draw, (92, 206, 226), (70, 190, 214)), self.vary(draw, (8, 66, 128), (10, 84, 120)))
        ray = torch.sin(TAU * (3 * (self.x + 0.35 * self.y) + draw(1, 1, 1))).clamp(min=0) * (0.8 - self.y).clamp(min=0) * 0.22
        image = self.blobs(image + ray, draw, 12, (0.008, 0.022), self.rgb(206, 240, 250), 0.55)
        floor = self.hills(draw, 0.86, 0.92, 0.02, 1.3)
        image = self.cover(image, self.y - floor, self.blend(self.rgb(206, 196, 140), self.rgb(160, 150, 110), 0.85, 1.0))
        for _ in range(5):
            cx, tall = self.aspect * draw(1, 1, 1), 0.10 + 0.2 * draw(1, 1, 1)
            sway = 0.02 * torch.sin(24 * self.y + TAU * draw(1, 1, 1))
            blade = (0.014 - (self.x - cx - sway).abs()) - (floor - tall - self.y).clamp(min=0) - (self.y - floor - 0.05).clamp(min=0)
            image = self.cover(image, blade, self.vary(draw, (30, 130, 80), (60, 150, 70), (150, 60, 80)))
        return image

    def field(self, draw: Draw) -> torch.Tensor:
        image, crop = self.clouds(self.day(draw), draw, 2, 0.8, 0.3), self.vary(draw, (226, 184, 76), (132, 172, 70), (196, 160, 214), (236, 206, 70))
        image = self.cover(image, self.y - self.hills(draw, 0.46, 0.50, 0.012), self.vary(draw, (96, 140, 96), (120, 150, 110)))
        depth = (self.y - 0.42).clamp(min=0.02)
        row = torch.sin(TAU * ((self.x - self.aspect * (0.3 + 0.4 * draw(1, 1, 1))) / depth * 2.2)) * ((self.y - 0.5) * 8).clamp(0, 1)
        return self.cover(image, self.y - 0.52, crop * (0.92 + 0.12 * row.clamp(-0.7, 0.7)))

    def road(self, draw: Draw) -> torch.Tensor:
        image, end = self.clouds(self.day(draw), draw, 1, 0.7, 0.3), self.aspect * (0.4 + 0.2 * draw(1, 1, 1))
        image = self.cover(image, self.y - self.hills(draw, 0.40, 0.46, 0.03), self.vary(draw, (120, 146, 150), (110, 150, 110)))
        image = self.cover(image, self.y - 0.48, self.blend(self.vary(draw, (126, 178, 84), (206, 178, 116)), self.rgb(96, 140, 64), 0.48, 1.0))
        depth = (self.y - 0.47).clamp(min=0)
        middle = end + (self.aspect / 2 - end) * depth / 0.53
        image = self.cover(image, depth * 0.85 - (self.x - middle).abs() - 0.004, self.fade((112, 114, 120), (84, 86, 92), 0.48, 1.0))
        dash = ((1 / (depth + 0.02) + draw(1, 1, 1)) * 1.2 % 1 < 0.5) & (depth > 0.02)
        return self.cover(image, depth * 0.035 - (self.x - middle).abs() - 0.004 - (~dash) * 1.0, self.rgb(248, 240, 200))

    def storm(self, draw: Draw) -> torch.Tensor:
        image = self.blend(self.vary(draw, (52, 58, 74), (44, 48, 70)), self.vary(draw, (126, 134, 148), (110, 122, 140))).expand(-1, -1, self.height, -1)
        image = self.clouds(image + torch.zeros_like(self.x), draw, 6, 0.9, 0.26, self.vary(draw, (70, 76, 92), (84, 88, 100)))
        cx, turn = self.aspect * (0.15 + 0.7 * draw(1, 1, 1)), 0.05 + 0.05 * draw(1, 1, 1)
        zigzag = cx + turn * (2 * ((self.y * 4 + draw(1, 1, 1)) % 1 - 0.5).abs() - 0.5) + 0.12 * (self.y - 0.4)
        bolt = (0.010 * (1.1 - self.y) - (self.x - zigzag).abs()) - (0.22 - self.y).clamp(min=0) - (self.y - 0.72).clamp(min=0)
        image = self.cover(image, bolt, self.rgb(255, 246, 190))
        rain = (((self.x + 0.22 * self.y) * 30 + draw(1, 1, 1)) % 1 < 0.10) & ((self.y * 9 + torch.floor((self.x + 0.22 * self.y) * 30) * 0.61) % 1 < 0.5)
        image = image + rain * 0.10 * (self.y > 0.25)
        return self.cover(image, self.y - self.hills(draw, 0.82, 0.88, 0.02), self.vary(draw, (54, 64, 62), (60, 60, 66)))
