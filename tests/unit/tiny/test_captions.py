"""Captions say what the scene shows, in many ways; prompts are understood."""

from collections import Counter

import pytest

from tools.tiny_score import Expected, PromptError, expect
from tools.tiny_score.expect import parse_prompt
from tools.train_tiny.scenes import (
    MOTIONS,
    OBJECT_COLOURS,
    SHAPES,
    Stream,
    caption,
    prompt_scene,
    sample_scene,
    score_prompts,
)
from tools.train_tiny.scenes.words import gerund, third_person


def text_of(index: int) -> str:
    return caption(sample_scene(8, index), Stream(8, index))


def test_captions_tell_the_truth():
    for index in range(400):
        said = sorted(map(str, parse_prompt(text_of(index))))
        things = sample_scene(8, index).things
        true = sorted(str(Expected(item.colour, item.shape, item.motion)) for item in things)
        assert said == true, text_of(index)


def test_sizes_senses_speeds_and_cameras_are_true():
    seen: Counter[str] = Counter()
    for index in range(700):
        scene = sample_scene(8, index, objects=1)
        (thing,) = scene.things
        path, text = thing.path, caption(scene, Stream(8, index))
        sense = path.spin if thing.motion == "rotate" else path.sense
        way = max(abs(path.dx), abs(path.dy), abs(path.spin) / 5)
        facts = {
            " clockwise": sense > 0,
            "counterclockwise": sense < 0,
            "slowly": way < 0.53,
            "quickly": way > 0.29,
            "small ": thing.radius < 0.126,
            "large ": thing.radius > 0.179,
            "zooms in": scene.camera.motion == "in",
            "pans left": scene.camera.motion == "left",
            "striped": scene.background.kind == "stripes",
            "checkered": scene.background.kind == "checker",
        }
        said = [words for words in facts if words in text]
        seen.update(said)
        assert all(facts[words] for words in said), text
    assert len(seen) == 10


def test_captions_vary_and_repeat():
    texts = {text_of(index) for index in range(500)}
    assert len(texts) > 490
    assert text_of(3) == text_of(3)
    scene = sample_scene(8, 0)
    assert len({caption(scene, Stream(n)) for n in range(100)}) > 80
    assert max(len(text.split()) for text in texts) < 40


@pytest.mark.parametrize(
    ("phrase", "third", "continuous"),
    [
        ("move left", "moves left", "moving left"),
        ("go round and round", "goes round and round", "going round and round"),
        ("get bigger", "gets bigger", "getting bigger"),
        ("stay still", "stays still", "staying still"),
        ("spin", "spins", "spinning"),
    ],
)
def test_verbs(phrase: str, third: str, continuous: str):
    assert third_person(phrase) == third
    assert gerund(phrase) == continuous


def test_score_prompts_cover_everything():
    prompts = score_prompts()
    assert len(prompts) >= 48
    assert len({prompt.text for prompt in prompts}) == len(prompts)
    for name, values in (("motion", MOTIONS), ("colour", OBJECT_COLOURS), ("shape", SHAPES)):
        counts = Counter(getattr(prompt, name) for prompt in prompts)
        assert set(counts) == set(values)
        assert min(counts.values()) >= 4


def test_score_prompts_mean_what_they_say():
    for prompt in score_prompts():
        assert expect(prompt) == expect(prompt.text) == expect(prompt_scene(prompt))


def test_sentences_of_people():
    (ball,) = parse_prompt("A red ball slowly rolls to the left over a white floor")
    assert ball == Expected("red", "circle", "left")
    star, box = parse_prompt("Blue star spinning clockwise and a big black box growing")
    assert star == Expected("blue", "star", "rotate")
    assert box == Expected("black", "square", "grow")
    assert parse_prompt("a green hoop") == (Expected("green", "ring", None),)


def test_a_prompt_without_an_object_is_refused():
    with pytest.raises(PromptError, match="need a colour and a shape"):
        expect("a cat on the beach")
    with pytest.raises(PromptError, match="Got 'then', need one motion"):
        expect("a red ball moves right, then up")
