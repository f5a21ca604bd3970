"""Says in English what a scene shows, in one of many ways."""

from collections.abc import Callable

from .phrases import action_of, article, noun_of, pick_word, sentence
from .rich_captions import after_light, describe_follow, describe_pass, describe_sequence
from .scene import Background, Scene, Thing
from .stream import Stream
from .words import BACKGROUND_WORDS, CAMERA_WORDS, gerund, third_person

_OPENINGS = ("", "", "", "", "a video of ", "an animation of ", "a short clip of ")
_SURFACES = ("background", "backdrop")


def caption(scene: Scene, stream: Stream) -> str:
    """Returns a caption; the stream chooses words, order, and what is left out."""
    if scene.kind in _RICH:
        text, whole = _RICH[scene.kind](scene.things, stream)
    elif len(scene.things) == 1:
        text, whole = _one(scene, stream)
    else:
        text, whole = _two(scene.things, stream)
    if scene.light.motion != "steady":
        text = after_light(text, scene.light.motion, stream)
    surface = _surface(scene.background, stream) if stream.chance(0.6) else ""
    camera = stream.pick(CAMERA_WORDS[scene.camera.motion]) if _moves(scene) else ""
    if surface:
        text = _join(text, surface, stream)
    if camera:
        text = f"{text}, {camera}" if stream.chance(0.7) else f"{camera}: {text}"
    elif not whole:
        text = stream.pick(_OPENINGS) + text
    return _finish(text, stream)


def _one(scene: Scene, stream: Stream) -> tuple[str, bool]:
    thing = scene.things[0]
    noun = noun_of(thing, stream)
    action = action_of(thing, stream, paced=1.0 if scene.kind == "pace" else 0.5)
    return sentence(noun, lambda form: form(action), stream)


def _two(things: tuple[Thing, ...], stream: Stream) -> tuple[str, bool]:
    """Returns a description of two objects, and whether it can do without "a video of"."""
    first, second = things if stream.chance(0.5) else things[::-1]
    nouns = [article(noun_of(thing, stream)) for thing in (first, second)]
    actions = [action_of(thing, stream) for thing in (first, second)]
    form = stream.uniform()
    if first.motion == second.motion and form < 0.5 and "clockwise" not in actions[0]:
        return f"{nouns[0]} and {nouns[1]} both {actions[0]}", True
    if form < 0.75:
        link = stream.pick((" and ", ", ", " while "))
        return link.join(
            f"{n} {third_person(a)}" for n, a in zip(nouns, actions, strict=True)
        ), True
    return " and ".join(f"{n} {gerund(a)}" for n, a in zip(nouns, actions, strict=True)), False


def _surface(background: Background, stream: Stream) -> str:
    """Returns "white background" or "striped brown and beige background"."""
    colours = [pick_word(BACKGROUND_WORDS[background.first], stream)]
    where = stream.pick(_SURFACES)
    if background.kind == "plain":
        return f"{stream.pick(('', '', 'plain '))}{colours[0]} {where}"
    colours.append(pick_word(BACKGROUND_WORDS[background.second], stream))
    both = " and ".join(colours)
    if background.kind == "gradient":
        return stream.pick((f"{both} gradient {where}", f"{where} blending {both}"))
    pattern = {"stripes": "striped", "checker": "checkered"}[background.kind]
    return stream.pick((f"{both} {pattern} {where}", f"{pattern} {where} in {both}"))


def _join(text: str, surface: str, stream: Stream) -> str:
    form = stream.uniform()
    if form < 0.5:
        return f"{text} {stream.pick(('on', 'over', 'in front of'))} {article(surface)}"
    if form < 0.8:
        return f"{text}, {surface}"
    return f"on {article(surface)}, {text}"


def _moves(scene: Scene) -> bool:
    return scene.camera.motion != "still"


def _finish(text: str, stream: Stream) -> str:
    """Writes it like a sentence, or not, as people do."""
    if stream.chance(0.3):
        text = text[0].upper() + text[1:]
    return text + "." if stream.chance(0.3) else text


_RICH: dict[str, Callable[[tuple[Thing, ...], Stream], tuple[str, bool]]] = {
    "sequence": describe_sequence,
    "follow": describe_follow,
    "pass": describe_pass,
}
"""How those kinds of scenes are described that need another sentence."""
