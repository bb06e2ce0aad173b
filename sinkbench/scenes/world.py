"""What exists in Scenes: object categories, kinds of scene, who appears with whom, colours and words on signs.

Categories keep COCO's names, ids and supercategories (the 2014/2017 instance annotations), so that tools made for COCO
read Scenes. The 68 here are those that Noto Color Emoji draws recognisably.
"""

from dataclasses import dataclass

Colour = tuple[float, float, float]
"""Red, green and blue in 0..1."""

COLOURS: dict[str, Colour] = {
    "red": (0.86, 0.15, 0.15),
    "yellow": (0.96, 0.80, 0.12),
    "green": (0.16, 0.62, 0.24),
    "blue": (0.16, 0.40, 0.86),
    "purple": (0.55, 0.22, 0.72),
}
"""Paints of the categories that come in several colours. No orange: CHAIR would read it as the fruit."""


@dataclass(frozen=True)
class Category:
    """One kind of object.

    Attributes:
        id: COCO category id.
        name: COCO category name.
        plural: What several of them are called.
        supercategory: COCO supercategory.
        emoji: One sprite for each look; a painted category has one sprite that is dyed in every colour.
        scale: Typical size in 0..1 within the range of sizes that the configuration allows.
        place: Where it is found outdoors: "ground", "sky" or "any".
        painted: Comes in every colour of `COLOURS`.
        synonyms: Other words for it, as a CHAIR synonyms table lists them.
    """

    id: int
    name: str
    plural: str
    supercategory: str
    emoji: tuple[str, ...]
    scale: float
    place: str
    painted: bool
    synonyms: tuple[str, ...]

    @property
    def looks(self) -> tuple[str, ...]:
        """Names of its sprites: colours if it is painted, else numbers."""
        return tuple(COLOURS) if self.painted else tuple(str(i) for i in range(len(self.emoji)))


# id | name | plural | emoji | scale | place | painted | synonyms
_TABLE = """
person
1|person|people|🧍 🚶 🧍‍♂️ 🧍‍♀️|.6|ground||people, man, men, woman, women, child, children, boy, girl, adult, human
vehicle
2|bicycle|bicycles|🚲|.5|ground||bike, cycle
3|car|cars|🚗|.6|ground|p|automobile, sedan, taxi, cab, van
4|motorcycle|motorcycles|🏍️|.5|ground||motorbike, scooter, moped
5|airplane|airplanes|✈️ 🛩️|.6|sky||plane, aircraft, jet
6|bus|buses|🚌|.8|ground|p|minibus, coach
7|train|trains|🚆 🚂|.8|ground||locomotive, tram
8|truck|trucks|🚚|.7|ground|p|lorry, pickup
9|boat|boats|⛵ 🚤|.6|ground||ship, sailboat, ferry, yacht
outdoor
10|traffic light|traffic lights|🚦 🚥|.4|any||street light, traffic signal, stop light, streetlight, stoplight
13|stop sign|stop signs|🛑|.3|any||
animal
16|bird|birds|🐦 🦅 🦆|.2|sky||pigeon, duck, eagle, sparrow, seagull
17|cat|cats|🐈 🐱|.3|ground||kitten, feline
18|dog|dogs|🐕 🐶|.4|ground||puppy, hound
19|horse|horses|🐎 🐴|.7|ground||pony, foal, stallion
20|sheep|sheep|🐑 🐏|.5|ground||lamb, ram, ewe
21|cow|cows|🐄 🐮|.7|ground||cattle, bull, calf, ox
22|elephant|elephants|🐘|.9|ground||
23|bear|bears|🐻|.6|ground||
24|zebra|zebras|🦓|.7|ground||
25|giraffe|giraffes|🦒|.9|ground||
accessory
27|backpack|backpacks|🎒|.3|ground|p|knapsack, rucksack
28|umbrella|umbrellas|☂️|.5|any|p|parasol
31|handbag|handbags|👜|.3|ground|p|purse
32|tie|ties|👔|.3|any|p|necktie
33|suitcase|suitcases|🧳|.4|ground|p|luggage, suit case
sports
34|frisbee|frisbees|🥏|.2|any||
35|skis|skis|🎿|.5|ground||ski
36|snowboard|snowboards|🏂|.5|ground||
37|sports ball|sports balls|⚽ 🏀 🏐|.1|any||ball, football, basketball, volleyball
38|kite|kites|🪁|.4|sky||
39|baseball bat|baseball bats|🏏|.3|ground||bat
41|skateboard|skateboards|🛹|.3|ground||
42|surfboard|surfboards|🏄|.5|ground||
43|tennis racket|tennis rackets|🏸|.3|any||racket, racquet
kitchen
44|bottle|bottles|🍾|.3|ground||
46|wine glass|wine glasses|🍷|.2|ground||goblet
47|cup|cups|☕ 🥤|.2|ground||mug
48|fork|forks|🍴|.2|ground||
49|knife|knives|🔪|.2|ground||
50|spoon|spoons|🥄|.2|ground||
51|bowl|bowls|🥣 🍜|.3|ground||
food
52|banana|bananas|🍌|.2|ground||
53|apple|apples|🍎 🍏|.1|ground||
54|sandwich|sandwiches|🥪|.2|ground||burger
55|orange|oranges|🍊|.1|ground||tangerine
56|broccoli|broccoli|🥦|.2|ground||
57|carrot|carrots|🥕|.2|ground||
58|hot dog|hot dogs|🌭|.2|ground||hotdog
59|pizza|pizzas|🍕|.3|ground||
60|donut|donuts|🍩|.1|ground||doughnut
61|cake|cakes|🎂 🍰|.3|ground||cupcake
furniture
62|chair|chairs|🪑|.6|ground|p|armchair, stool
63|couch|couches|🛋️|.8|ground|p|sofa
64|potted plant|potted plants|🪴|.4|ground||houseplant
65|bed|beds|🛏️|.9|ground||
70|toilet|toilets|🚽|.6|ground||
electronic
72|tv|tvs|📺|.5|any||television, monitor
73|laptop|laptops|💻|.4|ground||computer, notebook
74|mouse|mice|🖱️|.1|ground||
76|keyboard|keyboards|⌨️|.3|ground||
77|cell phone|cell phones|📱|.2|ground||mobile phone, phone, smartphone, cellphone
indoor
84|book|books|📕|.2|ground|p|
85|clock|clocks|⏰ 🕒|.2|any||watch
86|vase|vases|🏺|.3|ground||
87|scissors|scissors|✂️|.2|ground||
88|teddy bear|teddy bears|🧸|.3|ground||teddy
90|toothbrush|toothbrushes|🪥|.2|ground||
"""


def _parse_categories() -> dict[str, Category]:
    categories: dict[str, Category] = {}
    supercategory = ""
    for line in _TABLE.strip().splitlines():
        if "|" not in line:
            supercategory = line
            continue
        number, name, plural, emoji, scale, place, painted, synonyms = line.split("|")
        categories[name] = Category(
            int(number), name, plural, supercategory, tuple(emoji.split()), float(scale), place, painted == "p",
            tuple(filter(None, synonyms.split(", "))),
        )  # fmt: skip
    return categories


CATEGORIES: dict[str, Category] = _parse_categories()
"""Every category by name, in the order of COCO ids."""


@dataclass(frozen=True)
class Kind:
    """One kind of scene.

    Attributes:
        name: What it is called, for example "living room".
        outdoor: Has sky and ground; else wall and floor.
        weights: How likely each category is relative to the others.
        scenery: Emoji that stand in the background and are no objects.
    """

    name: str
    outdoor: bool
    weights: dict[str, float]
    scenery: tuple[str, ...]


def _kind(name: str, outdoor: bool, scenery: str, weights: str) -> Kind:
    pairs = (entry.strip().rsplit(" ", 1) for entry in weights.split(","))
    return Kind(name, outdoor, {category: float(weight) for category, weight in pairs}, tuple(scenery.split()))


_KINDS = (
    _kind("street", True, "🏢 🏠 🌳 🏬", """person 9, car 10, bus 5, truck 5, bicycle 5, motorcycle 4, traffic light 7,
        stop sign 4, dog 2, bird 1, umbrella 2, handbag 2, backpack 2, skateboard 1.5, potted plant 1, cat 1, clock 1,
        cell phone 1, hot dog 0.5, suitcase 1"""),
    _kind("park", True, "🌳 🌲 🌷 ⛲", """person 8, dog 6, bird 5, bicycle 3, frisbee 4, kite 4, sports ball 4,
        skateboard 3, backpack 2, bottle 1, baseball bat 3, tennis racket 3, umbrella 1.5, cat 1, chair 1, sandwich 1,
        book 1, horse 1"""),
    _kind("beach", True, "🌴 ☁️ 🐚 🪨", """person 9, surfboard 6, umbrella 6, boat 5, bird 4, kite 3, dog 3, frisbee 2.5,
        sports ball 2.5, chair 3, bottle 2, handbag 2, backpack 1.5, cup 1, book 1, airplane 0.5, banana 0.5,
        orange 0.5"""),
    _kind("farm", True, "🏠 🌾 🌳 🌻", """person 4, cow 8, sheep 8, horse 7, dog 4, cat 2, bird 4, truck 3, carrot 1,
        apple 2, broccoli 1, bicycle 1, potted plant 1"""),
    _kind("savanna", True, "🌳 🌵 🪨 🌾", """elephant 8, zebra 8, giraffe 8, bird 5, bear 2, person 3, car 2, truck 2,
        horse 1, backpack 1, cow 1"""),
    _kind("mountain", True, "🌲 ☁️ ⛄ 🪨", """skis 8, snowboard 7, person 9, backpack 4, bear 2, dog 2, bird 2, bus 1,
        chair 1, cup 0.5, truck 1, train 2"""),
    _kind("airport", True, "🏢 ☁️ 🏬", """airplane 9, person 8, suitcase 8, backpack 5, handbag 4, bus 3, truck 3,
        train 2, car 2, cell phone 3, clock 3, chair 2, cup 1.5, laptop 1.5, tie 2, umbrella 1, teddy bear 0.5,
        book 1"""),
    _kind("kitchen", False, "🪟 🚪 🧂 🍳", """bottle 6, cup 7, bowl 7, knife 6, spoon 6, fork 6, wine glass 4, apple 4,
        banana 4, orange 3, broccoli 3, carrot 4, sandwich 3, pizza 4, cake 3, donut 2.5, hot dog 2, person 4, chair 3,
        potted plant 2, clock 1.5, vase 1, cat 1"""),
    _kind("living room", False, "🪟 🖼️ 🚪", """couch 8, tv 8, chair 5, potted plant 5, book 4, vase 4, cat 4, dog 3,
        person 5, clock 3, laptop 2, cell phone 2, cup 2, teddy bear 1.5, bottle 1.5, wine glass 1.5, pizza 1,
        umbrella 0.5"""),
    _kind("bedroom", False, "🪟 🖼️ 🚪 🪞", """bed 9, teddy bear 5, book 5, clock 4, cat 3, laptop 3, cell phone 3,
        chair 3, person 3, potted plant 2, tie 2, handbag 2, backpack 2, suitcase 1.5, tv 2, vase 1, dog 1, cup 1"""),
    _kind("bathroom", False, "🪟 🪞 🛁 🧼", """toilet 9, toothbrush 8, scissors 3, cup 4, bottle 5, potted plant 2.5,
        person 3, cat 2, book 1, clock 1, vase 2, chair 1, cell phone 1"""),
    _kind("office", False, "🪟 🚪 🖼️ 📎", """laptop 8, keyboard 7, mouse 7, chair 6, book 5, cell phone 5, cup 5,
        person 6, tie 3, clock 3, scissors 3, potted plant 3, bottle 2, backpack 2, handbag 1.5, tv 1, sandwich 1,
        apple 1, donut 1"""),
)  # fmt: skip
KINDS: dict[str, Kind] = {kind.name: kind for kind in _KINDS}
"""Every kind of scene by name."""

PARTNERS: tuple[frozenset[str], ...] = tuple(
    frozenset(group.split(", "))
    for group in (
        "laptop, keyboard, mouse",
        "fork, knife, spoon, bowl",
        "skis, snowboard, person",
        "couch, tv",
        "toilet, toothbrush",
        "car, traffic light, truck, bus",
        "suitcase, airplane",
        "apple, banana, orange",
        "broccoli, carrot",
        "cow, sheep, horse",
        "elephant, zebra, giraffe",
        "surfboard, person",
        "person, dog",
        "donut, cup",
        "bottle, wine glass",
    )
)
"""Groups whose members draw each other in: what makes co-occurrence more than the kind of scene."""

_WORDS = """
stop open exit sale park farm cafe bank hotel beach push pull free hot cold new shop post menu rent gym spa zoo
pool lake north south east west slow school market museum music art hello
"""
SIGN_WORDS: tuple[str, ...] = tuple(_WORDS.split())
"""Words on signs. None is a category or a synonym of one, so that a read sign is no mention of an object."""


def partners(category: str) -> frozenset[str]:
    """Every category that `category` draws in, itself not included."""
    return frozenset[str]().union(*(group for group in PARTNERS if category in group)) - {category}
