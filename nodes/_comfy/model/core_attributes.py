"""What nodes for core's Wan model look up on it beside layers."""

from typing import Any, NoReturn

from torch import Tensor, nn

from ....wan_model.config import DiTConfig
from ....wan_model.errors import PairingError
from .core_positions import positions


def _of_config(name: str) -> property:
    """Returns an attribute that is a size of the model's `config`."""
    return property(lambda module: getattr(module.config, name))


class CoreAttributes(nn.Module):
    """Mixin of a transformer with a `config`."""

    config: DiTConfig
    rope_embedder: nn.Module
    patch_size = (1, 2, 2)
    model_type = "t2v"
    """To core an "i2v" model is one with an embedding of the start image, as Wan2.1 has."""
    img_emb = ref_conv = None

    dim = _of_config("dim")
    ffn_dim = _of_config("ffn_dim")
    freq_dim = _of_config("freq_dim")
    text_dim = _of_config("text_dim")
    text_len = _of_config("text_len")
    in_dim = _of_config("in_channels")
    out_dim = _of_config("out_channels")
    num_heads = _of_config("num_heads")
    num_layers = _of_config("num_layers")

    def rope_encode(
        self,
        t: int,
        h: int,
        w: int,
        t_start: float = 0,
        steps_t: int | None = None,
        steps_h: int | None = None,
        steps_w: int | None = None,
        device: Any = None,
        dtype: Any = None,
        transformer_options: dict[str, Any] | None = None,
        **_: Any,
    ) -> Tensor:
        """Returns the rotations of a video's tokens, fp32 (1, L, 1, P, 2, 2).

        Args:
            t: latent frames.
            h: height of the latent.
            w: width of the latent.
            t_start: place of the first frame.
            steps_t: tokens along time, unless there is one for each place.
            steps_h: along the height.
            steps_w: along the width.
            device: that positions are made on.
            dtype: of positions.
            transformer_options: ComfyUI's.
        """
        sizes = (t, (h + 1) // 2, (w + 1) // 2)
        steps = tuple(
            size if step is None else step
            for size, step in zip(sizes, (steps_t, steps_h, steps_w), strict=True)
        )
        options = transformer_options or {}
        ids = positions(sizes, (t_start, 0, 0), steps, options, device, dtype)  # pyright: ignore[reportArgumentType]
        return self.rope_embedder(ids).movedim(1, 2)

    def forward_orig(self, *_: Any, **__: Any) -> NoReturn:
        """Takes the place of the inside of core's forward pass, which some nodes replace.

        Raises:
            PairingError: says what to use in place of such a node.
        """
        raise PairingError(
            "Another node replaces the inside of ComfyUI's own Wan model. Got one of 'Wan 2.2 Load "
            "Model' or 'Wan 2.2 Load 14B Experts', which computes in its own way, need one of "
            "ComfyUI's 'Load Diffusion Model'. Use 'Wan 2.2 Step Cache' in place of nodes such as "
            "TeaCache or MagCache, or load the model with 'Load Diffusion Model'."
        )
