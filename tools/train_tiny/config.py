"""The whole recipe of the tiny Wan2.2 in one frozen dataclass, `Recipe`.

Widths are chosen so that all files together stay below 60 MB (`python -m tools.train_tiny sizes`).
`seconds` is what a stage is given when the command line says nothing else; its schedule is cut to
what the machine does in that time, so the numbers of steps are upper limits.

Measured on one H200: 18 steps a second of `vae21`, 35 of `vae22`, 50 of
`t2v_small`, 70 of `t2v` and the experts, 59 of `ti2v`. The first 50 steps of a stage take up
to 45 s: cuDNN tries its kernels, and blocks and norms are compiled. Clips are made in 47 s for
`t2v_small`, 87 s for T2V, 150 s for I2V and about 230 s for TI2V (28,672 clips took 101 s, beside
other work): part of the time of the first stage that needs them, unless they were made beforehand,
as those of the shipped weights but the first.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from wan_model.config import TEXT_LEN, DiTConfig, Kind, VaeConfig

from .scenes import SAMPLERS


@dataclass(frozen=True, kw_only=True)
class ClipRecipe:
    """The clips everything is trained on."""

    frames: int = 17
    """4n+1."""
    size_px: int = 128
    scenes: str = "rich"
    """One of `SAMPLERS`: "simple", which everything shipped so far was trained on, "hard", which
    are simple ones with more of what models get wrong, or "rich"."""

    def __post_init__(self) -> None:
        """Refuses scenes that do not exist."""
        if self.scenes not in SAMPLERS:
            known = ", ".join(SAMPLERS)
            raise ValueError(f"No scenes are called so. Got {self.scenes!r}, need one of: {known}.")


@dataclass(frozen=True, kw_only=True)
class Optimisation:
    """Muon and AdamW with a warm-up, a constant learning rate, and a linear decay to zero."""

    steps: int
    seconds: float
    batch_size: int
    learning_rate: float
    """Of AdamW: vectors, and matrices that meet data or tokens."""
    matrix_learning_rate: float
    """Of Muon, for all other matrices, in the same unit."""
    warmup_steps: int = 200
    decay_fraction: float = 0.5
    """Part of the steps, at the end, in which the learning rate falls."""
    betas: tuple[float, float] = (0.9, 0.95)
    """Of AdamW."""
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    ema_decay: float = 0.9985
    """Of the averaged weights, which are the ones validated and shipped."""


@dataclass(frozen=True, kw_only=True)
class VaeRecipe:
    """One VAE. It sees whole clips: trained on 9 frames, it was 6 dB worse in the 17th."""

    model: VaeConfig
    optimisation: Optimisation
    mse_weight: float = 5.0
    edge_weight: float = 0.5
    """Of the absolute error of differences between neighbouring pixels and frames."""
    kl_weight: float = 2e-5
    moment_clips: int = 512
    """Clips whose latents get mean 0 and standard deviation 1 when training ends."""
    smallest_std: float = 0.02
    """A latent channel that varies less than this is not stretched to standard deviation 1."""
    init_from: str | None = None
    """Stage whose weights it starts with. Then the encoder stays as it is, and with it the latents
    that transformers have been trained on; only the decoder is trained."""


@dataclass(frozen=True, kw_only=True)
class TextRecipe:
    """Tokenizer and umT5 encoder.

    The encoder learns to answer questions about captions, and is frozen before any transformer is
    trained, as umT5 is for the real models.
    """

    vocabulary: int = 800
    """At most; 256 of them are bytes, into which unknown characters fall apart."""
    corpus_captions: int = 12000
    negative_repeats: int = 1000
    """Copies of the official negative prompt among the captions, so that its pieces are long."""
    dim: int = 128
    heads: int = 2
    """umT5 has heads of 64 numbers, which together are `dim` wide."""
    ffn_dim: int = 256
    layers: int = 3
    max_tokens: int = 127
    """Longer captions are cut in training. The negative prompt must fit."""
    question_scenes: int = 8192
    """Scenes whose captions are asked about, each in endless wordings."""
    optimisation: Optimisation = Optimisation(
        steps=8000, seconds=110, batch_size=128, learning_rate=2e-3, matrix_learning_rate=4e-3
    )
    """Of the questions."""
    init_from: str | None = None
    """Stage whose weights it starts with."""


@dataclass(frozen=True, kw_only=True)
class DiTSize:
    """How large a transformer is."""

    dim: int = 256
    """Hidden width, in heads of 128."""
    ffn_dim: int = 512
    layers: int = 5
    head_dim: int = 128


@dataclass(frozen=True, kw_only=True)
class DiTRecipe:
    """One transformer. Which part of the noise levels it is trained on makes it an expert."""

    kind: Kind
    vae: str
    """Stage of the VAE whose latents it works on."""
    optimisation: Optimisation
    size: DiTSize = DiTSize()
    size_px: int = 128
    """Of the clips."""
    sigma_range: tuple[float, float] = (0.0, 1.0)
    """Noise levels: one expert's side of the boundary."""
    shift: float = 5.0
    """Of the uniform distribution that noise levels are drawn from."""
    init_from: str | None = None
    """Stage whose weights it starts with."""
    image_probability: float = 0.5
    """TI2V: how often the first frame is given."""
    last_frame_probability: float = 0.1
    """I2V: how often the last frame is given as well."""


@dataclass(frozen=True, kw_only=True)
class GuidanceRecipe:
    """Captions left out, so that classifier-free guidance has something to point away from.

    Half of them become the official negative prompt, which is what the pack's own nodes use when
    no negative prompt is given, the other half the empty prompt, which core's nodes give.
    """

    dropout: float = 0.14
    negative_share: float = 0.5


@dataclass(frozen=True, kw_only=True)
class PoolRecipe:
    """Clips that are kept on the device."""

    clips: int = 65536
    """For the transformers, as latents; made once for all stages of a kind."""
    captions: int = 6
    """Different captions per clip."""
    group_size: int = 32
    """Clips rendered at once for the VAEs, which are trained on pixels."""
    vae_groups: int = 32
    vae_refresh_steps: int = 16
    """Steps after which the oldest group is replaced by new clips."""


TEXT_ENCODER = "text_encoder"
"""Stage of the text encoder."""

VAES = {
    "vae21": VaeRecipe(
        model=VaeConfig(variant="wan2.1", encoder_dim=12, decoder_dim=12, z_dim=16),
        optimisation=Optimisation(
            steps=14000, seconds=200, batch_size=6, learning_rate=1.5e-3, matrix_learning_rate=2e-3
        ),
    ),
    "vae22": VaeRecipe(
        model=VaeConfig(variant="wan2.2", encoder_dim=12, decoder_dim=16, z_dim=48),
        optimisation=Optimisation(
            steps=16000, seconds=300, batch_size=6, learning_rate=1.5e-3, matrix_learning_rate=2e-3
        ),
    ),
}

T2V_BOUNDARY, I2V_BOUNDARY = 0.875, 0.900


def dit_optimisation(
    steps: int, seconds: float, matrix_learning_rate: float, batch_size: int = 128
) -> Optimisation:
    """Returns the settings of a transformer.

    The learning rate falls almost from the start: at a constant rate the loss hardly fell from
    step 3000 to 10000, and what a caption says of the motion was hardly learned.
    """
    return Optimisation(
        steps=steps,
        seconds=seconds,
        batch_size=batch_size,
        learning_rate=matrix_learning_rate / 3,
        matrix_learning_rate=matrix_learning_rate,
        decay_fraction=0.85,
        ema_decay=0.999,
    )


DITS = {
    "t2v_small": DiTRecipe(
        kind="t2v",
        vae="vae21",
        optimisation=dit_optimisation(24000, 220, 5e-3, batch_size=512),
        size_px=64,
    ),
    "t2v": DiTRecipe(
        kind="t2v",
        vae="vae21",
        optimisation=dit_optimisation(36000, 400, 3e-3),
        init_from="t2v_small",
    ),
    "t2v_single": DiTRecipe(
        kind="t2v",
        vae="vae21",
        optimisation=dit_optimisation(20000, 180, 2e-3),
        init_from="t2v",
    ),
    "t2v_high": DiTRecipe(
        kind="t2v",
        vae="vae21",
        optimisation=dit_optimisation(20000, 180, 2e-3),
        sigma_range=(T2V_BOUNDARY, 1.0),
        init_from="t2v",
    ),
    "t2v_low": DiTRecipe(
        kind="t2v",
        vae="vae21",
        optimisation=dit_optimisation(20000, 180, 2e-3),
        sigma_range=(0.0, T2V_BOUNDARY),
        init_from="t2v",
    ),
    "i2v_high": DiTRecipe(
        kind="i2v",
        vae="vae21",
        optimisation=dit_optimisation(20000, 200, 3e-3),
        sigma_range=(I2V_BOUNDARY, 1.0),
        init_from="t2v_high",
    ),
    "i2v_low": DiTRecipe(
        kind="i2v",
        vae="vae21",
        optimisation=dit_optimisation(20000, 200, 3e-3),
        sigma_range=(0.0, I2V_BOUNDARY),
        init_from="t2v_low",
    ),
    "ti2v": DiTRecipe(
        kind="ti2v",
        vae="vae22",
        size=DiTSize(dim=512),
        optimisation=dit_optimisation(60000, 540, 3e-3),
        size_px=192,
    ),
}
"""Words are learned from small clips, of which a step sees four times as many. `t2v` covers all
noise levels, and every other T2V and I2V transformer begins with it. `t2v_single` goes on with it
for as long as each expert does: the one model that the two experts are compared with. These three
are not shipped. TI2V is wider, for its tokens have three times the numbers of the others
(models/README.md), so it begins with random weights."""

SHIPPED = ("t2v_high", "t2v_low", "i2v_high", "i2v_low", "ti2v")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides how the tiny Wan2.2 comes out."""

    seed: int = 2022
    clips: ClipRecipe = ClipRecipe()
    text: TextRecipe = TextRecipe()
    guidance: GuidanceRecipe = GuidanceRecipe()
    pool: PoolRecipe = PoolRecipe()
    vaes: Mapping[str, VaeRecipe] = field(default_factory=lambda: dict(VAES))
    dits: Mapping[str, DiTRecipe] = field(default_factory=lambda: dict(DITS))

    @property
    def stages(self) -> tuple[str, ...]:
        """Everything to be trained, in an order that works."""
        return (TEXT_ENCODER, *self.vaes, *self.dits)

    def dit_config(self, stage: str, text_len: int = TEXT_LEN) -> DiTConfig:
        """Returns the sizes of the transformer of a stage."""
        kind, size = self.dits[stage].kind, self.dits[stage].size
        in_channels, out_channels = {"t2v": (16, 16), "i2v": (36, 16), "ti2v": (48, 48)}[kind]
        return DiTConfig(
            dim=size.dim,
            ffn_dim=size.ffn_dim,
            num_heads=size.dim // size.head_dim,
            num_layers=size.layers,
            in_channels=in_channels,
            out_channels=out_channels,
            text_dim=self.text.dim,
            text_len=text_len,
        )

    def digest(self) -> str:
        """Returns a short fingerprint, which every file of weights carries."""
        plain = asdict(self)
        return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:16]
