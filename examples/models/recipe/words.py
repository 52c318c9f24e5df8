"""The things of the small world, with the odds by which stories choose them.

Every table maps a word to a weight; a weight is proportional to a probability. Odds are uneven on purpose: names have
favourites, each place has its own things and animals, each toy its usual colours. A language model has to learn them.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Thing:
    """Something that is counted, and how it looks when it is found."""

    one: str
    many: str
    looks: dict[str, float]
    edible: bool = False

    def named(self, count: int) -> str:
        return self.one if count == 1 else self.many


@dataclass(frozen=True)
class Place:
    """Somewhere to be, with the preposition it takes, and what is found and seen there."""

    name: str
    preposition: str
    things: dict[str, float]
    animals: dict[str, float]

    @property
    def at(self) -> str:
        return f"{self.preposition} the {self.name}"


@dataclass(frozen=True)
class Animal:
    one: str
    many: str
    manners: dict[str, float]


GIRLS = {"Mia": 3, "Anna": 3, "Lily": 3, "Nora": 2, "Emma": 2, "Ruth": 2, "Zoe": 2, "Clara": 2, "Ivy": 2, "Olga": 1, "Tara": 1,
         "Yara": 1, "Lena": 1, "Wanda": 1}
BOYS = {"Tom": 3, "Ben": 3, "Sam": 3, "Leo": 2, "Jack": 2, "Max": 2, "Finn": 2, "Hugo": 2, "Otto": 2, "Ravi": 1, "Yusuf": 1,
        "Paul": 1, "Emil": 1, "Igor": 1}

OPENINGS = {"Once there was": 6, "Long ago there was": 2, "In a small town there was": 1.5, "Far away there was": 1}

# A trait is a habit: it makes one kind of event likelier for the hero (see EVENTS in story.py).
TRAITS = {"kind": "give", "hungry": "lose", "curious": "find", "clever": "count", "restless": "go", "quiet": "animals",
          "cheerful": "feel"}

AGES = {"little": 3, "young": 2, "tall": 2, "small": 1}
COLOURS = {"red": 4, "blue": 3, "white": 3, "green": 2, "yellow": 2, "brown": 1}
HOMES = {"near the sea": 3, "by the river": 3, "under a tall tree": 1, "behind the church": 1, "on an island": 1}
RELATIONS = {"brother": 3, "sister": 3, "friend": 3, "cousin": 1}
# How the sky is, and what it feels like.
WEATHER = {
    "sunny": {"warm": 6, "hot": 3, "cold": 1},
    "rainy": {"cold": 5, "warm": 2, "dark": 3},
    "windy": {"cold": 5, "warm": 2},
    "foggy": {"dark": 4, "cold": 3},
    "clear": {"warm": 3, "cold": 3, "bright": 3},
}
STARTS = {"": 5, "Then": 3, "Soon": 2, "Later": 2, "After that": 1, "Suddenly": 1}
DUSKS = {"In the evening": 3, "At last": 2, "When it was late": 1}
PACES = {"": 3, "slowly": 2, "quickly": 2, "alone": 2, "happily": 1}
HOURS = {"One morning": 5, "One day": 4, "One afternoon": 2, "One summer day": 1, "One winter day": 1}

THINGS = {
    thing.one: thing
    for thing in (
        Thing("apple", "apples", {"sweet": 3, "red": 3, "ripe": 2}, edible=True),
        Thing("pear", "pears", {"ripe": 4, "sweet": 3, "soft": 1}, edible=True),
        Thing("berry", "berries", {"sweet": 3, "ripe": 3, "tiny": 3}, edible=True),
        Thing("cookie", "cookies", {"warm": 4, "sweet": 3, "round": 3}, edible=True),
        Thing("cake", "cakes", {"warm": 3, "sweet": 3, "tiny": 1}, edible=True),
        Thing("nut", "nuts", {"round": 3, "tiny": 2, "brown": 3}, edible=True),
        Thing("carrot", "carrots", {"long": 4, "sweet": 1, "tiny": 1}, edible=True),
        Thing("egg", "eggs", {"white": 4, "brown": 3, "warm": 2}),
        Thing("flower", "flowers", {"white": 3, "blue": 3, "yellow": 3, "tiny": 1}),
        Thing("leaf", "leaves", {"yellow": 3, "red": 3, "brown": 3}),
        Thing("feather", "feathers", {"white": 3, "long": 3, "soft": 3}),
        Thing("shell", "shells", {"white": 3, "tiny": 3, "round": 2, "pretty": 3}),
        Thing("stone", "stones", {"round": 4, "heavy": 3, "pretty": 2}),
        Thing("coin", "coins", {"shiny": 5, "old": 3, "round": 1}),
        Thing("button", "buttons", {"round": 3, "shiny": 3, "black": 2}),
        Thing("pencil", "pencils", {"long": 3, "blue": 2, "new": 3}),
        Thing("book", "books", {"old": 4, "heavy": 3, "new": 2}),
        Thing("spoon", "spoons", {"shiny": 4, "long": 2, "old": 2}),
        Thing("candle", "candles", {"long": 3, "white": 3, "new": 1}),
    )
}
# What somebody owns when a story begins.
OWNED = {"apple": 4, "coin": 4, "cookie": 3, "book": 2, "button": 2, "pencil": 2, "pear": 1, "shell": 1, "candle": 1}

PLACES = {
    place.name: place
    for place in (
        Place("garden", "in", {"flower": 4, "berry": 3, "leaf": 2, "pear": 1}, {"bird": 4, "cat": 3, "frog": 1}),
        Place("forest", "in", {"nut": 4, "berry": 2, "feather": 2, "leaf": 2}, {"fox": 4, "owl": 3, "bird": 2}),
        Place("beach", "at", {"shell": 6, "stone": 4, "coin": 1}, {"crab": 5, "dog": 2, "bird": 2}),
        Place("market", "at", {"coin": 4, "apple": 3, "candle": 2, "cake": 2}, {"dog": 3, "cat": 2, "horse": 2}),
        Place("farm", "on", {"egg": 5, "carrot": 3, "apple": 2, "feather": 1}, {"cow": 4, "horse": 3, "sheep": 3}),
        Place("school", "at", {"pencil": 5, "book": 4, "button": 1}, {"mouse": 3, "dog": 1}),
        Place("hill", "on", {"stone": 4, "flower": 3, "feather": 1}, {"sheep": 5, "goat": 3, "fox": 1}),
        Place("kitchen", "in", {"cookie": 4, "spoon": 3, "cake": 3, "egg": 2}, {"mouse": 5, "cat": 3}),
        Place("castle", "in", {"candle": 4, "coin": 3, "book": 2}, {"owl": 3, "mouse": 2, "horse": 2}),
        Place("lake", "at", {"stone": 3, "shell": 2, "feather": 2}, {"duck": 5, "frog": 3, "snake": 1}),
        Place("bridge", "on", {"stone": 3, "leaf": 2, "button": 2}, {"goat": 4, "dog": 2, "frog": 2}),
    )
}
VISITED = {"garden": 5, "forest": 4, "beach": 4, "market": 3, "farm": 3, "school": 2, "hill": 2, "kitchen": 2, "castle": 2,
           "lake": 2, "bridge": 2}

ANIMALS = {
    animal.one: animal
    for animal in (
        Animal("bird", "birds", {"singing": 5, "flying": 3, "small": 1}),
        Animal("cat", "cats", {"sleeping": 5, "soft": 2, "black": 2}),
        Animal("dog", "dogs", {"running": 4, "friendly": 4, "sleeping": 1}),
        Animal("frog", "frogs", {"jumping": 5, "green": 3}),
        Animal("duck", "ducks", {"loud": 4, "swimming": 4, "white": 1}),
        Animal("snake", "snakes", {"sleeping": 3, "green": 3, "slow": 2}),
        Animal("fox", "foxes", {"shy": 5, "running": 2, "red": 1}),
        Animal("owl", "owls", {"sleeping": 4, "wise": 4}),
        Animal("crab", "crabs", {"slow": 4, "red": 3}),
        Animal("horse", "horses", {"running": 3, "strong": 4, "brown": 2}),
        Animal("cow", "cows", {"eating": 5, "brown": 2}),
        Animal("sheep", "sheep", {"eating": 4, "white": 3, "soft": 2}),
        Animal("goat", "goats", {"jumping": 4, "eating": 3}),
        Animal("mouse", "mice", {"small": 4, "shy": 3, "quick": 3}),
    )
}

# What people do when they feel so.
MOODS = {
    "happy": {"sang a song": 3, "laughed": 3, "danced": 2},
    "sad": {"cried": 3, "sat down": 2, "said nothing": 1},
    "tired": {"sat down": 3, "slept a while": 3},
    "bored": {"threw a stone": 2, "sang a song": 1, "told a joke": 2},
    "proud": {"smiled": 3, "danced": 1, "sang a song": 1},
    "afraid": {"hid behind a tree": 3, "cried": 1, "said nothing": 1},
}

# Toys are unique in a story and known by their colour.
TOYS = {
    "kite": {"red": 5, "yellow": 3, "blue": 1},
    "ball": {"red": 3, "blue": 3, "green": 1, "white": 1},
    "hat": {"black": 4, "green": 2, "yellow": 1},
    "lamp": {"yellow": 3, "white": 3, "black": 1},
    "drum": {"brown": 3, "red": 2, "blue": 1},
    "boat": {"blue": 4, "white": 3, "brown": 1},
    "key": {"golden": 5, "black": 2},
    "ring": {"golden": 4, "silver": 4},
    "bell": {"silver": 4, "golden": 2},
    "cup": {"white": 4, "blue": 3, "silver": 1},
    "doll": {"pink": 4, "white": 2, "blue": 1},
    "basket": {"brown": 5, "green": 1, "white": 1},
}
