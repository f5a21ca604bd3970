"""The transformer against diffusers' WanTransformer3DModel, at other sizes than the golden tensors.

Both get the same weights; inputs come from seeded generators. Sizes, head widths, depths, batches,
text lengths and timesteps vary, so that agreement at the golden sizes cannot be an accident.
"""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor
from torch.nn.functional import pad

from tests.parity.diffusers_names import RENAMED
from tests.parity.recipe import fill
from wan_model.attention import resolve
from wan_model.config import DiTConfig, Precision
from wan_model.dit import WanDiT

diffusers = pytest.importorskip("diffusers")

TEXT_DIM = 48
ATOL, RTOL = 1e-4, 1e-5


@dataclass(frozen=True)
class Case:
    """One pair of models and one set of inputs."""

    dim: int
    heads: int
    layers: int
    in_channels: int
    out_channels: int
    size: tuple[int, int, int]
    """Latent T, H, W."""
    timesteps: tuple[float, ...]
    """One per sample; their number is the batch size."""
    text_lengths: tuple[int, ...]
    seed: int

    @property
    def tokens_per_frame(self) -> int:
        """Tokens of one latent frame."""
        return self.size[1] // 2 * (self.size[2] // 2)


CASES = {
    "t2v, wide": Case(256, 2, 3, 16, 16, (2, 6, 14), (999.0,), (5,), 1),
    "t2v, tall, deep": Case(256, 2, 4, 16, 16, (4, 12, 4), (235.0,), (512,), 2),
    "t2v, one frame": Case(384, 3, 2, 16, 16, (1, 8, 8), (500.5,), (1,), 3),
    "t2v, narrow heads": Case(256, 4, 2, 16, 16, (3, 4, 10), (875.0,), (33,), 4),
    "t2v, batch": Case(384, 3, 2, 16, 16, (3, 6, 6), (962.0, 14.0), (7, 61), 5),
    "i2v, square": Case(256, 2, 4, 36, 16, (3, 8, 8), (900.0,), (21,), 6),
    "i2v, batch": Case(384, 3, 3, 36, 16, (2, 10, 6), (1.0, 994.0), (512, 9), 7),
}

TI2V_CASES = {
    "ti2v, one frame": Case(256, 2, 3, 48, 48, (1, 6, 10), (999.0,), (12,), 8),
    "ti2v, deep": Case(384, 3, 4, 48, 48, (4, 4, 6), (448.0,), (90,), 9),
    "ti2v, batch": Case(256, 2, 2, 48, 48, (3, 8, 6), (906.0, 172.0), (40, 3), 10),
}


def diffusers_key(key: str) -> str:
    """Returns the diffusers name of an official state-dict key."""
    for official, renamed in RENAMED:
        key = key.replace(official, renamed)
    return key


def make_pair(case: Case) -> tuple[WanDiT, torch.nn.Module]:
    """Returns our model and the diffusers one, with the same weights."""
    config = DiTConfig(
        dim=case.dim,
        ffn_dim=320,
        num_heads=case.heads,
        num_layers=case.layers,
        in_channels=case.in_channels,
        out_channels=case.out_channels,
        text_dim=TEXT_DIM,
    )
    ours = WanDiT(config, precision=Precision(), attention=resolve("sdpa"))
    fill(ours)
    theirs = diffusers.WanTransformer3DModel(
        num_attention_heads=config.num_heads,
        attention_head_dim=config.head_dim,
        in_channels=config.in_channels,
        out_channels=config.out_channels,
        text_dim=config.text_dim,
        ffn_dim=config.ffn_dim,
        num_layers=config.num_layers,
    )
    weights = {diffusers_key(key): tensor for key, tensor in ours.state_dict().items()}
    theirs.load_state_dict(weights, strict=True)
    return ours, theirs.eval()


def make_text(case: Case, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Returns the text as our model takes it, and padded to 512 as diffusers wants it."""
    longest = max(case.text_lengths)
    samples = [torch.randn(n, TEXT_DIM, generator=generator) for n in case.text_lengths]
    text = torch.stack([pad(sample, (0, 0, 0, longest - len(sample))) for sample in samples])
    return text, pad(text, (0, 0, 0, 512 - longest))


def run_pair(case: Case, ours: WanDiT, theirs: torch.nn.Module) -> tuple[Tensor, Tensor]:
    """Returns our velocity and that of diffusers, for one timestep per sample."""
    generator = torch.Generator().manual_seed(case.seed)
    x = torch.randn(len(case.timesteps), case.in_channels, *case.size, generator=generator)
    text, padded = make_text(case, generator)
    timestep = torch.tensor(case.timesteps)
    latent, cond = x[:, : case.out_channels], x[:, case.out_channels :]
    got = ours(latent, timestep, text, cond if ours.config.cond_channels else None)
    return got, theirs(x, timestep, padded, return_dict=False)[0]


@pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
@torch.no_grad()
def test_one_timestep_per_sample(case):
    got, expected = run_pair(case, *make_pair(case))
    torch.testing.assert_close(got, expected, atol=ATOL, rtol=RTOL)


@pytest.mark.parametrize("case", TI2V_CASES.values(), ids=list(TI2V_CASES))
@pytest.mark.parametrize("image", [True, False], ids=["with image", "text only"])
@torch.no_grad()
def test_one_timestep_per_token(case, image):
    ours, theirs = make_pair(case)
    generator = torch.Generator().manual_seed(case.seed)
    latent = torch.randn(len(case.timesteps), case.in_channels, *case.size, generator=generator)
    text, padded = make_text(case, generator)
    per_frame = torch.tensor(case.timesteps).unsqueeze(1).repeat(1, case.size[0])
    if image:
        per_frame[:, 0] = 0
    per_token = per_frame.repeat_interleave(case.tokens_per_frame, dim=1)

    expected = theirs(latent, per_token, padded, return_dict=False)[0]
    torch.testing.assert_close(ours(latent, per_token, text), expected, atol=ATOL, rtol=RTOL)
    torch.testing.assert_close(ours(latent, per_frame, text), expected, atol=ATOL, rtol=RTOL)


@torch.no_grad()
def test_every_token_can_have_a_timestep_of_its_own():
    case = TI2V_CASES["ti2v, batch"]
    ours, theirs = make_pair(case)
    generator = torch.Generator().manual_seed(11)
    latent = torch.randn(2, case.in_channels, *case.size, generator=generator)
    text, padded = make_text(case, generator)
    timestep = 1000 * torch.rand(2, case.size[0] * case.tokens_per_frame, generator=generator)

    expected = theirs(latent, timestep, padded, return_dict=False)[0]
    torch.testing.assert_close(ours(latent, timestep, text), expected, atol=ATOL, rtol=RTOL)


def exact_sinusoid(timestep: Tensor) -> Tensor:
    """Returns what diffusers' `Timesteps` does, with angles in float64 instead of float32."""
    frequencies = 10000.0 ** (-torch.arange(128, dtype=torch.float64) / 128)
    angles = timestep.double().unsqueeze(1) * frequencies
    return torch.cat((angles.cos(), angles.sin()), dim=1).float()


@pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
@torch.no_grad()
def test_all_that_differs_is_the_precision_of_the_sinusoid(case, monkeypatch):
    ours, theirs = make_pair(case)
    sinusoid = theirs.get_submodule("condition_embedder.timesteps_proj")
    monkeypatch.setattr(sinusoid, "forward", exact_sinusoid)
    got, expected = run_pair(case, ours, theirs)
    torch.testing.assert_close(got, expected, atol=5e-6, rtol=RTOL)
