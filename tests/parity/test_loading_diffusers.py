"""Folders that diffusers writes, loaded by us, must compute what diffusers computes.

A wrong key map with right shapes, such as q swapped with k, shows in the numbers only.
"""

from pathlib import Path

import pytest
import torch

from tests.parity.recipe import fill, value
from wan_model import detect, load_dit, load_vae

pytest.importorskip("diffusers")
from diffusers import AutoencoderKLWan, WanTransformer3DModel


@pytest.mark.parametrize("shard_size", ["10GB", "2MB"])
def test_transformer(shard_size: str, tmp_path: Path):
    theirs = WanTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=128,
        in_channels=36,
        out_channels=16,
        text_dim=64,
        ffn_dim=512,
        num_layers=2,
    ).eval()
    fill(theirs)
    folder = tmp_path / "transformer"
    theirs.save_pretrained(folder, max_shard_size=shard_size)
    assert (len(list(folder.glob("*.safetensors"))) > 1) == (shard_size == "2MB")
    info = detect(folder)
    assert (info.kind, info.expert) == ("i2v", None)

    x, text = value("x", (1, 36, 2, 4, 6)), value("ctx", (1, 512, 64))
    t = torch.tensor([637.0])
    ours = load_dit(folder)(x[:, :16], t, text, x[:, 16:])
    with torch.no_grad():
        expected = theirs(x, t, text, return_dict=False)[0]
    torch.testing.assert_close(ours, expected, rtol=0, atol=3e-5)


@pytest.mark.parametrize("variant", ["wan2.1", "wan2.2"])
def test_vae(variant: str, tmp_path: Path):
    wan22 = {
        "decoder_base_dim": 16,
        "z_dim": 48,
        "is_residual": True,
        "in_channels": 12,
        "out_channels": 12,
        "patch_size": 2,
        "scale_factor_spatial": 16,
        "latents_mean": [0.0] * 48,
        "latents_std": [1.0] * 48,
    }
    theirs = AutoencoderKLWan(base_dim=8, **(wan22 if variant == "wan2.2" else {})).eval()
    fill(theirs)
    theirs.save_pretrained(tmp_path)
    assert detect(tmp_path).component == "vae"
    vae = load_vae(tmp_path)
    assert vae.config.variant == variant

    size = 32 if variant == "wan2.1" else 64
    video = value("video", (1, 3, 5, size, size)).clamp(-1, 1)
    z = value("z", (1, vae.config.z_dim, 2, 4, 4))
    with torch.no_grad():
        mode = theirs.encode(video).latent_dist.mode()
        decoded = theirs.decode(z, return_dict=False)[0]
    encoded = vae.encode(video)
    mean, std = (torch.tensor(v).view(1, -1, 1, 1, 1) for v in (vae.latent_mean, vae.latent_std))
    torch.testing.assert_close(encoded * std + mean, mode, rtol=0, atol=5e-6)
    ours = vae.decode((z - mean) / std).clamp(-1, 1)
    torch.testing.assert_close(ours, decoded, rtol=0, atol=5e-5)
