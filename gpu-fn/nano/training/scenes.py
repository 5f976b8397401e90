"""Scenes and their captions: what stands where on which background, and how somebody would ask for it.

A scene is plain numbers, so that workers sample and tokenize it and the GPU draws it (render.py). `held_out` keeps every eighth pair
of main sprite and background from training, for evaluation.
"""

import json
import random
import re
import zlib
from dataclasses import dataclass, field

import numpy as np

from .vocabulary import BACKGROUNDS, COLOURS, GROUNDS, HERE, LETTERS, sprites

NAMES = [name for _, name in sprites()]
VOCABULARY = json.loads((HERE.parent / "vocabulary.json").read_text(encoding="utf-8"))
SYNONYMS = [entry["words"][1:] for entry in VOCABULARY["sprites"]]
GROUPS = [(word, members) for word, members in VOCABULARY["groups"].items()]
SIGN = len(NAMES) + len(LETTERS)
SLOTS = 6  # sprites a scene has at most: a sign and five letters
CANVAS = 256
# Sprites have few sizes and stand on a grid of one transformer token (a patch of 2 × 2 latents of 8 × 8 pixels): so small a network
# draws each thing crisply in a few ways, but not in every size at every offset.
SIDES, CELL = (64, 80, 96, 128, 160), 16
SIGN_SIDE, BOARD = 224, 96  # of the sign, and the height of its letters
# Nobody counts these: their names are plurals already.
PLURALS = {"grapes", "cherries", "pancakes", "french fries", "glasses", "scissors", "headphones"}
UNCOUNTED = {"bread", "cheese", "popcorn", "corn", "broccoli", "sushi", "ramen", "fire", "beer"}
NUMBERS = {2: ("two", "two", "2", "a pair of"), 3: ("three", "three", "3"), 4: ("four", "four", "4")}
SIZES = {"small": ("small", "tiny", "little"), "large": ("big", "large", "huge"), "medium": ("", "", "", "cute", "nice")}
PLACES = {
    (0, 0): ("in the top left corner", "in the upper left corner"), (1, 0): ("at the top", "at the top of the picture"),
    (2, 0): ("in the top right corner", "in the upper right corner"), (0, 1): ("on the left", "on the left side"),
    (1, 1): ("in the middle", "in the centre", "in the center"), (2, 1): ("on the right", "on the right side"),
    (0, 2): ("in the bottom left corner", "in the lower left corner"), (1, 2): ("at the bottom", "at the bottom of the picture"),
    (2, 2): ("in the bottom right corner", "in the lower right corner"),
}
RELATIONS = {
    "left": ("to the left of", "left of", "on the left of"), "right": ("to the right of", "right of", "on the right of"),
    "above": ("above", "over", "on top of"), "below": ("below", "under", "beneath"), "beside": ("next to", "beside", "and", "with", "near"),
}
COLOUR_PHRASES = ("on a {} background", "on {}", "on a {} backdrop", "against a {} background", "with a {} background", "{} background")
GRADIENT_PHRASES = ("on a gradient from {} to {}", "on a {} to {} gradient", "with a background fading from {} to {}",
                    "on a background that goes from {} to {}", "{} to {} gradient background")
GROUND_PHRASES = {
    "sky": ("in the sky", "on a blue sky", "in a blue sky", "against a blue sky", "in the clouds", "on a sunny day", "under a clear sky"),
    "grass": ("on the grass", "in a meadow", "in a green field", "in a garden", "in the park", "on a lawn", "on a green meadow"),
    "sea": ("in the sea", "on the sea", "in the ocean", "on the water", "by the sea", "at sea"),
    "night": ("at night", "in the night sky", "under the stars", "on a starry night", "in the dark", "in space"),
    "sunset": ("at sunset", "in front of a sunset", "in the evening", "at dusk", "in a sunset sky", "at sunrise"),
    "snow": ("in the snow", "on snow", "in winter", "on a snowy field", "in a snowy landscape"),
    "desert": ("in the desert", "on the sand", "on the beach", "on a beach", "on a sand dune"),
}
COLOUR_NAMES = {"grey": ("grey", "gray"), "purple": ("purple", "violet"), "light blue": ("light blue", "baby blue", "pale blue"),
                "beige": ("beige", "cream"), "teal": ("teal", "turquoise")}
PREFIXES = ("",) * 8 + ("a picture of ", "a photo of ", "an illustration of ", "a drawing of ", "a painting of ", "an image of ",
                         "a cute picture of ", "emoji of ", "a photorealistic ", "draw ", "show me ")
SUFFIXES = ("",) * 8 + (", best quality", ", high detail", ", 4k", ", digital art", ", cute", ", simple", ", vector art", ", with sunlight",
                         ", masterpiece", ", detailed", ", sharp focus", ", beautiful")
FILLERS = """photorealistic cinematic beautiful lovely amazing ultra detailed style studio professional award winning vintage modern abstract
old young happy funny quick brown lazy realistic quality high best artistic watercolour oil painting sketch dramatic soft warm morning
of in on with the a and by near very some many over through into while wearing holding eating sitting standing running looking""".split()
WORDS = """HI HELLO OPEN LOVE CAT DOG STOP GO YES NO SALE FREE CAFE HOME EXIT FUN WOW OCTET ART SUN TEA BAR SHOP HEY BYE COOL NEW HOT ICE PIZZA
ZOO TAXI BUS HELP PARK FISH STAR MOON SKY SEA JOY PEACE PARTY MAGIC HAPPY WELL DONE GOOD NICE BEST TOP UP DOWN LEFT RIGHT""".split()

# Parts of a prompt that say nothing about what is in the picture here.
STYLES = " ".join("""masterpiece; best quality; ultra detailed; highly detailed; bokeh; 85mm; 35mm lens; trending; trending on artstation; 8k; 4k; hdr;
octane render; unreal engine; studio lighting; soft light; golden hour; film grain; sharp focus; depth of field; close up; macro; wide angle;
concept art; digital painting; low poly; pixel art; minimalist; flat design; sticker; isometric; 3d render; pencil sketch; ink; pastel;
cinematic; epic; moody; vibrant; high contrast; award winning; by a famous artist; in the style of an old master; high resolution""".split()).split("; ")


def strangers() -> list[str]:
    """English words that mean nothing here, nor contain or are part of one that does."""
    named = [word for words in (*SYNONYMS, *([name] for name in NAMES)) for word in words] + [word for word, _ in GROUPS]
    phrases = [phrase for table in (SIZES, PLACES, RELATIONS, GROUND_PHRASES, COLOUR_NAMES) for each in table.values() for phrase in each]
    known = " ".join([*named, *phrases, *BACKGROUNDS, *COLOUR_PHRASES, *GRADIENT_PHRASES]).lower()
    parts = set(re.findall("[a-z]{3,}", known))
    english = np.load(HERE / "sprites.npz")["english"].tolist()
    return [word for word in english if word not in known and not any(part in word for part in parts)]


STRANGERS = strangers()


@dataclass
class Scene:
    caption: str
    placed: list[tuple[int, float, float, float]]  # sprite, centre x, centre y, size; pixels
    top: int
    bottom: int  # indices of BACKGROUNDS; they differ in a gradient
    seed: int  # of what a ground draws at random
    simple: bool = False
    counts: dict[int, int] = field(default_factory=dict)  # sprites that the caption names


def held_out(sprite: int, background: int) -> bool:
    return zlib.crc32(f"{NAMES[sprite]}|{BACKGROUNDS[background]}".encode()) % 8 == 0


def on_grid(placed: list[tuple[int, float, float, float]]) -> list[tuple[int, float, float, float]]:
    """The sprites at the nearest places of the grid where they touch none before them."""
    settled = []
    for sprite, x, y, side in placed:
        side = max(s for s in SIDES if s == SIDES[0] or s <= side * 1.1)
        ticks = [side / 2 + at for at in range(0, CANVAS - side + 1, CELL)]
        free = [(a, b) for a in ticks for b in ticks if all(max(abs(a - px), abs(b - py)) >= (side + s) / 2 for _, px, py, s in settled)]
        a, b = min(free, key=lambda place: (place[0] - x) ** 2 + (place[1] - y) ** 2)
        settled.append((sprite, a, b, side))
    return settled


def plural(name: str) -> str:
    irregular = {"mouse": "mice", "fish": "fish", "sheep": "sheep", "wolf": "wolves", "die": "dice", "slice of cake": "slices of cake",
                 "cup of coffee": "cups of coffee", "glass of wine": "glasses of wine", "pile of poo": "piles of poo",
                 "face in love": "faces in love", "maple leaf": "maple leaves"}
    if name in irregular:
        return irregular[name]
    if name.endswith("y") and name[-2] not in "aeiou":
        return name[:-1] + "ies"
    return name + ("es" if name.endswith(("s", "x", "ch", "sh", "tomato")) else "s")


def article(word: str) -> str:
    return "an " if word[0].lower() in "aeio" or word.startswith("um") else "a "


class Sampler:
    """Draws scenes from one random stream. `evaluation` turns the held-out rule round: only compositions that training never has."""

    def __init__(self, seed: int, evaluation: bool = False):
        self.random = random.Random(seed)
        self.evaluation = evaluation

    def scene(self, kind: str | None = None) -> Scene:
        r = self.random
        kinds = {"single": 42, "count": 17, "pair": 22, "corner": 5, "many": 6, "sign": 5, "nothing": 3}
        kind = kind or r.choices([*kinds], [*kinds.values()])[0]
        while True:
            main = r.randrange(len(NAMES))
            top, bottom, where = self.background()
            wanted = not self.evaluation or held_out(main, top)
            if wanted and self.allowed(main, top, bottom) and not (kind == "count" and NAMES[main] in PLURALS | UNCOUNTED):
                break
        return getattr(self, kind)(main, top, bottom, where)

    def allowed(self, sprite: int, top: int, bottom: int) -> bool:
        """Never a red heart on red; in training never a held-out pair."""
        seen = NAMES[sprite].split()[0] not in f"{BACKGROUNDS[top]} {BACKGROUNDS[bottom]}".split()
        return seen and (self.evaluation or not held_out(sprite, top))

    def background(self) -> tuple[int, int, str]:
        """Indices of the colours at the top and at the bottom, and the words for it."""
        r = self.random
        kind = r.random()
        if kind < 0.35:
            ground = r.choice(GROUNDS)
            return BACKGROUNDS.index(ground), BACKGROUNDS.index(ground), r.choice(GROUND_PHRASES[ground])
        if kind < 0.85:
            colour = r.choice([*COLOURS])
            return BACKGROUNDS.index(colour), BACKGROUNDS.index(colour), r.choice(COLOUR_PHRASES).format(self.colour(colour))
        first, second = r.sample([*COLOURS], 2)
        words = r.choice(GRADIENT_PHRASES).format(self.colour(first), self.colour(second))
        return BACKGROUNDS.index(first), BACKGROUNDS.index(second), words

    def colour(self, name: str) -> str:
        return name if self.evaluation else self.random.choice((name, name, *COLOUR_NAMES.get(name, (name,))))

    def noun(self, sprite: int) -> str:
        r = self.random
        if self.evaluation or r.random() > 0.15 or not SYNONYMS[sprite]:
            return NAMES[sprite]
        return r.choice(SYNONYMS[sprite])

    def named(self, sprite: int, count: int = 1, size: str = "medium") -> str:
        """"a small cat", "three cats": the words for some of one sprite."""
        r = self.random
        adjective = "" if self.evaluation and size == "medium" else r.choice(SIZES[size])
        noun = self.noun(sprite) if count == 1 else NAMES[sprite]
        words = f"{adjective} {noun if count == 1 else plural(noun)}".strip()
        if count > 1:
            return f"{r.choice(NUMBERS[count])} {words}"
        if noun in PLURALS | UNCOUNTED or (not self.evaluation and r.random() < 0.12):
            return words
        return f"the {words}" if not self.evaluation and r.random() < 0.06 else article(words) + words

    def sentence(self, subject: str, where: str) -> str:
        """Subject and background in one of the orders people write them in, with the noise that prompts have."""
        r = self.random
        if self.evaluation:
            return f"{subject} {where}" if where[-10:] != "background" or where.startswith(("on", "with", "ag")) else f"{subject}, {where}"
        if r.random() < 0.12:
            text = f"{subject}, {where}" if r.random() < 0.6 else f"{where}, {subject}"
        else:
            text = f"{subject} {where}"
        text = r.choice(PREFIXES) + text + r.choice(SUFFIXES)
        if r.random() < 0.10:
            words = text.split(" ")
            for _ in range(r.randint(1, 4)):
                words.insert(r.choice((0, len(words))), r.choice(FILLERS))
            text = " ".join(words)
        if r.random() < 0.25:
            text = self.embellished(text)
        text = text[0].upper() + text[1:] if r.random() < 0.25 else text
        return text + "." if r.random() < 0.1 else text

    def embellished(self, text: str) -> str:
        """With words around it that a model of this world has to pass over."""
        r = self.random
        before, after = ([self.stray() for _ in range(r.choice((0, 1, 2, 3)))] for _ in range(2))
        medium = r.choice(("", "", "a photograph of ", "a render of ", f"{r.choice(STRANGERS)} {r.choice(STRANGERS)} of "))
        return ", ".join([*before, medium + text, *after])

    def stray(self) -> str:
        r = self.random
        return r.choice(STYLES) if r.random() < 0.5 else " ".join(r.choices(STRANGERS, k=r.choice((1, 1, 2, 3))))

    def finish(self, subject: str, placed: list, top: int, bottom: int, where: str, counts: dict[int, int], simple: bool) -> Scene:
        r = self.random
        if not self.evaluation and r.random() < 0.10:
            caption = self.sentence(subject, "").strip(" ,")  # the background is left to the model
        else:
            caption = self.sentence(subject, where)
        return Scene(caption, on_grid(placed), top, bottom, r.randrange(2**31), simple, counts)

    def single(self, main: int, top: int, bottom: int, where: str) -> Scene:
        r = self.random
        size = r.choices(("small", "medium", "large"), (1, 6, 1))[0]
        side = r.uniform(*{"small": (46, 70), "medium": (92, 144), "large": (146, 176)}[size])
        subject, place = self.named(main, 1, size), (1, 1)
        if size != "large" and r.random() < 0.3:
            place = r.choice([*PLACES])
            side = min(side, 112)
            subject += " " + r.choice(PLACES[place])
        x, y = (self.along(slot, side) for slot in place)
        group = [word for word, members in GROUPS if main in members]
        if not self.evaluation and group and r.random() < 0.06:
            word = r.choice(group)
            subject = article(word) + word
        return self.finish(subject, [(main, x, y, side)], top, bottom, where, {main: 1}, place == (1, 1))

    def along(self, slot: int, side: float) -> float:
        """Centre of a sprite at the start, the middle or the end of an axis, somewhat at random."""
        free = CANVAS - side
        middle = side / 2 + free * (0.06, 0.5, 0.94)[slot]
        return middle + self.random.uniform(-1, 1) * min(12, free * 0.05)

    def count(self, main: int, top: int, bottom: int, where: str) -> Scene:
        count = self.random.choice((2, 2, 3, 3, 4))
        placed = self.scattered([main] * count)
        return self.finish(self.named(main, count), placed, top, bottom, where, {main: count}, True)

    def many(self, main: int, top: int, bottom: int, where: str) -> Scene:
        others = [s for s in self.random.sample(range(len(NAMES)), 3) if s != main and self.allowed(s, top, bottom)]
        chosen = [main, *others[: self.random.choice((2, 2, 3))]]
        *first, last = [self.named(sprite) for sprite in chosen]
        subject = f"{', '.join(first)} and {last}" if first else last
        return self.finish(subject, self.scattered(chosen), top, bottom, where, {s: 1 for s in chosen}, False)

    def scattered(self, chosen: list[int]) -> list[tuple[int, float, float, float]]:
        """Sprites of about one size that do not touch: in a row, or anywhere."""
        r = self.random
        count = len(chosen)
        side = r.uniform(*{1: (90, 140), 2: (78, 112), 3: (62, 82), 4: (54, 76)}[count])
        if r.random() < 0.5 and count < 4:
            step = CANVAS / count
            y = CANVAS / 2 + r.uniform(-24, 24)
            return [(s, step * (i + 0.5) + r.uniform(-3, 3), y + r.uniform(-6, 6), side * r.uniform(0.95, 1)) for i, s in enumerate(chosen)]
        while True:
            placed = []
            for s in chosen:
                for _ in range(30):
                    x, y = r.uniform(side / 2 + 4, CANVAS - side / 2 - 4), r.uniform(side / 2 + 4, CANVAS - side / 2 - 4)
                    if all(max(abs(x - px), abs(y - py)) > side * 1.04 for _, px, py, _ in placed):
                        placed.append((s, x, y, side))
                        break
            if len(placed) == count:
                return placed
            side *= 0.95

    def pair(self, main: int, top: int, bottom: int, where: str) -> Scene:
        r = self.random
        other = self.other(main, top, bottom)
        relation = r.choice([*RELATIONS])
        side = r.uniform(80, 116)
        near, far, across = (CANVAS * 0.25 + r.uniform(-5, 5), CANVAS * 0.75 + r.uniform(-5, 5), CANVAS / 2 + r.uniform(-26, 26))
        first, second = {"left": (near, far), "right": (far, near), "above": (near, far), "below": (far, near),
                         "beside": r.choice(((near, far), (far, near)))}[relation]
        jitter = r.uniform(-8, 8)
        if relation in ("above", "below"):
            placed = [(main, across, first, side), (other, across + jitter, second, side)]
        else:
            placed = [(main, first, across, side), (other, second, across + jitter, side)]
        subject = f"{self.named(main)} {r.choice(RELATIONS[relation])} {self.named(other)}"
        return self.finish(subject, placed, top, bottom, where, {main: 1, other: 1}, False)

    def other(self, main: int, top: int, bottom: int) -> int:
        while True:
            sprite = self.random.randrange(len(NAMES))
            if sprite != main and self.allowed(sprite, top, bottom):
                return sprite

    def corner(self, main: int, top: int, bottom: int, where: str) -> Scene:
        r = self.random
        other = self.other(main, top, bottom)
        place = r.choice([(0, 0), (2, 0), (2, 0), (0, 2), (2, 2)])
        small, side = r.uniform(50, 66), r.uniform(96, 120)
        x, y = (self.along(slot, small) for slot in place)
        centre = [CANVAS / 2 + (CANVAS / 2 - at) * 0.18 + r.uniform(-4, 4) for at in (x, y)]
        words = r.choice((*PLACES[place], "in the corner"))
        subject = f"{self.named(main)} {r.choice(('and', 'with'))} {self.named(other, 1, r.choice(('small', 'medium')))} {words}"
        return self.finish(subject, [(main, *centre, side), (other, x, y, small)], top, bottom, where, {main: 1, other: 1}, False)

    def sign(self, _main: int, top: int, bottom: int, where: str) -> Scene:
        r = self.random
        text = r.choice(WORDS) if r.random() < 0.5 else "".join(r.choices(LETTERS, k=r.choice((1, 2, 2, 3, 3, 4))))
        text = text[:5]
        letter, step = (64, 48) if len(text) < 4 else (48, 32)
        left = CANVAS / 2 - step * (len(text) - 1) / 2
        placed = [(SIGN, CANVAS / 2, CANVAS / 2, SIGN_SIDE)]
        placed += [(len(NAMES) + LETTERS.index(c), left + i * step, BOARD, letter) for i, c in enumerate(text)]
        quoted = r.choice((text, text, f'"{text}"', text.lower(), text.capitalize()))
        subject = r.choice(("a sign that says {}", "a sign saying {}", "a sign with the text {}", "a wooden sign that says {}", "{} on a sign"))
        scene = self.finish(subject.format(quoted), [], top, bottom, where, {}, False)
        scene.placed = placed
        return scene

    def dense(self, main: int, top: int, bottom: int, where: str) -> Scene:
        """As many sprites as there are slots, over one another: much to see for the autoencoder, nothing to caption."""
        r = self.random
        placed = [(r.randrange(SIGN + 1), r.uniform(20, CANVAS - 20), r.uniform(20, CANVAS - 20), r.uniform(50, 140)) for _ in range(SLOTS)]
        return Scene("", placed, top, bottom, r.randrange(2**31))

    def nothing(self, main: int, top: int, bottom: int, where: str) -> Scene:
        """Words that name nothing here: any scene will do."""
        scene = self.single(main, top, bottom, where)
        scene.caption = " ".join(self.random.choices(FILLERS + STRANGERS, k=self.random.randint(1, 8)))
        return scene
