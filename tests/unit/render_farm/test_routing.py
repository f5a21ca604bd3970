"""Which prompt goes where."""

from dataclasses import replace

import pytest

from render_farm.output_names import mark_names
from render_farm.routing import MOST_OVERTAKEN, Choice, Free, Waiting, models_of, next_run

A, B = frozenset({"a.safetensors"}), frozenset({"b.gguf"})


def test_models_of_a_prompt():
    prompt = {
        "1": {"class_type": "WanDuetExpertLoader", "inputs": {"model": "h.safetensors"}},
        "2": {"class_type": "LoraLoaderModelOnly", "inputs": {"lora_name": "x/L.SAFETENSORS"}},
        "3": {
            "class_type": "SaveVideo",
            "inputs": {"filename_prefix": "video/a", "video": ["2", 0]},
        },
        "4": {"class_type": "Odd"},
        "5": None,
    }
    assert models_of(prompt) == {"h.safetensors", "x/L.SAFETENSORS"}
    assert models_of({}) == set()


@pytest.mark.parametrize(
    ("waiting", "free", "choice"),
    [
        ([], [Free(1)], None),
        ([Waiting("p")], [], None),
        # The worker with the models, else the one that loses least, else the one that did least.
        ([Waiting("p", A)], [Free(1, B), Free(2, A)], Choice("p", 2)),
        ([Waiting("p", A | B)], [Free(1), Free(2, A)], Choice("p", 2)),
        ([Waiting("p", A)], [Free(1, B), Free(2)], Choice("p", 2)),
        ([Waiting("p", A)], [Free(1, A, 5), Free(2, A, 4)], Choice("p", 2)),
        # Out of turn where the models are there, but not for ever, and not before an urgent one.
        ([Waiting("p", A), Waiting("q", B)], [Free(1, B)], Choice("q", 1, "p")),
        ([Waiting("p", A, MOST_OVERTAKEN), Waiting("q", B)], [Free(1, B)], Choice("p", 1)),
        ([Waiting("p", A, first=True), Waiting("q", B)], [Free(1, B)], Choice("p", 1)),
        ([Waiting("p"), Waiting("q", B)], [Free(1, B)], Choice("p", 1)),
        ([Waiting("p", A), Waiting("q", A, 9), Waiting("r", B)], [Free(1, B)], Choice("p", 1)),
        # A slot that cannot run it is passed over, and others behind it go on.
        ([Waiting("p", avoid=frozenset({1}))], [Free(1)], None),
        ([Waiting("p", avoid=frozenset({1})), Waiting("q")], [Free(1)], Choice("q", 1)),
        ([Waiting("p", A, avoid=frozenset({1}))], [Free(1, A), Free(2)], Choice("p", 2)),
    ],
)
def test_what_is_next(waiting: list[Waiting], free: list[Free], choice: Choice | None):
    assert next_run(waiting, free) == choice


def test_two_kinds_in_turn_load_each_model_once():
    """Prompts of two models in turn: each worker keeps to its model, and nobody starves."""
    line = [Waiting(f"{n}", A if n % 2 else B) for n in range(40)]
    holds = {1: frozenset[str](), 2: frozenset[str]()}
    loads = 0
    while line:
        for slot in holds:
            choice = next_run(line, [Free(slot, holds[slot])])
            assert choice is not None
            (chosen,) = [each for each in line if each.prompt_id == choice.prompt_id]
            assert int(chosen.prompt_id) - int(line[0].prompt_id) <= 2 * MOST_OVERTAKEN
            line = [
                replace(each, overtaken=each.overtaken + (each.prompt_id == choice.passed))
                for each in line
                if each is not chosen
            ]
            loads += chosen.models != holds[slot]
            holds[slot] = chosen.models
    assert loads == 2


def test_names_of_files_carry_the_worker():
    prompt = {
        "1": {"inputs": {"filename_prefix": "video/a", "n": 1}, "class_type": "SaveVideo"},
        "2": {"inputs": {"filename_prefix": ["1", 0]}},
        "3": None,
        "4": {"inputs": {"filename_prefix": ["5", 0]}},
        "5": {"inputs": {"value": "b_w12"}, "class_type": "PrimitiveString"},
    }
    marked = mark_names(prompt, 2)
    assert marked["4"]["inputs"] == {"filename_prefix": "b_w2"}, "marked once"
    assert marked["5"] == prompt["5"]
    assert marked["1"] == {
        "inputs": {"filename_prefix": "video/a_w2", "n": 1},
        "class_type": "SaveVideo",
    }
    assert (marked["2"], marked["3"]) == (prompt["2"], None)
    assert prompt["1"]["inputs"]["filename_prefix"] == "video/a"
