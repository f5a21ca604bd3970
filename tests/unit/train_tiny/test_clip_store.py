"""Training clips: made once, and again when what they depend on has changed."""

from dataclasses import replace

import pytest
import torch

from tests.unit.train_tiny.micro import CLIPS_AT_ONCE, CPU, micro_recipe
from tools.train_tiny.clip_store import training_clips
from tools.train_tiny.runs import open_dit_stage


@pytest.fixture
def maker(trained):
    return open_dit_stage("i2v_low", micro_recipe(), trained, CPU).makers["train"]


def test_clips_are_made_once(maker, trained, tmp_path):
    vae = trained.weights("vae21")
    made = training_clips(maker, CLIPS_AT_ONCE + 1, tmp_path, vae)
    (file,) = tmp_path.iterdir()
    changed = file.stat().st_mtime_ns
    read = training_clips(maker, CLIPS_AT_ONCE + 1, tmp_path, vae)
    assert file.stat().st_mtime_ns == changed
    assert set(made) == set(read) == {"latent", "tokens", "cond"}
    assert all(torch.equal(made[name], read[name]) for name in made)
    assert len(made["latent"]) == 2 * CLIPS_AT_ONCE
    second = maker.group(1, CLIPS_AT_ONCE)
    assert torch.equal(made["cond"][CLIPS_AT_ONCE:], second["cond"].bfloat16())
    assert torch.equal(made["tokens"][CLIPS_AT_ONCE:], second["tokens"])


def test_other_clips_get_another_file(maker, trained, tmp_path):
    vae = trained.weights("vae21")
    training_clips(maker, CLIPS_AT_ONCE, tmp_path, vae)
    training_clips(replace(maker, captions=1), CLIPS_AT_ONCE, tmp_path, vae)
    training_clips(replace(maker, last_frame_probability=0.5), CLIPS_AT_ONCE, tmp_path, vae)
    training_clips(maker, CLIPS_AT_ONCE, tmp_path, trained.weights("vae22"))
    assert len(list(tmp_path.iterdir())) == 4
