"""Trained weights go on with richer scenes: new words, and stages that begin with themselves."""

import sys
from dataclasses import replace

import pytest
import torch

from tests.unit.train_tiny.micro import CPU, micro_recipe, run
from tools.train_tiny import new_words
from tools.train_tiny.__main__ import main
from tools.train_tiny.config import SHIPPED, TEXT_ENCODER, Recipe
from tools.train_tiny.config_continued import continued
from tools.train_tiny.data import Clips
from tools.train_tiny.files import TrainingFolder
from tools.train_tiny.new_words import add_words
from tools.train_tiny.text_encoder import build_text_encoder
from tools.train_tiny.tokenizer import Tokenizer, train_tokenizer


def test_words_that_only_richer_scenes_need_get_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr(new_words, "SCENES", 150)
    monkeypatch.setattr(new_words, "LEAST", 4)
    recipe = micro_recipe()
    simple = replace(recipe, clips=replace(recipe.clips, scenes="simple"))
    clips = Clips(simple.clips, recipe.seed, "train", CPU)
    folder = TrainingFolder(tmp_path)
    folder.tokenizer.write_bytes(train_tokenizer(simple, clips))
    before = Tokenizer.load(folder.tokenizer, 200)
    encoder = build_text_encoder(recipe.text, before.size)
    folder.write_weights(TEXT_ENCODER, encoder.state_dict(), {})

    added = add_words(recipe, folder)
    after = Tokenizer.load(folder.tokenizer, 200)
    assert {"then", "follows", "past"} <= set(added)
    assert after.size == before.size + len(added)
    assert [len(after.ids(word)) for word in added] == [2] * len(added)  # and the closing one
    texts = [clips.caption(scene, n, 9) for n, scene in enumerate(clips.scenes(0, 150))]
    assert [before.ids(text) for text in texts] == [after.ids(text) for text in texts]
    table = folder.read_weights(TEXT_ENCODER)["shared.weight"].float()
    parts = table[before.ids("then")[:-1]]
    assert torch.allclose(table[after.ids("then")[0]], parts.mean(dim=0), atol=1e-2)
    assert add_words(recipe, folder) == []


def test_every_shipped_stage_begins_with_itself():
    recipe, again = Recipe(), continued(Recipe())
    for stage in SHIPPED:
        assert again.dits[stage].init_from == stage
        assert again.dit_config(stage) == recipe.dit_config(stage)
    assert again.text.init_from == TEXT_ENCODER
    assert all(vae.init_from == name for name, vae in again.vaes.items())


@pytest.mark.parametrize("rate", ["0", "-1", "nan"])
def test_a_rate_that_trains_nothing_is_refused(
    rate: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(sys, "argv", ["train_tiny", "sizes", "--go-on", rate])
    with pytest.raises(SystemExit):
        main()
    assert f"got {rate}, need a number above 0" in capsys.readouterr().err


def test_a_text_encoder_goes_on_with_its_weights(trained, tmp_path):
    recipe = micro_recipe()
    slow = replace(recipe.text.optimisation, learning_rate=0.0, matrix_learning_rate=0.0)
    recipe = replace(recipe, text=replace(recipe.text, init_from=TEXT_ENCODER, optimisation=slow))
    folder = TrainingFolder(tmp_path)
    folder.tokenizer.write_bytes(trained.tokenizer.read_bytes())
    expected = trained.read_weights(TEXT_ENCODER)
    folder.write_weights(TEXT_ENCODER, expected, {})
    run(TEXT_ENCODER, folder, recipe, steps=1)
    for name, weight in folder.read_weights(TEXT_ENCODER).items():
        assert torch.allclose(weight.float(), expected[name].float(), atol=1e-2), name


def test_a_vae_goes_on_with_its_decoder_alone(trained, tmp_path):
    recipe, name = micro_recipe(), "vae22"
    vaes = {name: replace(recipe.vaes[name], init_from=name)}
    folder = TrainingFolder(tmp_path)
    before = trained.read_weights(name)
    folder.write_weights(name, before, {})
    for _ in range(2):  # stopped, and on where it was
        run(name, folder, replace(recipe, vaes=vaes), steps=2, stop_after=1)
    changed = {
        key.split(".")[0]
        for key, weight in folder.read_weights(name).items()
        if not torch.equal(weight, before[key])
    }
    assert changed == {"decoder", "conv2"}
