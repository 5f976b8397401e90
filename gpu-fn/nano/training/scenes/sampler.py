"""Draws scenes with captions from one random stream."""

import json
import random
from dataclasses import replace

from ..world.drawing import LETTERS
from ..world.phrases import (ADJECTIVES, BANNER_PHRASES, COLOR_NAMES, COLOR_PHRASES, FILLERS, GRADIENT_PHRASES, GROUND_PHRASES, HATS, LANDED, LANDSCAPES, MADE_OF,
                      MOUNTS, NUMBERS, PLACES, PLURALS, PREFIXES, RELATIONS, SIGN_PHRASES, SIGN_WORDS, SIZES, STRAYS, STYLE_PHRASES, SUFFIXES, UNCOUNTED,
                      article, find_strangers, plural)
from ..world.vocabulary import BACKGROUNDS, CATEGORIES, COLORS, FIRST, MATERIALS, NAMES, NEW_GROUNDS, OLD_GROUNDS, STYLES, TINTS, VOCABULARY
from .scene import BANNER, BOARD, NATIVE, SIGN, SIGN_SIDE, SLOTS, Placed, Scene, held_out, on_grid, relate, scatter

ENTRIES = json.loads(VOCABULARY.read_text(encoding="utf-8"))
SYNONYMS = [entry["words"][1:] for entry in ENTRIES["sprites"]]
GROUPS = [(word, members) for word, members in ENTRIES["groups"].items()]
TAKES_COLOR = [entry["takesColor"] for entry in ENTRIES["sprites"]]
STRANGERS = find_strangers([word for entry in ENTRIES["sprites"] for word in entry["words"]] + [word for word, _ in GROUPS])
INDEX = {name: i for i, name in enumerate(NAMES)}
RIDERS = [i for i, category in enumerate(CATEGORIES) if category in ("animal", "people", "face")]
KINDS = {"single": 40, "count": 12, "mixed": 9, "pair": 20, "corner": 3, "many": 4, "sign": 6, "landscape": 3, "partly": 2, "nothing": 1}
TINT_NAMES = [*TINTS]
LATER = [i for i, name in enumerate(NAMES) if name not in FIRST]
LATER_SHARE = 0.2


class Sampler:
    """`evaluation` inverts the held-out rule: only compositions excluded from training."""

    def __init__(self, seed: int, evaluation: bool = False, canvas: tuple[int, int] = NATIVE):
        self.random = random.Random(seed)
        self.evaluation, self.canvas = evaluation, canvas

    def scene(self, kind: str | None = None) -> Scene:
        r = self.random
        kinds = KINDS if self.canvas == NATIVE else {kind: share for kind, share in KINDS.items() if kind != "sign"}
        kind = kind or r.choices([*kinds], [*kinds.values()])[0]
        while True:
            main = self.sprite()
            top, bottom, where = self.background()
            if self.drawn(main, top, bottom):
                break
        return getattr(self, kind)(main, top, bottom, where)

    def sprite(self) -> int:
        """Uniform in evaluation; in training, biased toward sprites unknown to the initial weights."""
        r = self.random
        return r.choice(LATER) if LATER and not self.evaluation and r.random() < LATER_SHARE else r.randrange(len(NAMES))

    def drawn(self, main: int, top: int, bottom: int) -> bool:
        """Whether a composition belongs to the current set: held-out ones in evaluation, all others in training."""
        return (not self.evaluation or held_out(main, top)) and self.allowed(main, top, bottom)

    def allowed(self, sprite: int, top: int, bottom: int) -> bool:
        """Excludes sprites on a background of their own color and, in training, held-out pairs."""
        seen = NAMES[sprite].split()[0] not in f"{BACKGROUNDS[top]} {BACKGROUNDS[bottom]}".split()
        return seen and (self.evaluation or not held_out(sprite, top))

    # Words

    def background(self) -> tuple[int, int, str]:
        """Indices of the backgrounds at the top and at the bottom, and the words for them."""
        r = self.random
        kind = r.random()
        if kind < 0.55:
            ground = r.choice(OLD_GROUNDS if kind < 0.2 else NEW_GROUNDS)
            return BACKGROUNDS.index(ground), BACKGROUNDS.index(ground), r.choice(GROUND_PHRASES[ground])
        if kind < 0.9:
            color = r.choice([*COLORS])
            return BACKGROUNDS.index(color), BACKGROUNDS.index(color), r.choice(COLOR_PHRASES).format(self.color(color))
        first, second = r.sample([*COLORS], 2)
        return BACKGROUNDS.index(first), BACKGROUNDS.index(second), r.choice(GRADIENT_PHRASES).format(self.color(first), self.color(second))

    def color(self, name: str) -> str:
        return name if self.evaluation else self.random.choice((name, name, *COLOR_NAMES.get(name, (name,))))

    def tint(self, sprite: int, top: int, bottom: int, share: float) -> int:
        """A tint that differs from the background; −1 for the original color."""
        r = self.random
        if not TAKES_COLOR[sprite] or r.random() >= share:
            return -1
        return r.choice([i for i, name in enumerate(TINT_NAMES) if name not in (BACKGROUNDS[top], BACKGROUNDS[bottom], "light blue", "beige")])

    def noun(self, sprite: int) -> str:
        r = self.random
        if self.evaluation or r.random() > 0.25 or not SYNONYMS[sprite]:
            return NAMES[sprite]
        return r.choice(SYNONYMS[sprite])

    def named(self, placed: Placed, count: int = 1, size: str = "") -> str:
        """Noun phrase for one or more of a sprite, such as "a small cat" or "three red cars"."""
        r = self.random
        noun = self.noun(placed.sprite)
        loose = r.choice(ADJECTIVES) if not self.evaluation and not size and r.random() < 0.5 else ""
        tint = TINT_NAMES[placed.tint] if placed.tint >= 0 else ""
        made = tint in MADE_OF and not self.evaluation and r.random() < 0.3
        words = " ".join(filter(None, (size, loose, "" if made or not tint else self.color(tint), noun if count == 1 else plural(noun))))
        words += f" made of {MADE_OF[tint]}" if made else ""
        if count > 1:
            return f"{r.choice(NUMBERS[count])} {words}"
        if NAMES[placed.sprite] in PLURALS | UNCOUNTED or (not self.evaluation and r.random() < 0.12):
            return words
        return f"the {words}" if not self.evaluation and r.random() < 0.06 else article(words) + words

    def sentence(self, subject: str, where: str, style: int) -> str:
        """Combines subject and background in a natural order, with the noise of real prompts."""
        r = self.random
        if self.evaluation:
            text = f"{subject} {where}" if where[-10:] != "background" or where.startswith(("on", "with", "ag")) else f"{subject}, {where}"
            return r.choice(STYLE_PHRASES[STYLES[style]]).format(text) if style >= 0 else text
        if r.random() < 0.12:
            text = f"{subject}, {where}" if r.random() < 0.6 else f"{where}, {subject}"
        else:
            text = f"{subject} {where}"
        text = text.strip(" ,")
        text = r.choice(STYLE_PHRASES[STYLES[style]]).format(text) if style >= 0 else r.choice(PREFIXES) + text + r.choice(SUFFIXES)
        if r.random() < 0.10:
            words = text.split(" ")
            for _ in range(r.randint(1, 3)):
                words.insert(r.choice((0, len(words))), r.choice(FILLERS))
            text = " ".join(words)
        if r.random() < 0.2:
            text = self.embellished(text)
        text = text[0].upper() + text[1:] if r.random() < 0.25 else text
        return text + "." if r.random() < 0.1 else text

    def embellished(self, text: str) -> str:
        """Adds surrounding words that the model must ignore."""
        r = self.random
        before, after = ([self.stray() for _ in range(r.choice((0, 1, 2, 3)))] for _ in range(2))
        medium = r.choice(("", "", "a photograph of ", "a render of ", f"{r.choice(STRANGERS)} {r.choice(STRANGERS)} of "))
        return ", ".join([*before, medium + text, *after])

    def stray(self) -> str:
        r = self.random
        return r.choice(STRAYS) if r.random() < 0.5 else " ".join(r.choices(STRANGERS, k=r.choice((1, 1, 2, 3))))

    # Scenes

    def finish(self, subject: str, placed: list[Placed], top: int, bottom: int, where: str, counts: dict[int, int], simple: bool = False, **more) -> Scene:
        r = self.random
        style = r.randrange(len(STYLES)) if not self.evaluation and r.random() < 0.06 else -1
        said = where if self.evaluation or r.random() >= 0.08 else ""  # else the background is left to the model
        if BACKGROUNDS[top] in LANDED:
            placed = [replace(p, shadow=p.sprite < SIGN and p.y + p.side / 2 > 0.68 * self.canvas[1]) for p in placed]
        tints = {p.sprite: p.tint for p in placed if p.tint >= 0}
        caption = self.sentence(subject, said, style)
        return Scene(caption, placed, top, bottom, r.randrange(2**31), style, simple and not tints, counts, tints, canvas=self.canvas, **more)

    def single(self, main: int, top: int, bottom: int, where: str) -> Scene:
        r = self.random
        side = r.choices((48, 64, 96, 128, 160, 192), (3, 6, 30, 30, 7, 3))[0]
        thing = Placed(main, 0, 0, side, self.tint(main, top, bottom, 0.45))
        word = r.choice(SIZES[side]) if side in SIZES else ""
        subject, place = self.named(thing, 1, word), (1, 1)
        if 48 < side < 160 and r.random() < 0.25:
            place = r.choice([*PLACES])
            thing.side = min(side, 96)
            subject += " " + r.choice(PLACES[place])
        group = [word for word, members in GROUPS if main in members]
        if not self.evaluation and group and thing.tint < 0 and not word and r.random() < 0.06:
            word = r.choice(group)
            subject = article(word) + word
        thing.x, thing.y = (self.along(slot, thing.side, length) for slot, length in zip(place, self.canvas))
        if place == (1, 1) and BACKGROUNDS[top] in LANDED:
            thing.y = self.canvas[1] * r.uniform(0.84, 0.94) - thing.side / 2
        return self.finish(subject, on_grid([thing], self.canvas), top, bottom, where, {main: 1}, place == (1, 1))

    def along(self, slot: int, side: float, length: int) -> float:
        """Center of a sprite at the start, middle or end of an axis, with jitter."""
        free = length - side
        return side / 2 + free * (0.06, 0.5, 0.94)[slot] + self.random.uniform(-1, 1) * min(12, free * 0.05)

    def count(self, main: int, top: int, bottom: int, where: str) -> Scene:
        r = self.random
        if NAMES[main] in PLURALS | UNCOUNTED:
            return self.single(main, top, bottom, where)
        count = r.choice((2, 2, 2, 3, 3, 3, 4, 4, 5, 6))
        thing = Placed(main, 0, 0, 0, self.tint(main, top, bottom, 0.2))
        return self.finish(self.named(thing, count), scatter(r, [thing] * count, self.canvas), top, bottom, where, {main: count}, True)

    def mixed(self, main: int, top: int, bottom: int, where: str) -> Scene:
        """Several of one kind and some of another."""
        r = self.random
        other = self.other(main, top, bottom)
        counts = [r.choice((2, 2, 3, 3, 4)), r.choice((1, 1, 2, 3))]
        counts[1] = min(counts[1], 6 - counts[0])
        r.shuffle(counts)
        things = [Placed(sprite, 0, 0, 0, self.tint(sprite, top, bottom, 0.12)) for sprite in (main, other)]
        counts = [1 if NAMES[thing.sprite] in PLURALS | UNCOUNTED else count for thing, count in zip(things, counts)]
        placed = [thing for thing, count in zip(things, counts) for _ in range(count)]
        subject = f"{self.named(things[0], counts[0])} {r.choice(('and', 'and', 'with', 'next to'))} {self.named(things[1], counts[1])}"
        return self.finish(subject, scatter(r, placed, self.canvas), top, bottom, where, {main: counts[0], other: counts[1]})

    def many(self, main: int, top: int, bottom: int, where: str) -> Scene:
        others = {self.other(main, top, bottom) for _ in range(self.random.choice((2, 2, 3)))}
        things = [Placed(sprite, 0, 0, 0, self.tint(sprite, top, bottom, 0.1)) for sprite in (main, *sorted(others))]
        *first, last = [self.named(thing) for thing in things]
        subject = f"{', '.join(first)} and {last}"
        return self.finish(subject, scatter(self.random, things, self.canvas), top, bottom, where, {thing.sprite: 1 for thing in things})

    def other(self, main: int, top: int, bottom: int) -> int:
        while True:
            sprite = self.sprite()
            if sprite != main and self.allowed(sprite, top, bottom):
                return sprite

    def pair(self, main: int, top: int, bottom: int, where: str) -> Scene:
        r = self.random
        relation = r.choices([*RELATIONS], [3, 3, 3, 3, 5, 4, 3, 2, 2, 2])[0]
        if relation in ("riding", "wearing") and main not in RIDERS:
            riders = [sprite for sprite in RIDERS if self.drawn(sprite, top, bottom)]
            main, relation = (r.choice(riders), relation) if riders else (main, "beside")
        other = self.other(main, top, bottom)
        fitting = {"riding": MOUNTS, "wearing": HATS}.get(relation)
        if fitting:
            other = r.choice([INDEX[name] for name in fitting if name in INDEX and INDEX[name] != main])
        things = [Placed(sprite, 0, 0, 0, self.tint(sprite, top, bottom, 0.2)) for sprite in (main, other)]
        subject = f"{self.named(things[0])} {r.choice(RELATIONS[relation])} {self.named(things[1])}"
        return self.finish(subject, relate(r, relation, *things, self.canvas), top, bottom, where, {main: 1, other: 1}, relation=relation)

    def corner(self, main: int, top: int, bottom: int, where: str) -> Scene:
        r = self.random
        place = r.choice([(0, 0), (2, 0), (2, 0), (0, 2), (2, 2)])
        small = Placed(self.other(main, top, bottom), *(self.along(slot, 64, length) for slot, length in zip(place, self.canvas)), 64)
        width, height = self.canvas
        thing = Placed(main, width / 2 + (width / 2 - small.x) * 0.18, height / 2 + (height / 2 - small.y) * 0.18, r.choice((96, 96, 80)))
        size = r.choice(("small", "small", "little", ""))
        subject = f"{self.named(thing)} {r.choice(('and', 'with'))} {self.named(small, 1, size)} {r.choice((*PLACES[place], 'in the corner'))}"
        return self.finish(subject, on_grid([thing, small], self.canvas), top, bottom, where, {main: 1, small.sprite: 1})

    def sign(self, _main: int, top: int, bottom: int, where: str) -> Scene:
        r = self.random
        text = r.choice(SIGN_WORDS) if r.random() < 0.5 else "".join(r.choices(LETTERS, k=r.choice((1, 2, 2, 3, 3, 3, 4, 4, 5, 6, 7, 8))))
        font, board = r.randrange(3), r.choice((SIGN, SIGN, BANNER))
        letter, step = (64, 48) if len(text) < 4 else (48, 32) if len(text) < 6 else (32, 24)
        left = 128 - step * (len(text) - 1) / 2
        placed = [Placed(board, 128, 128, SIGN_SIDE)]
        placed += [Placed(len(NAMES) + 26 * font + LETTERS.index(c), left + i * step, BOARD, letter) for i, c in enumerate(text)]
        quoted = r.choice((text, text, f'"{text}"', f'"{text}"', text.lower(), text.capitalize()))
        subject = r.choice(SIGN_PHRASES if board == SIGN else BANNER_PHRASES).format(quoted)
        return self.finish(subject, placed, top, bottom, where, {}, text=text)

    def landscape(self, _main: int, top: int, bottom: int, where: str) -> Scene:
        """A ground without objects."""
        words = self.random.choice(LANDSCAPES[BACKGROUNDS[top]]) if BACKGROUNDS[top] in LANDSCAPES else where.removeprefix("on ").removeprefix("with ")
        scene = self.finish(words, [], top, bottom, "", {})
        return scene

    def partly(self, main: int, top: int, bottom: int, where: str) -> Scene:
        """A known and an unknown object; only the known one is drawn."""
        r = self.random
        thing, stranger = Placed(main, self.canvas[0] / 2, self.canvas[1] / 2, r.choice((96, 128))), r.choice(STRANGERS)
        parts = [self.named(thing), article(stranger) + stranger]
        r.shuffle(parts)
        subject = f" {r.choice(('and', 'with', 'next to', 'of', 'for'))} ".join(parts)
        return self.finish(subject, on_grid([thing], self.canvas), top, bottom, where, {main: 1})

    def nothing(self, _main: int, top: int, bottom: int, where: str) -> Scene:
        """Unknown words only: draws the named ground, or a random one."""
        words = " ".join(self.random.choices(STRANGERS, k=self.random.choice((1, 1, 2, 3))))
        return self.finish(article(words) + words, [], top, bottom, where, {})

    def dense(self, main: int, top: int, bottom: int, where: str) -> Scene:
        """Many overlapping sprites: detailed training data for the autoencoder, without a caption."""
        r = self.random
        width, height = self.canvas
        tint = lambda sprite: self.tint(sprite, top, bottom, 0.3) if sprite < len(NAMES) else -1
        sprites = [r.randrange(BANNER + 1) for _ in range(SLOTS - 3)]
        placed = [Placed(sprite, r.uniform(20, width - 20), r.uniform(20, height - 20), r.uniform(45, 140), tint(sprite)) for sprite in sprites]
        return Scene("", placed, top, bottom, r.randrange(2**31), r.randrange(len(STYLES)) if r.random() < 0.06 else -1, canvas=self.canvas)


assert set(MATERIALS) == set(MADE_OF)
