"""The tokenizer and the text encoder."""

import torch

from tests.unit.train_tiny.micro import CPU, micro_recipe
from tools.train_tiny.config import GuidanceRecipe
from tools.train_tiny.data import Clips, generator
from tools.train_tiny.runs import open_tokenizer
from tools.train_tiny.scenes import MOTIONS
from tools.train_tiny.text_encoder import CaptionDropout, build_text_encoder, encode_text
from tools.train_tiny.text_stage import COLOURS, Captions
from tools.train_tiny.tokenizer import train_tokenizer
from wan_model.config import NEGATIVE_PROMPT


def test_the_tokenizer_is_the_same_every_time(trained):
    recipe = micro_recipe()
    clips = Clips(recipe.clips, recipe.seed, "train", CPU)
    assert train_tokenizer(recipe, clips) == trained.tokenizer.read_bytes()


def test_special_tokens_are_those_of_umt5(trained):
    tokenizer = open_tokenizer(micro_recipe(), trained)
    rows = tokenizer.batch(["A red  circle", "a red circle", "日本 zebra 🦓", "", NEGATIVE_PROMPT])
    assert torch.equal(rows[0], rows[1])
    assert rows[3].tolist()[:2] == [1, 0]
    assert not (rows == 2).any()
    for row in rows:
        length = int((row != 0).sum())
        assert row[length - 1] == 1
        assert not row[length:].any()
    processor = tokenizer.processor
    assert [processor.pad_id(), processor.eos_id(), processor.unk_id()] == [0, 1, 2]
    assert (rows[4] != 0).sum() == len(tokenizer.ids(NEGATIVE_PROMPT))


def test_long_captions_keep_their_end(trained):
    tokenizer = open_tokenizer(micro_recipe(), trained)
    row = tokenizer.batch(["zebra " * 500])[0]
    assert row[-1] == 1
    assert (row != 0).all()


def test_embeddings_do_not_depend_on_the_padding(trained):
    recipe = micro_recipe()
    tokenizer = open_tokenizer(recipe, trained)
    encoder = build_text_encoder(recipe.text, tokenizer.size)
    rows = tokenizer.batch(["a red circle moves up", "a star"])
    with torch.no_grad():
        whole = encode_text(encoder, rows)
        for row, embedding in zip(rows, whole, strict=True):
            length = int((row != 0).sum())
            alone = encode_text(encoder, row[None, :length])[0]
            assert (embedding[:length] - alone).abs().max() < 1e-5
            assert not embedding[length:].any()


def test_captions_are_dropped_as_often_as_the_recipe_says(trained):
    tokenizer = open_tokenizer(micro_recipe(), trained)
    dropout = CaptionDropout(GuidanceRecipe(dropout=0.2, negative_share=0.25), tokenizer, CPU)
    rows = tokenizer.batch(["a red circle"]).expand(4000, -1)
    dropped = dropout(rows, generator(CPU, 0))
    empty = (dropped == dropout.prompts[0]).all(dim=1).float().mean()
    negative = (dropped == dropout.prompts[1]).all(dim=1).float().mean()
    kept = (dropped == rows).all(dim=1).float().mean()
    assert abs(empty - 0.15) < 0.02
    assert abs(negative - 0.05) < 0.02
    assert abs(kept - 0.8) < 0.02


def test_a_question_is_about_one_object(trained):
    """The same scene, asked about either of its objects, has two right answers."""
    recipe = micro_recipe()
    clips = Clips(recipe.clips, recipe.seed, "train", CPU)
    scene = next(scene for scene in clips.scenes(0, 200) if len(scene.things) == 2)
    batch = Captions(clips, open_tokenizer(recipe, trained), [scene]).batch(64)
    answers = set(zip(batch["colour"].tolist(), batch["motion"].tolist(), strict=True))
    assert answers == {(COLOURS.index(t.colour), MOTIONS.index(t.motion)) for t in scene.things}
