"""The words that only scenes of the richer kinds need. The first of each list is the plainest."""

FOLLOW_WORDS = ("follow", "chase")

LIGHT_WORDS: dict[str, tuple[str, ...]] = {
    "darker": ("it gets darker", "the light fades"),
    "brighter": ("it gets brighter", "the light comes up"),
    "warm": ("the light turns warm", "the light turns golden"),
    "cold": ("the light turns cold", "the light turns bluish"),
}
