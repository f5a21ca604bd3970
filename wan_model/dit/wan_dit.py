"""The Wan2.2 diffusion transformer (`wan/modules/model.py` of the official repository).

It knows nothing of weight formats, offloading or step caches: those come in through the linear
layers, the attention function and the way the blocks are run.

Shape legend: B batch, T x H x W latent size, L = T * H/2 * W/2 tokens, C hidden width.
"""

from contextlib import nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ..attention import AttentionFn, copies_of
from ..config import DiTConfig, Precision
from ..quant import Linear
from .activation_memory import StageKind, activation_bytes
from .block import Block, Head, PatchEmbedding
from .block_runner import BlockRunner, run_in_order
from .expanded_blocks import expanded_bytes, with_expanded
from .inputs import BlockInputs, check_inputs
from .rope import Rotation, rotation
from .timesteps import TimestepRows, distinct_timesteps, sinusoid
from .tokens import Residual


@dataclass(frozen=True)
class TimeEmbedding:
    """What the timesteps become: one vector for the head, six for every block."""

    head: TimestepRows
    blocks: TimestepRows


class WanDiT(nn.Module):
    """Predicts the velocity noise - x0 of a noisy latent.

    The parameters have the names of the official checkpoints. They are created uninitialised;
    build the model on the meta device and let `load_dit` fill it.
    """

    def __init__(
        self,
        config: DiTConfig,
        *,
        precision: Precision,
        attention: AttentionFn,
        linear: type[Linear] = Linear,
        block: type[Block] = Block,
    ) -> None:
        super().__init__()
        self.config = config
        self.precision = precision
        self.attend = attention
        dim, fp32 = config.dim, torch.float32
        self.patch_embedding = PatchEmbedding(config)
        self.text_embedding = nn.Sequential(
            linear(config.text_dim, dim, compute_dtype=fp32),
            nn.GELU(approximate="tanh"),
            linear(dim, dim, compute_dtype=fp32),
        )
        self.time_embedding = nn.Sequential(
            linear(config.freq_dim, dim, compute_dtype=fp32),
            nn.SiLU(),
            linear(dim, dim, compute_dtype=fp32),
        )
        self.time_projection = nn.Sequential(nn.SiLU(), linear(dim, 6 * dim, compute_dtype=fp32))
        self.blocks = nn.ModuleList(
            block(config, precision, linear) for _ in range(config.num_layers)
        )
        self.head = Head(config, linear)

    def forward(
        self,
        latent: Tensor,
        timestep: Tensor,
        text: Tensor,
        cond: Tensor | None = None,
        *,
        run_blocks: BlockRunner = run_in_order,
    ) -> Tensor:
        """Returns the velocity, shape and dtype of `latent`.

        Args:
            latent: noisy latent (B, C_out, T, H, W), H and W even.
            timestep: sigma * 1000; (B,), (B, T) per latent frame, or (B, L) per token.
            text: text encoder output (B, S, text_dim), S <= 512, without padding or zero-padded.
            cond: I2V only: mask and image channels (B, C_in - C_out, T, H, W).
            run_blocks: runs the blocks.

        Raises:
            ShapeError: if the tensors do not fit the model or each other.
        """
        timestep = timestep.expand(latent.shape[0]) if timestep.ndim == 0 else timestep
        check_inputs(self.config, latent, timestep, text, cond)
        # Without anything to train, activations can be reused as they can under no_grad.
        tensors = (latent, text, *(() if cond is None else (cond,)), *self.parameters())
        needs_grad = any(tensor.requires_grad for tensor in tensors)
        with nullcontext() if needs_grad else torch.no_grad():
            velocity = self.velocity(latent, timestep, text, cond, with_expanded(run_blocks))
        return velocity.to(latent.dtype)

    def velocity(
        self,
        latent: Tensor,
        timestep: Tensor,
        text: Tensor,
        cond: Tensor | None,
        run_blocks: BlockRunner,
    ) -> Tensor:
        """As `forward`, unchecked, in fp32, for any text length; `run_blocks` runs the blocks."""
        x = latent if cond is None else torch.cat((latent, cond.to(latent.dtype)), dim=1)
        grid = (x.shape[2], x.shape[3] // 2, x.shape[4] // 2)
        time = self.embed_time(timestep, grid)
        inputs = BlockInputs(
            time=time.blocks,
            rotation=self.angles(grid, x.device),
            text=self.embed_text(text),
            attend=self.attend,
            residual=Residual(recorded=torch.is_grad_enabled()),
        )
        tokens = self.patch_embedding(
            rearrange(x, "b c t (h q) (w r) -> b (t h w) (c q r)", q=2, r=2)
        ).to(self.precision.residual_dtype)
        del x  # with cond it is a tensor of its own, of no use to the blocks
        tokens = run_blocks(self.blocks, tokens, inputs)
        patches = self.head(tokens, time.head)
        t, h, w = grid
        return rearrange(patches, "b (t h w) (q r c) -> b c t (h q) (w r)", t=t, h=h, w=w, q=2, r=2)

    def activation_bytes(
        self, batch: int, frames: int, height: int, width: int, stages: StageKind = "own"
    ) -> int:
        """Returns what `velocity` needs beside stored weights, for a latent of this size."""
        size = (batch, frames, height, width)
        copies = copies_of(self.attend)
        activations = activation_bytes(self.config, self.precision, *size, copies, stages)
        return activations + expanded_bytes(self.blocks)

    def angles(self, grid: tuple[int, int, int], device: torch.device) -> Rotation:
        """Returns the rotary position embedding of a grid of tokens."""
        return rotation(grid, self.config.head_dim, device)

    def embed_text(self, text: Tensor) -> Tensor:
        """Returns the embedded text (B, S >= 512, C) in the blocks' compute dtype.

        Short text is padded with zeros *before* the embedding, so that the padding becomes a
        constant token that takes part in cross-attention, as in training.
        """
        missing = max(0, self.config.text_len - text.shape[1])
        embedded = self.text_embedding(F.pad(text, (0, 0, 0, missing)))
        return embedded.to(self.precision.compute_dtype)

    def embed_time(self, timestep: Tensor, grid: tuple[int, int, int]) -> TimeEmbedding:
        """Embeds the distinct timesteps, in fp32."""
        t, h, w = grid
        values, index = distinct_timesteps(timestep, t * h * w)
        embedding = self.time_embedding(sinusoid(values, self.config.freq_dim))
        projected = self.time_projection(embedding).unflatten(1, (6, -1))
        return TimeEmbedding(
            head=TimestepRows(embedding.unsqueeze(1), index), blocks=TimestepRows(projected, index)
        )
