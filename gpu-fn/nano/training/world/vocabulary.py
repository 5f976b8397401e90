"""The vocabulary of nano v2: sprites with their words, colors, grounds.

    python -m training.world.vocabulary          writes sprites.npz and vocabulary.json into the state folder

Requires Debian's fonts-noto-color-emoji, fonts-dejavu-core, unicode-cldr-core and wordnet-base, unpacked in `NANO_DATA`. A sprite's first
word is its plain name in sprites.txt; words.py adds unambiguous synonyms, and groups such as "bird" for words shared by several sprites.
"""

import json
import os
import re
from pathlib import Path

import numpy as np

from ..settings import STATE
from .drawing import LETTER_FONTS, LETTERS, draw_banner, draw_emoji, draw_letter, draw_sign, find_recolorable

HERE = Path(__file__).parent
TEXTURES = STATE / "sprites.npz"
VOCABULARY = STATE / "vocabulary.json"

COLORS = {
    "red": (226, 54, 48), "orange": (250, 140, 22), "yellow": (252, 216, 60), "green": (62, 160, 72), "blue": (36, 104, 226),
    "light blue": (140, 210, 248), "purple": (138, 50, 172), "pink": (246, 150, 186), "brown": (118, 80, 62), "black": (18, 18, 22),
    "white": (250, 250, 250), "grey": (150, 152, 156), "teal": (10, 148, 138), "beige": (240, 220, 184),
}
# Materials, each rendered with its own pattern (render.py).
MATERIALS = {"golden": (242, 186, 44), "silver": (196, 202, 212), "wooden": (164, 112, 64), "stone": (142, 138, 132)}
TINTS = {**COLORS, **MATERIALS}
OLD_GROUNDS = ("sky", "grass", "sea", "night", "sunset", "snow", "desert")
NEW_GROUNDS = ("mountains", "lake", "forest", "beach", "city", "room", "space", "underwater", "field", "road", "storm")
GROUNDS = (*OLD_GROUNDS, *NEW_GROUNDS)
BACKGROUNDS = (*COLORS, *GROUNDS)
STYLES = ("pixel art", "watercolor", "line drawing", "neon", "sepia")
# People and faces keep their colors; weather and shapes are defined by color.
RECOLORED_CATEGORIES = {"animal", "food", "plant", "vehicle", "object", "building", "music", "sport", "clothing"}
LEAST_RECOLORED = 0.3  # of the visible area


def read_sprites(marks: str = "") -> list[tuple[str, str, str]]:
    """Emoji, plain name and category; a position in this list is the sprite's index everywhere. `marks`: marked lines to include besides the unmarked ones."""
    entries, category = [], ""
    for line in (HERE / "sprites.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            category = line.strip("[]")
        elif line and not line.startswith("#") and (line[0] != "~" or line[0] in marks):
            emoji, name = line.lstrip("~ ").split(" ", 1)
            entries.append((emoji, name, category))
    return entries


SPRITES = read_sprites(os.environ.get("NANO_SPRITES", ""))  # "~" are all
FIRST = {name for _, name, _ in read_sprites("")}
NAMES = [name for _, name, _ in SPRITES]
CATEGORIES = [category for _, _, category in SPRITES]


def takes_color(index: int, texture: np.ndarray) -> bool:
    """Whether recoloring this sprite still depicts the same thing."""
    if CATEGORIES[index] not in RECOLORED_CATEGORIES or set(re.findall("[a-z]+", NAMES[index])) & {*COLORS, "rainbow", "gold", "blueberries"}:
        return False
    visible = (texture[..., 3] > 128).sum()
    return bool(find_recolorable(texture)[0].sum() >= LEAST_RECOLORED * visible)


def main() -> None:
    from .words import english, find_words

    textures = np.stack([draw_emoji(emoji) for emoji, _, _ in SPRITES])
    words, groups = find_words(SPRITES)
    entries = [
        {"name": name, "emoji": emoji, "category": category, "takesColor": takes_color(i, textures[i]), "words": [name, *words[i]]}
        for i, (emoji, name, category) in enumerate(SPRITES)
    ]
    letters = [draw_letter(letter, font) for font in LETTER_FONTS for letter in LETTERS]
    STATE.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(TEXTURES, textures=np.concatenate([textures, letters, [draw_sign(), draw_banner()]]), english=english())
    listed = {"sprites": entries, "groups": groups, "backgrounds": list(BACKGROUNDS), "colors": list(TINTS), "styles": list(STYLES)}
    VOCABULARY.write_text(json.dumps(listed, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    print(f"{len(SPRITES)} sprites, {sum(len(e['words']) for e in entries)} words, {len(groups)} groups, "
          f"{sum(e['takesColor'] for e in entries)} take a color")


if __name__ == "__main__":
    main()
