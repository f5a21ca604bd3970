"""Help with prompts: who may be asked, answers of every kind, and the words of film."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.toy.language_model import (
    LanguageModel,
    drips,
    floods,
    language_model,
    says,
    sends,
    silent,
)
from wan_model.errors import EndpointError
from wan_model.prompt_help.chat import MAX_BODY, MAX_TEXT, Question, ask, cleaned
from wan_model.prompt_help.endpoint import HTTPS, checked_endpoint
from wan_model.prompt_help.film_words import OPEN, meanings, menus, with_cinematic_words
from wan_model.prompt_help.instructions import INSTRUCTIONS, in_one_text

GOOD = "A small red boat leaves the harbour."
HANGS = 300.0
"""Seconds that no answer takes, however busy the machine is."""


@pytest.mark.parametrize(
    ("address", "path"),
    [
        ("http://127.0.0.1:11434/v1", "/v1/chat/completions"),
        (" http://localhost:1234/v1/ ", "/v1/chat/completions"),
        ("https://[::1]", "/chat/completions"),
        ("http://127.9.9.9:80/a/b", "/a/b/chat/completions"),
    ],
)
def test_this_computer_may_be_asked(address: str, path: str):
    found = checked_endpoint(address, key="secret")
    assert found.path == path
    assert found.key is None  # nobody allowed the host to have it


@pytest.mark.parametrize(
    "address",
    [
        *(
            "",
            "127.0.0.1:11434/v1",
            "ftp://127.0.0.1/v1",
            "file:///etc/passwd",
            "http://",
            "http:///v1",
        ),
        *("http://user@127.0.0.1/v1", "http://:word@127.0.0.1/v1", "http://127.0.0.1/v1?a=b"),
        *("http://127.0.0.1/v1#a", "http://127.0.0.1/v1\r\nX: y", "http://127.0.0.1:99999/v1"),
        *("http://[::1/v1", "http://127.0.0.1/\u00e9"),
    ],
)
def test_what_is_no_address(address: str):
    with pytest.raises(EndpointError, match="no address of a language model"):
        checked_endpoint(address, "127.0.0.1, user, a.example")


@pytest.mark.parametrize(
    "address",
    [
        *("http://a.example/v1", "https://127.0.0.1.a.example/v1", "http://192.168.1.5:1234/v1"),
        *("http://0.0.0.0:80/v1", "http://169.254.169.254/v1", "http://localhost.a.example/v1"),
        *("http://2130706433/v1", "http://[::ffff:8.8.8.8]/v1"),
    ],
)
def test_other_computers_only_if_allowed(address: str):
    with pytest.raises(EndpointError, match="WANDUET_PROMPT_HOSTS"):
        checked_endpoint(address, "b.example, a.example:8443,,")


def test_keys_go_to_allowed_hosts_and_never_unencrypted():
    allowed = "A.example, lan:1234, localhost"
    assert checked_endpoint("https://a.example/v1", allowed, "secret").key == "secret"
    assert checked_endpoint("https://a.example:8/v1", allowed, "secret").key == "secret"
    assert checked_endpoint("http://a.example/v1", allowed, "secret").key is None
    assert checked_endpoint("http://lan:1234/v1", allowed, "secret").key is None
    assert checked_endpoint("http://localhost:1/v1", allowed, "secret").key == "secret"
    assert "secret" not in repr(checked_endpoint("https://a.example/v1", allowed, "secret"))
    assert checked_endpoint("https://a.example/v1", allowed).scheme == HTTPS
    assert checked_endpoint("https://a.example/v1", allowed, "secret\r\n").key == "secret"
    with pytest.raises(EndpointError) as refused:
        checked_endpoint("https://a.example/v1", allowed, "sec\nret")
    assert "sec" not in str(refused.value)


@pytest.fixture(scope="module")
def service() -> Iterator[LanguageModel]:
    many = {"choices": [{"message": {"content": GOOD}}], "filler": "x" * MAX_BODY}
    with language_model(
        good=says(f"<think>What a\nboat</think>\n\n**Prompt:** \u201c{GOOD}\u201d\n"),
        thoughts=says(f"I think of a boat.</think>{GOOD}"),
        chinese=says("\u4e00\u8258\u7ea2\u8272\u7684\u5c0f\u8239\u3002"),
        markup=says(f"<img src=x onerror=alert(1)>{GOOD}\x1b[2J\u202e"),
        empty=says("<think>nothing comes"),
        none=says(None),
        long=says("x" * (MAX_TEXT + 1)),
        huge=sends(json.dumps(many).encode()),
        nested=sends(b"[" * 200_000),
        html=sends(b"<html>hello</html>"),
        bytes=sends(b"\xff\xfe\x00"),
        list=sends(b"[]"),
        missing=sends(b'{"error": {"message": "no such model <b>"}}', 404),
        quotes=sends(b'{"error": {"message": "bad key secret"}}', 401),
        moved=sends(b"", 302, Location="http://127.0.0.1:1/"),
        drips=drips,
        floods=floods,
        silent=silent,
    ) as model:
        yield model


def answer(service: LanguageModel, model: str, seconds: float = HANGS, watch=lambda: None) -> str:
    question = Question(model, "Rewrite.", "a boat", attempt=3)
    return ask(checked_endpoint(service.address), question, seconds, watch)


def test_good_answers(service: LanguageModel):
    assert answer(service, "good") == GOOD
    assert answer(service, "thoughts") == GOOD
    assert answer(service, "chinese") == "\u4e00\u8258\u7ea2\u8272\u7684\u5c0f\u8239\u3002"
    assert answer(service, "markup") == f"img src=x onerror=alert(1) {GOOD} [2J"
    asked = service.requests[0]
    assert asked["path"] == "/v1/chat/completions"
    assert asked["messages"][0] == {"role": "system", "content": "Rewrite."}
    assert asked["messages"][1] == {"role": "user", "content": "a boat"}
    assert (asked["seed"], asked["stream"]) == (3, False)
    assert service.keys[0] is None


def test_a_key_that_is_quoted_stays_secret(service: LanguageModel):
    endpoint = checked_endpoint(service.address, "127.0.0.1", "secret")
    with pytest.raises(EndpointError, match=r"bad key \*\*\*"):
        ask(endpoint, Question("quotes", "Rewrite.", "a boat"), HANGS, lambda: None)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("empty", "no prompt"),
        ("none", "no prompt"),
        ("nested", "no prompt"),
        ("html", "Got 'html hello /html'"),
        ("bytes", "no prompt"),
        ("list", "no prompt"),
        ("long", "too long"),
        ("huge", "more than 256 KiB"),
        ("floods", "more than 256 KiB"),
        ("missing", "HTTP 404 no such model b,"),
        ("moved", "HTTP 302"),
    ],
)
def test_bad_answers(service: LanguageModel, model: str, message: str):
    with pytest.raises(EndpointError, match=message):
        answer(service, model)


@pytest.mark.parametrize("model", ["drips", "silent"])
def test_slow_answers_end_in_time(service: LanguageModel, model: str):
    with pytest.raises(EndpointError, match="in time"):
        answer(service, model, seconds=0.5)


def test_cancel_ends_a_request(service: LanguageModel):
    def cancel() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        answer(service, "drips", watch=cancel)


def test_nobody_there():
    question = Question("good", "Rewrite.", "a boat")
    with pytest.raises(EndpointError, match="cannot be reached"):
        ask(checked_endpoint("http://127.0.0.1:9/v1"), question, HANGS, lambda: None)


def test_an_image_is_sent_beside_the_text():
    question = Question("good", "Rewrite.", "a boat", image=b"\xff\xd8jpeg")
    image, text = json.loads(question.body())["messages"][1]["content"]
    assert image["image_url"]["url"].startswith("data:image/jpeg;base64,")
    assert text == {"type": "text", "text": "a boat"}


@pytest.mark.parametrize("text", ["Prompt: a boat", "```\na boat\n```", '"a boat"', "a\n\nboat"])
def test_dressing_is_taken_off(text: str):
    assert cleaned(text) == "a boat"


def test_instructions_say_how_to_answer():
    for (task, language), text in INSTRUCTIONS.items():
        assert in_one_text(task, language, " a boat ").startswith(text)
        assert in_one_text(task, language, " a boat ").endswith("\na boat")
        assert ("image" in text or "\u56fe\u7247" in text) == (task == "image to video")


def test_menus_have_words_in_both_languages():
    page = (Path(__file__).parents[2] / "docs" / "prompts.md").read_text("utf-8")
    assert list(menus()) == [
        *("light", "time_of_day", "shot_size", "angle", "lens", "composition", "colour_tone"),
        *("camera_movement", "style"),
    ]
    for menu in menus().values():
        assert 20 <= len(menu.tooltip) <= 170
        assert OPEN not in menu.terms
        for term in menu.terms.values():
            assert term.meaning.endswith(".")
            assert "\n" not in term.meaning
            assert term.en.isascii()
            assert not term.zh.isascii()
            assert f"| {term.name} | {term.en} | {term.zh} | {term.meaning} |" in page


def test_words_are_put_around_a_prompt():
    choices = {"light": "soft light", "shot_size": "close-up", "camera_movement": "push in"}
    english = with_cinematic_words(" A cat sleeps. ", choices, "English")
    assert english == "Soft lighting, close-up shot. A cat sleeps. The camera pushes in."
    chinese = with_cinematic_words("\u732b\u3002", choices, "Chinese")
    assert (
        chinese == "\u67d4\u5149\uff0c\u7279\u5199\u3002\u732b\u3002\u955c\u5934\u63a8\u8fdb\u3002"
    )
    assert with_cinematic_words("A cat.", dict.fromkeys(menus(), OPEN), "English") == "A cat."
    assert meanings(choices)[0] == "Light: soft light. Gentle shadows; kind to faces."
    assert len(meanings(choices)) == 3
