"""Says in English what the richer kinds of scenes show."""

from .phrases import Inflection, article, noun_of, pick_word, sentence, verbs_of
from .rich_words import FOLLOW_WORDS, LIGHT_WORDS
from .scene import DIRECTIONS, Thing
from .stream import Stream
from .words import DIRECTION_WORDS, OTHER_MOTION_WORDS, gerund, third_person


def describe_sequence(things: tuple[Thing, ...], stream: Stream) -> tuple[str, bool]:
    """Returns "a red ball moves right, then up", and whether it can do without "a video of"."""
    (thing,) = things
    noun = noun_of(thing, stream)
    verb = pick_word(verbs_of(thing), stream)
    first, second = (_part(motion, verb, stream) for motion in (thing.motion, thing.then))
    link = stream.pick((", then ", ", then ", " and then "))
    opening = "first " if stream.chance(0.2) else ""
    straight = thing.motion in DIRECTIONS and thing.then in DIRECTIONS
    short = straight and stream.chance(0.7)  # the verb is not said again

    def action(form: Inflection) -> str:
        later = second.removeprefix(f"{verb} ") if short else form(second)
        return opening + form(first) + link + later

    return sentence(noun, action, stream)


def _part(motion: str, verb: str, stream: Stream) -> str:
    """Returns what an object does in one half, as a verb without an ending."""
    if motion in DIRECTIONS:
        return f"{verb} {stream.pick(DIRECTION_WORDS[motion][:3])}"
    return pick_word(OTHER_MOTION_WORDS[motion], stream)


def describe_follow(things: tuple[Thing, ...], stream: Stream) -> tuple[str, bool]:
    """Returns "a red ball follows a blue box to the left", and whether that is a sentence."""
    front, back = things
    nouns = [article(noun_of(thing, stream)) for thing in (front, back)]
    where = stream.pick(DIRECTION_WORDS[front.motion][1:3])
    form = stream.uniform()
    if form < 0.3:
        verb = pick_word(verbs_of(front), stream)
        return f"{nouns[0]} {third_person(verb)} {where}, followed by {nouns[1]}", True
    verb = pick_word(FOLLOW_WORDS, stream)
    ending = f" {where}" if stream.chance(0.85) else ""
    if form < 0.75:
        return f"{nouns[1]} {third_person(verb)} {nouns[0]}{ending}", True
    return f"{nouns[1]} {gerund(verb)} {nouns[0]}{ending}", False


def describe_pass(things: tuple[Thing, ...], stream: Stream) -> tuple[str, bool]:
    """Returns "a red ball and a blue box pass each other", and whether that is a sentence."""
    first, second = things if stream.chance(0.5) else things[::-1]
    nouns = [article(noun_of(thing, stream)) for thing in (first, second)]
    moves = [
        f"{pick_word(verbs_of(thing), stream)} {stream.pick(DIRECTION_WORDS[thing.motion][:3])}"
        for thing in (first, second)
    ]
    form = stream.uniform()
    if form < 0.25:
        across = "" if stream.chance(0.5) else f" {_axis(first.motion)}"
        return f"{nouns[0]} and {nouns[1]} pass each other{across}", True
    if form < 0.6:
        return f"{nouns[0]} {third_person(moves[0])} past {nouns[1]}", True
    if form < 0.75:
        return f"{nouns[0]} {gerund(moves[0])} past {nouns[1]}", False
    both = (f"{n} {third_person(m)}" for n, m in zip(nouns, moves, strict=True))
    return f"{' and '.join(both)}, past each other", True


def _axis(motion: str) -> str:
    return "from side to side" if motion in ("left", "right") else "up and down"


def after_light(text: str, light: str, stream: Stream) -> str:
    """Returns a description to which is added what the light does, one of `LIGHTS`."""
    words = stream.pick(LIGHT_WORDS[light])
    return text + stream.pick((", ", " and ", " while ")) + words
