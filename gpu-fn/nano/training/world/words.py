"""Words for sprites: CLDR names and keywords, WordNet synonyms, hyponyms and classes, and a few of our own.

A word for a single sprite is its synonym; a word for several (up to `LARGEST_GROUP`) is a group: "a bird" is any bird.
"""

import re
import xml.etree.ElementTree as ET
from collections import Counter, defaultdict

from .drawing import ROOT
from .wordnet import Nouns

ANNOTATIONS = "usr/share/unicode/cldr/common/{}/en.xml"
LARGEST_GROUP = 16
# The WordNet domains (lexicographer files) of each category's nouns.
DOMAINS = {"animal": (5,), "food": (13, 20, 6), "plant": (20,), "vehicle": (6,), "people": (18,), "weather": (17, 19, 27), "object": (6, 17, 21, 10),
           "building": (6, 15), "music": (6,), "sport": (6,), "clothing": (6,)}
# Common class names: a category stands for all its sprites, a list for its members, and any other entry for the word's hyponyms in a category.
CLASS_CATEGORIES = {"animal": "animal", "food": "food", "plant": "plant", "vehicle": "vehicle", "person": "people",}
CLASS_LISTS = {
    "building": "house, castle, temple, office building, hospital, hotel, school, factory, church, mosque",
    "instrument": "guitar, violin, saxophone, accordion, piano, trumpet, banjo, drum, flute",
    "musical instrument": "guitar, violin, saxophone, accordion, piano, trumpet, banjo, drum, flute",
    "bird": "chick, penguin, owl, chicken, duck, swan, flamingo, parrot, eagle, peacock, turkey, rooster, bird, dove, dodo, goose",
    "insect": "butterfly, bee, ladybug, ant, beetle, cricket, cockroach, mosquito, fly", "bug": "ladybug, beetle, caterpillar, ant, bee",
    "fruit": "red apple, green apple, pear, tangerine, lemon, banana, watermelon, grapes, strawberry, cherries, peach, pineapple, kiwi, melon, mango, coconut",
    "vegetable": "carrot, corn, broccoli, eggplant, potato, bell pepper, cucumber, lettuce, onion", "apple": "red apple, green apple",
    "flower": "rose, tulip, sunflower, cherry blossom, hibiscus, daisy, hyacinth, lotus", "boat": "sailboat, canoe, speedboat, ferry, motorboat",
    "furniture": "couch, chair, bed", "hat": "top hat, sun hat, baseball cap", "shoes": "shoe, sneaker", "toy": "teddy bear, kite, yo-yo, nesting doll",
    "drink": "cup of coffee, beer, glass of wine, glass of milk, cup of tea, soda, juice box", "dessert": "ice cream, donut, slice of cake, cupcake, pie, pudding",
    "reptile": "turtle, crocodile, snake, lizard", "dinosaur": "dinosaur, T-Rex", "tool": "hammer, saw, wrench, screwdriver, axe",
    "ball": "soccer ball, basketball, tennis ball, volleyball", "clock": "alarm clock, mantel clock", "lamp": "light bulb, candle, flashlight",
    "face": "smiley, laughing face, cool face, winking face, crying face, angry face", "pet": "cat, dog, rabbit, hamster, parrot", "big cat": "tiger, lion, leopard",
    "weapon": "dagger, bow and arrow, crossed swords", "sea creature": "octopus, crab, whale, dolphin, shark, squid, lobster",
}
OURS = {
    "dog": "puppy, pup, doggy, hound", "cat": "kitten, kitty", "couch": "sofa, settee", "rabbit": "bunny, hare",
    "horse": "pony, foal, mare", "cow": "calf, cattle", "car": "automobile, sedan", "racing car": "sports car, race car, supercar",
    "motorcycle": "motorbike", "bicycle": "bike", "airplane": "plane, aeroplane, jet", "burger": "hamburger, cheeseburger",
    "donut": "doughnut", "television": "TV", "phone": "smartphone, cell phone, mobile phone, iphone", "ship": "steamer",
    "sailboat": "yacht, sailing boat", "truck": "lorry", "house": "cottage, home", "tree": "oak", "pine tree": "fir, spruce, evergreen",
    "chick": "baby chick, duckling", "sheep": "lamb", "chicken": "hen", "pig": "piglet, hog", "bear": "grizzly, grizzly bear",
    "laptop": "notebook, computer", "ladybug": "ladybird", "subway": "metro, underground train", "jack-o-lantern": "pumpkin",
    "spaghetti": "pasta, noodles", "birthday cake": "cake", "cup of coffee": "coffee, cappuccino, espresso", "beer": "pint",
    "glass of wine": "wine", "soda": "cola, lemonade", "wizard": "magician, sorcerer", "astronaut": "spaceman, cosmonaut",
    "baby": "infant, toddler", "man": "guy, gentleman", "woman": "lady", "boy": "lad", "girl": "lass", "police officer": "policeman, cop",
    "cook": "chef", "doctor": "physician, nurse", "programmer": "developer, software engineer", "firefighter": "fireman",
    "bride": "woman in a wedding dress", "cowboy": "cowboy face", "T-Rex": "tyrannosaurus", "UFO": "flying saucer, spaceship, alien ship",
    "rocket": "space rocket, rocket ship", "gravestone": "tombstone, headstone", "trash can": "garbage can, dustbin",
    "computer": "desktop, monitor, PC", "sneaker": "trainer, running shoe", "temple": "museum", "shop": "store, market",
    "office building": "skyscraper", "haunted house": "ruin", "lips": "kiss", "cup of tea": "tea", "glass of milk": "milk",
    "bowl of rice": "rice", "chicken leg": "drumstick", "stew": "soup", "theater masks": "mask", "pufferfish": "blowfish",
    "donkey": "mule", "hippopotamus": "hippo", "rhinoceros": "rhino", "crocodile": "alligator", "turtle": "tortoise",
    "whale": "orca, humpback", "tram": "streetcar", "lifebuoy": "life, ring", "water pistol": "squirt, gun", "wheat": "grain",
    "gift": "present, wrapped gift", "die": "dice, cube", "suitcase": "luggage", "piano": "grand piano", "drum": "drums",
    "trumpet": "cornet", "violin": "fiddle", "fire": "campfire, bonfire, flame", "potted plant": "houseplant",
    "smiley": "smiley face, happy face", "devil": "demon", "moon": "crescent, crescent moon", "bed": "bunk", "chair": "stool",
    "door": "gate", "tower": "Tokyo tower", "teddy bear": "teddy, stuffed bear", "wave": "big wave, sea wave",
}
# Keywords with another meaning in captions: colors, places, sizes, numbers, parts and actions.
NO_SYNONYMS = set("""4 four tool ocean water wise closed full open young art painting light pretty talk female proud soft cool ice glass space danger weather
resort falling shedding sunny steam sand personal top bright cold hot comic geometric european mexican french break fly soar cutting stuffed
wrapped flamboyant ostentatious ear joy passenger roll cream death evil wicked idea spots stripe hump spiny steaming electric tear eye drop sweat
father red orange yellow green blue purple pink brown black white grey gray teal beige gold golden silver wooden stone sky grass sea night sunset
snow desert mountains lake forest beach city room underwater field road storm pixel watercolor neon sepia line drawing vapor sign banner
three two five six one big small tiny huge little large medium left right above under below behind on in and love face person man woman people
body hand dark summer winter sun moon star heart circle square diamond triangle old new nature country house building place white flower
good bad happy sad angry work job health doctor body farming winning round long thin fast slow flat half pair game sport play music sound
color colour picture image frame dress style hold holding wear wearing eat eating ride riding stop go safe safety luck lucky magic power energy
communication activity mobile cell computer office business money time information technology science medicine mail post book writing award
prize event celebration party holiday food drink meal dinner lunch breakfast restaurant cooking vegetable fruit animal pet bird insect fish bug
vehicle car train boat plane travel traffic transport tools clothing clothes shoe hat weapon instrument sports ball plant tree leaf cloud rain
monster creature fantasy fairy tale zodiac symbol mark tropical sweet dessert bar bag pot cup bottle box bowl spoon plate soup slice japanese chinese
cur male dam kidney sheaf iron missile shipwreck bearer auto turn flight down smoking pick grave vest hoop seat legacy john privy password bill
noodle game jack hashi hocho amphora straw chest scale wall instrument birdie eight gun handgun revolver gem bathing sandals lamp forte-piano
lobscuse bequest donation dowry bomber lumber proverb reflection reflector speculum split curve crook cask opening fresh letter note email
awning parasite wool maze empty biologist sauce motor voltage puck life spouting love engine fork stick mark pan pine flavoring sewing video cream pamphlet
lightning pickup dollar movie condiment attraction balance treasure life metro-station convenience construction station derelict kerchief
middle cut tail horns buff rod pitch grid chain key sick tropics drum fall field hook log park ring rock shell string table tower wheel pen""".split())


def read_annotations() -> tuple[dict[str, str], dict[str, list[str]]]:
    """CLDR's name and keywords of every emoji, without variation selectors."""
    names, keywords = {}, {}
    for folder in ("annotations", "annotationsDerived"):
        for node in ET.parse(ROOT / ANNOTATIONS.format(folder)).iter("annotation"):
            emoji = node.get("cp").replace("\ufe0f", "")
            if node.get("type") == "tts":
                names[emoji] = node.text
            else:
                keywords[emoji] = node.text.split(" | ")
    return names, keywords


def english() -> list[str]:
    """The words of CLDR's names and keywords of all emoji."""
    names, keywords = read_annotations()
    return sorted({word for text in [*names.values(), *sum(keywords.values(), [])] for word in re.findall(r"\b[a-z]{4,}\b", text)})


def main_sense(nouns: Nouns, name: str, category: str) -> int | None:
    """The sense of a sprite's name, or of its last word, in the domains of its category."""
    for word in (name, name.split()[-1], name.split(" of ")[-1], name.rstrip("s")):
        for offset in nouns.senses(word):
            if nouns.at[offset].domain in DOMAINS.get(category, ()):
                return offset
    return None


def is_noun_of(nouns: Nouns, word: str, category: str) -> bool:
    """Whether a keyword names an object of the category rather than a quality or place."""
    return any(nouns.at[offset].domain in DOMAINS.get(category, ()) for offset in nouns.senses(word)[:3])


def wordnet_words(nouns: Nouns, name: str, category: str) -> set[str]:
    """Synonyms and hyponyms of the name ("spruce" for pine tree), limited to lemmas that occur more than once in WordNet's tagged texts.

    Excludes people: WordNet's hyponyms of man and woman are value judgments.
    """
    offset = main_sense(nouns, name, category)
    if category == "people" or offset is None or name.lower() not in {lemma.lower() for lemma in nouns.at[offset].lemmas}:
        return set()
    return {lemma for each in (offset, *nouns.at[offset].hyponyms) for lemma in nouns.at[each].lemmas
            if nouns.senses(lemma)[:1] == [each] and nouns.frequency[lemma, nouns.at[each].domain] > 1 and re.fullmatch(r"[a-z]{3,}( [a-z]+)?", lemma)}


def find_words(sprites: list[tuple[str, str, str]]) -> tuple[list[list[str]], dict[str, list[int]]]:
    """The synonyms of every sprite, and groups: word → indices."""
    names, keywords = read_annotations()
    nouns, plain = Nouns(), {name.lower() for _, name, _ in sprites}
    ours = {word: name for name, words in OURS.items() for word in words.split(", ")}
    pointed = defaultdict(set)
    for index, (emoji, name, category) in enumerate(sprites):
        emoji = emoji.replace("\ufe0f", "")
        known = {word for word in keywords.get(emoji, []) if is_noun_of(nouns, word, category)} | {names.get(emoji, name)}
        for word in known | wordnet_words(nouns, name, category):
            if word.lower() not in plain | NO_SYNONYMS and word not in ours and re.fullmatch(r"[A-Za-z-]{3,}( [A-Za-z-]+){0,2}", word):
                pointed[word].add(index)
    for word, name in ours.items():
        if word in plain:  # "computer" is a laptop only as long as it has no sprite of its own
            continue
        pointed[word] = {index for index, (_, each, _) in enumerate(sprites) if each == name}
    synonyms = [sorted(word for word, indices in pointed.items() if indices == {index}) for index in range(len(sprites))]
    return synonyms, find_groups(nouns, sprites, pointed, plain)


def find_groups(nouns: Nouns, sprites: list[tuple[str, str, str]], pointed: dict[str, set[int]], plain: set[str]) -> dict[str, list[int]]:
    """Our classes, CLDR keywords shared by a few sprites of one category, and shared last words of names ("heart")."""
    index = {name: i for i, (_, name, _) in enumerate(sprites)}
    groups = {}
    for word, indices in pointed.items():
        category = {sprites[i][2] for i in indices}
        if 2 <= len(indices) <= LARGEST_GROUP and len(category) == 1 and is_noun_of(nouns, word, *category):
            groups[word] = set(indices)
    for word, count in Counter(name.split()[-1] for _, name, _ in sprites if " " in name).items():
        if count > 1 and word not in plain and word.isalpha():
            groups[word] = {i for i, (_, name, _) in enumerate(sprites) if name.split()[-1] == word}
    groups |= {word: {i for i, (_, _, each) in enumerate(sprites) if each == category} for word, category in CLASS_CATEGORIES.items()}
    groups |= {word: {index[name] for name in members.split(", ") if name in index} for word, members in CLASS_LISTS.items()}
    return {word: sorted(indices) for word, indices in sorted(groups.items()) if len(indices) > 1}
