"""Caption phrases for numbers, sizes, places, relations, colors, grounds and styles."""

import re

import numpy as np

from .vocabulary import BACKGROUNDS, COLORS, GROUNDS, TEXTURES

# Never counted: their names are already plural.
PLURALS = {"grapes", "cherries", "pancakes", "french fries", "glasses", "scissors", "headphones", "paw prints", "blueberries", "peanuts", "beans", "eyes",
           "chopsticks", "fallen leaves", "green leaves", "sparkles", "letters ZZZ", "fireworks", "crossed swords", "chains", "scales", "bubbles", "bricks",
           "bowling pins", "skis", "goggles", "jeans", "gloves", "socks", "shorts", "shopping bags", "ballet shoes", "sunglasses", "maracas", "theater masks"}
UNCOUNTED = {"bread", "cheese", "popcorn", "corn", "broccoli", "sushi", "ramen", "fire", "beer", "lettuce", "garlic", "bacon", "canned food", "curry",
             "spaghetti", "shaved ice", "sake", "champagne", "whiskey", "soda", "butter", "coral", "wheat", "bamboo", "toilet paper", "soap", "paella", "DNA"}
IRREGULAR = {"mouse": "mice", "fish": "fish", "sheep": "sheep", "wolf": "wolves", "die": "dice", "man": "men", "woman": "women", "goose": "geese", "foot": "feet",
             "old man": "old men", "old woman": "old women", "bearded man": "bearded men", "tooth": "teeth", "squid": "squid", "shrimp": "shrimp", "deer": "deer",
             "bison": "bison", "moose": "moose", "maple leaf": "maple leaves", "computer mouse": "computer mice", "elf": "elves",
             "police officer": "police officers", "ox": "oxen", "fly": "flies", "scarf": "scarves", "kitchen knife": "kitchen knives", "snowman": "snowmen",
             "policeman": "policemen", "fireman": "firemen", "fried shrimp": "fried shrimp", "spider web": "spider webs", "Japanese castle": "Japanese castles"}
NUMBERS = {1: ("a", "one"), 2: ("two", "two", "2", "a pair of", "a couple of"), 3: ("three", "three", "3"), 4: ("four", "four", "4"), 5: ("five", "five", "5"),
           6: ("six", "six", "6", "half a dozen")}
# Size words and the side of the sprite in pixels.
SIZES = {48: ("tiny", "very small"), 64: ("small", "little"), 160: ("big", "large"), 192: ("huge", "giant", "enormous")}
PLACES = {
    (0, 0): ("in the top left corner", "in the upper left corner"), (1, 0): ("at the top", "at the top of the picture"),
    (2, 0): ("in the top right corner", "in the upper right corner"), (0, 1): ("on the left", "on the left side"),
    (1, 1): ("in the middle", "in the centre", "in the center"), (2, 1): ("on the right", "on the right side"),
    (0, 2): ("in the bottom left corner", "in the lower left corner"), (1, 2): ("at the bottom", "at the bottom of the picture"),
    (2, 2): ("in the bottom right corner", "in the lower right corner"),
}
RELATIONS = {
    "left": ("to the left of", "left of", "on the left of"), "right": ("to the right of", "right of", "on the right of"),
    "above": ("above", "over", "flying over"), "below": ("below", "under", "beneath", "underneath"),
    "beside": ("next to", "beside", "and", "with", "near", "by", "looking at", "playing with", "and its friend,"),
    "on": ("on", "on top of", "sitting on", "standing on", "lying on", "sleeping on"), "behind": ("behind", "hiding behind", "standing behind"),
    "front": ("in front of",), "riding": ("riding", "riding on", "driving", "sitting on"), "wearing": ("wearing", "with", "in", "that wears"),
}
HATS = ("top hat", "crown", "sun hat", "graduation cap", "baseball cap", "army helmet", "rescue helmet")
MOUNTS = ("horse", "camel", "elephant", "racehorse", "motorcycle", "bicycle", "scooter", "skateboard", "dragon", "unicorn", "turtle", "whale", "dinosaur",
          "rocket", "tractor", "car", "kick scooter", "sled", "canoe", "donkey", "llama", "T-Rex", "shark", "snail", "racing car", "train", "boat", "lion", "bear")
COLOR_PHRASES = ("on a {} background", "on {}", "on a {} backdrop", "against a {} background", "with a {} background", "{} background")
GRADIENT_PHRASES = ("on a gradient from {} to {}", "on a {} to {} gradient", "with a background fading from {} to {}",
                    "on a background that goes from {} to {}", "{} to {} gradient background")
GROUND_PHRASES = {
    "sky": ("in the sky", "on a blue sky", "in a blue sky", "against a blue sky", "in the clouds", "on a sunny day", "under a clear sky"),
    "grass": ("on the grass", "in a meadow", "in a green field", "in a garden", "in the park", "on a lawn", "on a green meadow", "on a hill"),
    "sea": ("in the sea", "on the sea", "in the ocean", "on the water", "by the sea", "at sea", "on the waves"),
    "night": ("at night", "in the night sky", "under the stars", "on a starry night", "in the dark", "at midnight"),
    "sunset": ("at sunset", "in front of a sunset", "in the evening", "at dusk", "in a sunset sky", "at sunrise", "at dawn"),
    "snow": ("in the snow", "on snow", "in winter", "on a snowy field", "in a snowy landscape"),
    "desert": ("in the desert", "on the sand", "on a sand dune", "in the sahara", "on the dunes"),
    "mountains": ("in the mountains", "in front of mountains", "with mountains behind", "with mountains in the background", "in the alps", "on a mountain"),
    "lake": ("by a lake", "at the lake", "on a lake", "near a lake", "by a mountain lake", "with a lake in the background", "at the river", "on a pond"),
    "forest": ("in a forest", "in the woods", "in the forest", "among the trees", "in the jungle", "in a dark forest"),
    "beach": ("on the beach", "on a beach", "at the beach", "by the seaside", "on a tropical beach", "on the shore", "at the coast"),
    "city": ("in the city", "in a city", "in the street", "downtown", "in front of a skyline", "in a town", "in front of skyscrapers", "in new york"),
    "room": ("in a room", "in the living room", "at home", "in the kitchen", "in a bedroom", "indoors", "by a window", "in the house", "in a cozy room", "on the floor"),
    "space": ("in space", "in outer space", "in deep space", "in a galaxy", "floating in space", "in the universe", "in the cosmos", "in orbit"),
    "underwater": ("underwater", "under water", "under the sea", "at the bottom of the ocean", "on the sea floor", "in an aquarium", "in the deep sea"),
    "field": ("in a field", "in a wheat field", "in the fields", "on a farm", "in the countryside", "in a field of flowers"),
    "road": ("on a road", "on the road", "on a highway", "on a country road", "by the road", "on a long road"),
    "storm": ("in a storm", "in the rain", "in a thunderstorm", "during a storm", "in stormy weather", "on a rainy day"),
}
# Phrases for a ground without objects.
LANDSCAPES = {
    "sky": ("a blue sky", "clouds in the sky", "the sky"), "grass": ("a green meadow", "a garden", "grass"), "sea": ("the sea", "the ocean", "waves"),
    "night": ("a starry night", "the night sky", "stars"), "sunset": ("a sunset", "a beautiful sunrise"), "snow": ("a snowy landscape", "a winter landscape"),
    "desert": ("a desert", "sand dunes"), "mountains": ("mountains", "a mountain landscape", "snowy mountains", "a mountain range"),
    "lake": ("a lake", "a mountain lake", "a river landscape"), "forest": ("a forest", "a dark forest", "trees in the woods"),
    "beach": ("a beach", "a tropical beach", "the coast"), "city": ("a city", "a city skyline", "skyscrapers", "a town"),
    "room": ("an empty room", "a living room", "a bedroom"), "space": ("outer space", "a galaxy", "a nebula", "the universe"),
    "underwater": ("an underwater scene", "the sea floor", "an aquarium"), "field": ("a wheat field", "fields in the countryside", "a farm"),
    "road": ("a road", "a country road", "a highway"), "storm": ("a storm", "a thunderstorm", "a rainy day"),
}
# Grounds that things stand on, in the lower part of the picture.
LANDED = {"grass", "snow", "desert", "mountains", "forest", "beach", "city", "room", "field", "road"}
COLOR_NAMES = {"grey": ("grey", "gray"), "purple": ("purple", "violet"), "light blue": ("light blue", "baby blue", "pale blue"),
               "beige": ("beige", "cream"), "teal": ("teal", "turquoise"), "golden": ("golden", "gold"), "wooden": ("wooden", "wood")}
MADE_OF = {"golden": "gold", "silver": "silver", "wooden": "wood", "stone": "stone"}
STYLE_PHRASES = {
    "pixel art": ("pixel art of {}", "{}, pixel art", "{} in pixel art style", "8-bit {}", "a pixelated picture of {}", "retro game sprite of {}"),
    "watercolor": ("a watercolor of {}", "{}, watercolor", "a watercolour painting of {}", "{} in watercolor", "a watercolor wash of {}"),
    "line drawing": ("a line drawing of {}", "{}, line art", "a pencil sketch of {}", "an ink drawing of {}", "{} as a line drawing", "a coloring page of {}"),
    "neon": ("a neon {}", "{}, neon", "{} in neon lights", "a neon sign of {}", "{}, glowing neon at night", "neon style {}"),
    "sepia": ("a sepia photo of {}", "{}, sepia", "an old photograph of {}", "a vintage photo of {}", "{} in sepia tones"),
}
PREFIXES = ("",) * 8 + ("a picture of ", "a photo of ", "an illustration of ", "a drawing of ", "a painting of ", "an image of ",
                         "a cute picture of ", "emoji of ", "a photorealistic ", "draw ", "show me ")
SUFFIXES = ("",) * 8 + (", best quality", ", high detail", ", 4k", ", digital art", ", cute", ", simple", ", vector art", ", with sunlight",
                         ", masterpiece", ", detailed", ", sharp focus", ", beautiful")
ADJECTIVES = ("",) * 6 + ("cute", "nice", "happy", "funny", "beautiful", "lovely", "friendly", "old", "young", "little old", "pretty", "fluffy", "shiny")
FILLERS = """photorealistic cinematic beautiful lovely amazing ultra detailed style studio professional award winning modern abstract
young happy funny quick lazy realistic quality high best artistic oil painting dramatic soft warm morning
of in on with the a and by near very some many over through into while holding eating sitting standing running looking""".split()
SIGN_WORDS = """HI HELLO OPEN LOVE CAT DOG STOP GO YES NO SALE FREE CAFE HOME EXIT FUN WOW OCTET ART SUN TEA BAR SHOP HEY BYE COOL NEW HOT ICE PIZZA
ZOO TAXI BUS HELP PARK FISH STAR MOON SKY SEA JOY PEACE PARTY MAGIC HAPPY WELL DONE GOOD NICE BEST TOP UP DOWN LEFT RIGHT WELCOME CLOSED COFFEE
MARKET SCHOOL BEACH SUMMER WINTER HOTEL MUSIC FLOWERS BAKERY LIBRARY MUSEUM STATION FOREST WELCOME BIRTHDAY DANGER WARNING PARKING TICKETS WATER
FOOD BOOKS TOYS FRESH QUIET PUSH PULL ENTER SLOW KEEP OUT BACK SOON TODAY SPECIAL OFFER MILK BREAD CAKE LUNCH DINNER VOTE DREAM HOPE WORLD""".split()
SIGN_PHRASES = ("a sign that says {}", "a sign saying {}", "a sign with the text {}", "a wooden sign that says {}", "{} on a sign", "a sign with the word {}")
BANNER_PHRASES = ("a banner that says {}", "a banner saying {}", "a banner with the text {}", "{} on a banner", "a banner with the word {}")
# Prompt fragments without effect on the image.
STRAYS = " ".join("""masterpiece; best quality; ultra detailed; highly detailed; bokeh; 85mm; 35mm lens; trending; trending on artstation; 8k; 4k; hdr;
octane render; unreal engine; studio lighting; soft light; golden hour; film grain; sharp focus; depth of field; close up; macro; wide angle;
concept art; digital painting; low poly; minimalist; flat design; sticker; isometric; 3d render; pastel;
cinematic; epic; moody; vibrant; high contrast; award winning; by a famous artist; in the style of an old master; high resolution""".split()).split("; ")


def find_strangers(words: list[str]) -> list[str]:
    """English words outside the vocabulary that neither contain nor are part of a known word."""
    tables = (SIZES, PLACES, RELATIONS, GROUND_PHRASES, LANDSCAPES, COLOR_NAMES, STYLE_PHRASES, NUMBERS)
    phrases = [phrase for table in tables for each in table.values() for phrase in each]
    known = " ".join([*words, *phrases, *BACKGROUNDS, *COLOR_PHRASES, *GRADIENT_PHRASES, *ADJECTIVES]).lower()
    parts = set(re.findall("[a-z]{4,}", known))
    english = np.load(TEXTURES)["english"].tolist()
    return [word for word in english if word not in known and not any(part in word for part in parts)]


def plural(name: str) -> str:
    if name in IRREGULAR:
        return IRREGULAR[name]
    if match := re.match(r"(\S+)( (?:of|with|in|on|behind|and) .*)$", name):  # "cup of coffee"
        return plural(match[1]) + match[2]
    if name.endswith("y") and name[-2] not in "aeiou":
        return name[:-1] + "ies"
    return name + ("es" if name.endswith(("s", "x", "ch", "sh", "tomato", "potato", "mango")) else "s")


def article(words: str) -> str:
    """"an " or "a " before some words."""
    return "an " if words[0].lower() in "aeio" or words.startswith("um") else "a "


assert {*GROUND_PHRASES} == {*LANDSCAPES} == {*GROUNDS} and not {*COLORS} & {*GROUNDS}
