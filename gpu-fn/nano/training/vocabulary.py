"""What nano knows: sprites of Noto Color Emoji with their names in CLDR, colours, and grounds.

    python -m training.vocabulary          writes sprites.npz (git-ignored) and ../vocabulary.json

Needs Debian's fonts-noto-color-emoji and unicode-cldr-core. A sprite's first word is the plain name below; CLDR's own name and
those of its keywords that point to one sprite alone are synonyms, and keywords of a few sprites ("flower", "bird") are groups.
"""

import json
import re
import xml.etree.ElementTree as ET
from collections import defaultdict
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

HERE = Path(__file__).parent
FONT = "/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf"
LETTER_FONT = "/usr/share/fonts/truetype/dejavu/DejaVuSans-Bold.ttf"
ANNOTATIONS = "/usr/share/unicode/cldr/common/{}/en.xml"
TEXTURE = 128

SPRITES = """
🐱 cat, 🐶 dog, 🐭 mouse, 🐰 rabbit, 🦊 fox, 🐻 bear, 🐼 panda, 🐨 koala, 🐯 tiger, 🦁 lion, 🐮 cow, 🐷 pig, 🐸 frog, 🐵 monkey,
🐤 chick, 🐧 penguin, 🦉 owl, 🦄 unicorn, 🐴 horse, 🐺 wolf, 🐔 chicken, 🐘 elephant, 🦒 giraffe, 🦓 zebra, 🐪 camel, 🦔 hedgehog,
🐢 turtle, 🐊 crocodile, 🐳 whale, 🐬 dolphin, 🐠 fish, 🦈 shark, 🐙 octopus, 🦀 crab, 🐌 snail, 🦋 butterfly, 🐝 bee, 🐞 ladybug,
🦕 dinosaur, 🦖 T-Rex, 🐉 dragon, 🐍 snake, 🦆 duck, 🦢 swan, 🦩 flamingo, 🦜 parrot, 🦅 eagle, 🦇 bat, 🐑 sheep, 🐿 squirrel,
🦚 peacock, 🍎 red apple, 🍏 green apple, 🍐 pear, 🍊 tangerine, 🍋 lemon, 🍌 banana, 🍉 watermelon, 🍇 grapes, 🍓 strawberry,
🍒 cherries, 🍑 peach, 🍍 pineapple, 🥝 kiwi, 🍅 tomato, 🥑 avocado, 🥕 carrot, 🌽 corn, 🥦 broccoli, 🌶 chili pepper, 🍞 bread,
🥐 croissant, 🧀 cheese, 🍕 pizza, 🍔 burger, 🍟 french fries, 🌭 hot dog, 🌮 taco, 🍳 fried egg, 🥞 pancakes, 🍣 sushi, 🍜 ramen,
🍩 donut, 🍪 cookie, 🎂 birthday cake, 🍰 slice of cake, 🧁 cupcake, 🍦 ice cream, 🍫 chocolate bar, 🍬 candy, 🍭 lollipop, 🍿 popcorn,
☕ cup of coffee, 🍺 beer, 🍷 glass of wine, 🍯 honey pot, 🥚 egg, 🌹 rose, 🌷 tulip, 🌻 sunflower, 🌸 cherry blossom, 🌺 hibiscus,
🌼 daisy, 💐 bouquet, 🌵 cactus, 🌴 palm tree, 🌲 pine tree, 🌳 tree, 🍀 clover, 🍁 maple leaf, 🍄 mushroom, 🚗 car, 🚕 taxi, 🚌 bus,
🚑 ambulance, 🚒 fire truck, 🚜 tractor, 🏎 racing car, 🏍 motorcycle, 🚲 bicycle, 🚂 train, ✈ airplane, 🚁 helicopter, 🚀 rocket,
⛵ sailboat, 🚢 ship, 🛸 UFO, 😀 smiley, 😂 laughing face, 😍 face in love, 😎 cool face, 😉 winking face, 😭 crying face,
😡 angry face, 😴 sleeping face, 🥳 party face, 🤔 thinking face, 🤖 robot, 👻 ghost, 👽 alien, 💀 skull, 🤡 clown, 💩 pile of poo,
🎃 jack-o-lantern, ⛄ snowman, 🎅 Santa Claus, ☀ sun, 🌙 moon, 🌕 full moon, ⭐ star, ☁ cloud, 🌧 rain cloud, ⚡ lightning bolt,
🌈 rainbow, ❄ snowflake, ☂ umbrella, 🌪 tornado, 🔥 fire, 💧 water drop, 🪐 planet, 🌍 globe, 🌊 wave, ❤ red heart, 🧡 orange heart,
💛 yellow heart, 💚 green heart, 💙 blue heart, 💜 purple heart, 🩷 pink heart, 🖤 black heart, 🤍 white heart, 💔 broken heart,
🔴 red circle, 🟡 yellow circle, 🟢 green circle, 🔵 blue circle, 🎈 balloon, 🎁 gift, 👑 crown, 💎 diamond, 💍 ring, 🔑 key,
🔒 lock, 🔔 bell, 📕 book, ✏ pencil, 🎨 palette, 📷 camera, 📱 phone, 💻 laptop, 📺 television, ⏰ alarm clock, 💡 light bulb,
🎸 guitar, 🎻 violin, 🎤 microphone, 🎧 headphones, ⚽ soccer ball, 🏀 basketball, 🎾 tennis ball, 🏆 trophy, 🧸 teddy bear, 🪁 kite,
🎩 top hat, 👓 glasses, 🎒 backpack, 🔨 hammer, ✂ scissors, 💣 bomb, ⏳ hourglass, 🏠 house, 🏰 castle, ⛺ tent, 🎡 ferris wheel,
🌋 volcano, 🏔 mountain, 🏝 island, ⚓ anchor, 🎄 Christmas tree, 🎲 die, 🎮 game controller, 🔮 crystal ball, 💰 money bag, 🫖 teapot
"""
COLOURS = {
    "red": (226, 54, 48), "orange": (250, 140, 22), "yellow": (252, 216, 60), "green": (62, 160, 72), "blue": (36, 104, 226),
    "light blue": (140, 210, 248), "purple": (138, 50, 172), "pink": (246, 150, 186), "brown": (118, 80, 62), "black": (18, 18, 22),
    "white": (250, 250, 250), "grey": (150, 152, 156), "teal": (10, 148, 138), "beige": (240, 220, 184),
}
GROUNDS = ("sky", "grass", "sea", "night", "sunset", "snow", "desert")
BACKGROUNDS = (*COLOURS, *GROUNDS)
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
# A keyword that names more sprites than this says nothing about a picture.
LARGEST_GROUP = 16
# Words that CLDR gives as keywords and that mean something else in a caption: colours, places, numbers.
NO_SYNONYMS = {
    *COLOURS, *GROUNDS, *"""4 four tool ocean water wise closed full open young art painting light pretty talk female proud soft cool ice glass
    space danger weather resort falling shedding sunny steam sand personal top bright cold hot comic geometric european mexican french break
    fly soar break cutting stuffed wrapped flamboyant ostentatious baby bearer ear joy passenger roll plant cream death evil wicked idea
    spots stripe hump spiny steaming electric tear eye drop sweat father""".split(),
}


def sprites() -> list[tuple[str, str]]:
    """Pairs of emoji and plain name; a position in this list is the sprite's index everywhere."""
    return [tuple(entry.strip().split(" ", 1)) for entry in SPRITES.replace("\n", " ").split(",")]


def annotations() -> tuple[dict[str, str], dict[str, list[str]]]:
    """CLDR's name and keywords of every emoji, without variation selectors."""
    names, keywords = {}, {}
    for folder in ("annotations", "annotationsDerived"):
        for node in ET.parse(ANNOTATIONS.format(folder)).iter("annotation"):
            emoji = node.get("cp").replace("\ufe0f", "")
            if node.get("type") == "tts":
                names[emoji] = node.text
            else:
                keywords[emoji] = node.text.split(" | ")
    return names, keywords


def vocabulary() -> dict:
    names, keywords = annotations()
    pointed = defaultdict(set)
    plain = {name for _, name in sprites()}
    for index, (emoji, name) in enumerate(sprites()):
        for word in {names.get(emoji, name), *keywords.get(emoji, [])}:
            if word not in plain and word.lower() not in NO_SYNONYMS:
                pointed[word].add(index)
    synonyms = defaultdict(list)
    for word, indices in sorted(pointed.items()):
        if len(indices) == 1:
            synonyms[next(iter(indices))].append(word)
    groups = {word: sorted(indices) for word, indices in sorted(pointed.items()) if 2 <= len(indices) <= LARGEST_GROUP}
    for index, (_, name) in enumerate(sprites()):
        last = name.split()[-1]
        if last not in plain and " " in name and sum(other.endswith(f" {last}") for other in plain) > 1:
            groups[last] = sorted({*groups.get(last, []), index})
    listed = [{"name": name, "emoji": emoji, "words": [name, *synonyms[i]]} for i, (emoji, name) in enumerate(sprites())]
    return {"sprites": listed, "groups": groups, "backgrounds": list(BACKGROUNDS), "colours": COLOURS}


def english() -> list[str]:
    """The words of CLDR's names and keywords of all emoji."""
    names, keywords = annotations()
    return sorted({word for text in [*names.values(), *sum(keywords.values(), [])] for word in re.findall(r"\b[a-z]{4,}\b", text)})


def centred(image: Image.Image, size: int = TEXTURE) -> np.ndarray:
    """RGBA uint8 [size, size, 4] with what is visible in the middle, one pixel of air at the sides at least."""
    visible = image.crop(image.getbbox())
    scale = (size - 4) / max(visible.size)
    visible = visible.resize([round(side * scale) for side in visible.size], Image.Resampling.LANCZOS)
    canvas = Image.new("RGBA", (size, size))
    canvas.paste(visible, [(size - side) // 2 for side in visible.size])
    return np.asarray(canvas)


def draw_emoji(emoji: str) -> np.ndarray:
    image = Image.new("RGBA", (160, 160))
    font = ImageFont.truetype(FONT, 109)  # the size of the font's bitmaps
    ImageDraw.Draw(image).text((8, 8), emoji, font=font, embedded_color=True)
    return centred(image)


def draw_letter(letter: str) -> np.ndarray:
    """A letter at its own height: all stand on one line, so they are not centred by what is visible."""
    image = Image.new("RGBA", (TEXTURE, TEXTURE))
    font = ImageFont.truetype(LETTER_FONT, 122)
    ImageDraw.Draw(image).text((TEXTURE / 2, TEXTURE / 2), letter, font=font, anchor="mm", fill=(40, 32, 28, 255))
    return np.asarray(image)


def draw_sign() -> np.ndarray:
    """A board on a post, twice as wide as high: letters are put on it."""
    image = Image.new("RGBA", (4 * TEXTURE, 4 * TEXTURE))
    draw = ImageDraw.Draw(image)
    draw.rectangle((236, 290, 276, 508), fill=(121, 85, 60, 255))
    draw.rounded_rectangle((8, 60, 503, 308), 28, fill=(141, 98, 66, 255))
    draw.rounded_rectangle((26, 78, 485, 290), 18, fill=(255, 246, 220, 255))
    return np.asarray(image.resize((TEXTURE, TEXTURE), Image.Resampling.LANCZOS))


def main() -> None:
    textures = [*(draw_emoji(emoji) for emoji, _ in sprites()), *(draw_letter(letter) for letter in LETTERS), draw_sign()]
    np.savez_compressed(HERE / "sprites.npz", textures=np.stack(textures), english=english())
    (HERE.parent / "vocabulary.json").write_text(json.dumps(vocabulary(), ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
