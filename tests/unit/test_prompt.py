"""Prompts as the official tokenizer wrapper cleans them."""

import sys

import pytest

from wan_model.config import NEGATIVE_PROMPT, TEXT_LEN
from wan_model.errors import BackendError
from wan_model.prompt import END_TOKEN, clean_prompt, cut_tokens, negative_or_official


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("a cat", "a cat"),
        ("  a\n\tcat \u00a0 runs\u3000fast  ", "a cat runs fast"),
        ("", ""),
        ("salt &amp; pepper", "salt & pepper"),
        ("salt &amp;amp; pepper", "salt & pepper"),
        ("salt &amp;amp;amp; pepper", "salt & pepper"),
        ("1 < 2 &amp;amp; 3", "1 < 2 & 3"),
        ("a &lt;b&gt; tag", "a <b> tag"),
        ("\u201cquoted\u201d, it\u2019s", '"quoted", it\'s'),
        ("schÃ¶n", "schön"),
        ("\uff37\uff21\uff2e\uff0c\uff11", "WAN,1"),
        ("(masterpiece:1.3) [x]", "(masterpiece:1.3) [x]"),
        ("UPPER case stays", "UPPER case stays"),
        ("走る猫", "走る猫"),
    ],
)
def test_cleaning(text: str, cleaned: str):
    assert clean_prompt(text) == cleaned


def test_official_negative_prompt_gets_plain_punctuation():
    cleaned = clean_prompt(NEGATIVE_PROMPT)

    assert cleaned == NEGATIVE_PROMPT.replace("\uff0c", ",")
    assert cleaned != NEGATIVE_PROMPT


def test_empty_negative_prompt_means_the_official_one():
    assert negative_or_official("") == NEGATIVE_PROMPT
    assert negative_or_official(" \n") == NEGATIVE_PROMPT
    assert negative_or_official("blurry") == "blurry"


@pytest.mark.parametrize("count", [1, TEXT_LEN - 1, TEXT_LEN])
def test_short_prompts_keep_every_token(count: int):
    tokens = [*range(5, 4 + count), END_TOKEN]

    assert cut_tokens(tokens) == tokens


def test_long_prompts_are_cut_before_their_end_token():
    tokens = [*range(5, 700), END_TOKEN]
    cut = cut_tokens(tokens)

    assert len(cut) == TEXT_LEN
    assert cut[:-1] == tokens[: TEXT_LEN - 1]
    assert cut[-1] == END_TOKEN


def test_missing_ftfy_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "ftfy", None)

    with pytest.raises(BackendError, match="pip install ftfy"):
        clean_prompt("a cat")
