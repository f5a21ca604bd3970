"""The words in which people describe the scenes. The first of each list is the plainest."""

COLOUR_WORDS: dict[str, tuple[str, ...]] = {
    "red": ("red", "bright red", "crimson"),
    "orange": ("orange",),
    "yellow": ("yellow", "bright yellow"),
    "green": ("green", "emerald"),
    "cyan": ("cyan", "turquoise", "teal"),
    "blue": ("blue", "deep blue"),
    "purple": ("purple", "violet"),
    "pink": ("pink", "rosy"),
    "white": ("white", "snow-white"),
    "black": ("black", "pitch-black"),
}

SHAPE_WORDS: dict[str, tuple[str, ...]] = {
    "circle": ("circle", "ball", "disc", "dot"),
    "square": ("square", "box", "block"),
    "triangle": ("triangle",),
    "star": ("star", "five-pointed star"),
    "ring": ("ring", "hoop", "donut"),
}

SIZE_WORDS = {"small": ("small", "little", "tiny"), "large": ("large", "big")}

STRAIGHT_VERBS = ("move", "slide", "drift", "glide", "travel", "float")
ROUND_VERBS = ("roll", *STRAIGHT_VERBS)
"""For circles and rings."""

DIRECTION_WORDS: dict[str, tuple[str, ...]] = {
    "left": ("left", "to the left", "leftwards", "from right to left", "towards the left"),
    "right": ("right", "to the right", "rightwards", "from left to right", "towards the right"),
    "up": ("up", "upwards", "straight up", "from bottom to top", "towards the top"),
    "down": ("down", "downwards", "straight down", "from top to bottom", "towards the bottom"),
    "up left": (
        "up and to the left",
        "diagonally up and left",
        "towards the upper left",
        "to the top left corner",
    ),
    "up right": (
        "up and to the right",
        "diagonally up and right",
        "towards the upper right",
        "to the top right corner",
    ),
    "down left": (
        "down and to the left",
        "diagonally down and left",
        "towards the lower left",
        "to the bottom left corner",
    ),
    "down right": (
        "down and to the right",
        "diagonally down and right",
        "towards the lower right",
        "to the bottom right corner",
    ),
}

OTHER_MOTION_WORDS: dict[str, tuple[str, ...]] = {
    "still": ("stay still", "rest", "stand still", "remain motionless", "stay in place"),
    "rotate": ("rotate", "spin", "turn around", "rotate in place", "spin on the spot"),
    "grow": ("grow", "get bigger", "become larger", "expand", "swell"),
    "shrink": ("shrink", "get smaller", "become smaller", "contract"),
    "bounce": ("bounce", "bounce up and down", "hop up and down", "jump up and down"),
    "orbit": ("move in a circle", "circle around", "go round and round", "travel along a circle"),
}

SPIN_WORDS = {1: "clockwise", -1: "counterclockwise"}

SLOW_WORDS = ("slowly", "gently")
FAST_WORDS = ("quickly", "fast")

BACKGROUND_WORDS: dict[str, tuple[str, ...]] = {
    "grey": ("grey", "gray"),
    "light grey": ("light grey", "light gray", "silver"),
    "dark grey": ("dark grey", "dark gray", "charcoal"),
    "beige": ("beige", "sand-coloured"),
    "brown": ("brown",),
    "navy": ("navy", "dark navy"),
    "olive": ("olive", "olive-coloured"),
    "lavender": ("lavender", "pale lavender"),
    "mint": ("mint", "pale mint"),
    "white": ("white",),
    "black": ("black",),
}

CAMERA_WORDS: dict[str, tuple[str, ...]] = {
    "left": ("the camera pans left", "the camera moves to the left"),
    "right": ("the camera pans right", "the camera moves to the right"),
    "up": ("the camera tilts up", "the camera moves up"),
    "down": ("the camera tilts down", "the camera moves down"),
    "in": ("the camera zooms in", "the camera comes closer"),
    "out": ("the camera zooms out", "the camera backs away"),
}

_IRREGULAR_GERUND = {"get": "getting", "spin": "spinning", "hop": "hopping"}


def third_person(phrase: str) -> str:
    """Returns "moves left" for "move left"."""
    verb, _, rest = phrase.partition(" ")
    if verb.endswith("y") and verb[-2] not in "aeo":
        verb = verb[:-1] + "ies"
    else:
        verb += "es" if verb.endswith(("o", "s", "x", "ch", "sh")) else "s"
    return f"{verb} {rest}".rstrip()


def gerund(phrase: str) -> str:
    """Returns "moving left" for "move left"."""
    verb, _, rest = phrase.partition(" ")
    stem = verb[:-1] if verb.endswith("e") else verb
    return f"{_IRREGULAR_GERUND.get(verb, stem + 'ing')} {rest}".rstrip()
