"""Draws the textures of nano's world (Noto Color Emoji sprites, letters in three fonts, signs) and determines which pixels of a sprite can be recolored."""

import os
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

# Root of the unpacked Debian packages; / if they are installed.
ROOT = Path(os.environ.get("NANO_DATA", "/"))
EMOJI_FONT = ROOT / "usr/share/fonts/truetype/noto/NotoColorEmoji.ttf"
LETTER_FONTS = ("DejaVuSans-Bold", "DejaVuSerif-Bold", "DejaVuSansMono-Bold")
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
TEXTURE = 128
INK = (40, 32, 28, 255)
HUE_REACH = 0.13  # of the color wheel, on both sides of a sprite's main hue


def center(image: Image.Image, size: int = TEXTURE) -> np.ndarray:
    """RGBA uint8 [size, size, 4] with the visible part in the middle and at least one transparent pixel at the sides."""
    visible = image.crop(image.getbbox())
    scale = (size - 4) / max(visible.size)
    visible = visible.resize([round(side * scale) for side in visible.size], Image.Resampling.LANCZOS)
    canvas = Image.new("RGBA", (size, size))
    canvas.paste(visible, [(size - side) // 2 for side in visible.size])
    return np.asarray(canvas)


def draw_emoji(emoji: str) -> np.ndarray:
    image = Image.new("RGBA", (160, 160))
    font = ImageFont.truetype(EMOJI_FONT, 109)  # the size of the font's bitmaps
    if font.getlength(emoji) > 150:
        raise ValueError(f"{emoji} is not a single glyph of {EMOJI_FONT}")
    ImageDraw.Draw(image).text((8, 8), emoji, font=font, embedded_color=True)
    return center(image)


def draw_letter(letter: str, font_name: str) -> np.ndarray:
    """A letter at its natural height, aligned to a common baseline rather than centered on its visible part."""
    image = Image.new("RGBA", (TEXTURE, TEXTURE))
    font = ImageFont.truetype(f"/usr/share/fonts/truetype/dejavu/{font_name}.ttf", 122)
    ImageDraw.Draw(image).text((TEXTURE / 2, TEXTURE / 2), letter, font=font, anchor="mm", fill=INK)
    return np.asarray(image)


def draw_sign() -> np.ndarray:
    """A board on a post, twice as wide as high, onto which letters are placed."""
    image = Image.new("RGBA", (4 * TEXTURE, 4 * TEXTURE))
    draw = ImageDraw.Draw(image)
    draw.rectangle((236, 290, 276, 508), fill=(121, 85, 60, 255))
    draw.rounded_rectangle((8, 60, 503, 308), 28, fill=(141, 98, 66, 255))
    draw.rounded_rectangle((26, 78, 485, 290), 18, fill=(255, 246, 220, 255))
    return np.asarray(image.resize((TEXTURE, TEXTURE), Image.Resampling.LANCZOS))


def draw_banner() -> np.ndarray:
    """A white swallowtail ribbon; its center matches that of the sign's board."""
    image = Image.new("RGBA", (4 * TEXTURE, 4 * TEXTURE))
    draw = ImageDraw.Draw(image)
    for left in (True, False):
        points = [(4, 130), (4, 340), (60, 340), (60, 130)] if left else [(507, 130), (507, 340), (451, 340), (451, 130)]
        notch = (34, 235) if left else (477, 235)
        draw.polygon([points[0], notch, points[1], points[2], points[3]], fill=(176, 40, 44, 255))
    draw.rectangle((28, 72, 483, 300), fill=(226, 54, 48, 255))
    draw.rectangle((28, 88, 483, 284), fill=(255, 250, 240, 255))
    return np.asarray(image.resize((TEXTURE, TEXTURE), Image.Resampling.LANCZOS))


def hue_and_chroma(rgb: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Hue in 0..1 and chroma in 0..1 of [..., 3] in 0..1."""
    high, low = rgb.max(-1), rgb.min(-1)
    chroma = high - low
    r, g, b = np.moveaxis(rgb, -1, 0)
    safe = np.maximum(chroma, 1e-6)
    hue = np.select([high == r, high == g], [(g - b) / safe % 6, (b - r) / safe + 2], (r - g) / safe + 4) / 6
    return hue % 1, chroma


def find_recolorable(texture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Recoloring mask and relative brightness per pixel: two float arrays [size, size] in 0..1.

    The main color of a sprite is its most frequent hue, or gray and white if few pixels have a hue. Tires, eyes and windows keep their color.
    """
    rgb, visible = texture[..., :3].astype(np.float32) / 255, texture[..., 3] > 128
    hue, chroma = hue_and_chroma(rgb)
    bright = rgb @ np.array([0.3, 0.59, 0.11], np.float32)
    colored = visible & (chroma > 0.18)
    if colored.sum() > 0.3 * visible.sum():
        bins = np.bincount((hue[colored] * 36).astype(int) % 36, chroma[colored], 36)
        smooth = bins + np.roll(bins, 1) + np.roll(bins, -1)
        main = (smooth.argmax() + 0.5) / 36
        distance = np.abs((hue - main + 0.5) % 1 - 0.5)
        mask = np.clip((HUE_REACH - distance) / 0.03, 0, 1) * np.clip((chroma - 0.10) / 0.10, 0, 1)
    else:
        mask = np.clip((0.25 - chroma) / 0.08, 0, 1) * np.clip((bright - 0.22) / 0.12, 0, 1)
    inside = visible & (mask > 0.5)
    level = np.percentile(bright[inside], 75) if inside.any() else 1.0
    return mask * visible, np.clip(bright / max(level, 0.05), 0, 1.3) / 1.3
