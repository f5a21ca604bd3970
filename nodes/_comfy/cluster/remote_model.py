"""MODELs without weights, whose forward passes run in other processes.

To ComfyUI and to our own nodes they are MODELs of our loaders: what is around a forward pass, such
as guidance, samplers, step caches, LoRAs and wrappers, is where it was. What reaches into the
transformer cannot be sent to other processes, and is refused.
"""

import sys
import weakref
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ....wan_model.attention import SparseSchedule, name_of, resolve
from ....wan_model.errors import BackendError, PairingError
from ....wan_model.offload import Limits
from ..host import runtime
from ..host.runtime import cache_folder
from ..model.base_model import base_model
from ..model.comfy_dit import ComfyWanDiT
from ..model.comfy_linear import ComfyLinear
from ..model.core_hooks import ATTENTION, PATCHES
from ..model.core_positions import OPTION as POSITIONS
from ..model.core_positions import is_cores_own
from ..model.facts import check_experts, model_facts
from ..model.forward_pass import COMPILED, NEGATIVE, ForwardPass, ModelInputs, Velocity
from ..model.load_models import CHECKPOINT, CONVERTED, LOADED_WITH
from ..model.patcher import WanPatcher
from ..model.precision_choice import QUANTIZED, weights_of
from ..model.timed_prompts import SCHEDULE
from ..model.unknown_hooks import ROOT
from .distributed_vae import distributed_vae
from .ray_session import connected, workers_of
from .remote_pool import RemotePool, Source, check_mode

ADVICE = "Remove the node that adds them, or 'Wan 2.2 Distribute'."


def distributed(
    models: Sequence[Any], mode: str, gpus: int, address: str, vae: Any = None
) -> tuple[list[Any], Any]:
    """Returns MODELs of the same files whose forward passes run on several GPUs, and a VAE's.

    Args:
        models: one of our loaders, or both experts; they are left as they are.
        mode: one of `remote_pool.MODES`.
        gpus: how many; 0 for all.
        address: of a Ray cluster; "" for this computer.
        vae: of our loader, whose rows are to be shared; or None, which is returned then.

    Raises:
        BackendError: if Ray is missing or does not start.
        PairingError: if a MODEL or the VAE cannot be distributed.
        SettingsError: if it cannot be split so.
    """
    _check_system()
    facts = [model_facts(model) for model in models]
    if len(facts) == 2:
        check_experts(*facts)
    source = _source(models, [known.label for known in facts])
    ranks = workers_of(connected(address), gpus)
    check_mode(mode, ranks, source.heads, len(models))
    pool = RemotePool(source, mode, ranks, address)
    shared = None if vae is None else distributed_vae(vae, pool)
    return [_remote(model, pool, number) for number, model in enumerate(models)], shared


def _check_system() -> None:
    """Refuses systems whose PyTorch cannot connect processes with their devices."""
    on_gpu = runtime.compute_device().type == "cuda"
    if dist.is_available() and (dist.is_nccl_available() or not on_gpu) and sys.platform == "linux":
        return
    raise BackendError(
        f"Several GPUs cannot compute one video here. Got {sys.platform}, need Linux and a PyTorch "
        "with NCCL. Remove 'Wan 2.2 Distribute'; one expert on each GPU works everywhere, by the "
        "loader's devices."
    )


def _source(models: Sequence[Any], labels: Sequence[str]) -> Source:
    """Returns what both experts are loaded from."""
    for model, label in zip(models, labels, strict=True):
        dit = model.model.diffusion_model
        if model.get_attachment(LOADED_WITH) is None or isinstance(dit, RemoteDiT):
            raise PairingError(
                f"This MODEL cannot be distributed. Got {label} of another node, need one of 'Wan "
                "2.2 Load Model' or 'Wan 2.2 Load 14B Experts'. Connect that."
            )
        if isinstance(dit.attend, SparseSchedule):
            raise BackendError(
                "Attention that depends on the step cannot be distributed. Got kitchen_sol or "
                "auto_fast, need one kernel for all steps. Choose another attention at the "
                "loader by name; on auto, its speed 'fast' or 'fastest' chooses these."
            )
    if len({_how(model) for model in models}) > 1:
        raise PairingError(
            "Both experts run alike where they are distributed. Got a precision, an attention or "
            "limits of memory that differ, need the same for both. Load them with one 'Wan 2.2 "
            "Load 14B Experts' whose devices are auto."
        )
    precision, limits, dtype, attention = _how(models[0])
    dit = models[0].model.diffusion_model
    return Source(
        files=tuple(str(model.get_attachment(CHECKPOINT).path) for model in models),
        labels=tuple(labels),
        dtype=str(dtype).removeprefix("torch."),
        weights=weights_of(precision),
        attention=attention,
        limits=limits,
        folder=str(cache_folder() / CONVERTED) if precision in QUANTIZED else "",
        heads=dit.config.num_heads,
    )


def _how(model: Any) -> tuple[str, Limits, torch.dtype, str]:
    """Returns how a MODEL runs: precision as it was asked for, limits, dtype and attention."""
    precision, limits = model.get_attachment(LOADED_WITH)
    dit = model.model.diffusion_model
    return precision, limits or Limits(), dit.precision.compute_dtype, name_of(dit.attend)


def _remote(model: Any, pool: RemotePool, expert: int) -> Any:
    """Returns a MODEL with everything that is attached to another one, but for its weights."""
    dit = model.model.diffusion_model
    with torch.device("meta"):
        layers = RemoteDiT(
            dit.config, precision=dit.precision, attention=resolve("sdpa"), linear=ComfyLinear
        )
    layers.remote, layers.expert = weakref.ref(pool), expert
    pool.attach(expert, layers)
    base: Any = base_model(layers)
    base.pool, base.expert = pool, expert
    remote = RemotePatcher(base, model.load_device, model.offload_device)
    own = {name: vars(remote)[name] for name in ("model", "load_device", "offload_device")}
    remote.__dict__.update({**vars(model.clone()), **own})
    return remote


class RemoteDiT(ComfyWanDiT):
    """The transformer without weights."""

    remote: weakref.ref[RemotePool] | None = None
    """Who computes; it refers to this, so it is owned by the model around this."""

    def activation_bytes(self, *_: Any, **__: Any) -> int:
        """Returns what a pass takes in this process."""
        return 0

    def _pass(self, options: dict[str, Any]) -> ForwardPass:
        return RemotePass(self, options, self.first_passes, None)


class RemotePass(ForwardPass):
    """A forward pass of which only what is around it happens here."""

    def run(self, velocity: Velocity, inputs: ModelInputs) -> Tensor:  # noqa: ARG002
        """Returns the velocity.

        Raises:
            PairingError: if other nodes' patches reach into the transformer.
        """
        self._name_unknown_hooks()
        self._tell_patches(inputs)
        self._refuse_patches()
        dit: Any = self.dit
        pool = dit.remote()
        assert pool is not None, "the MODEL that owns the processes is gone"
        channels = dit.config.out_channels
        tensors = {
            "latent": inputs.x[:, :channels],
            "timestep": inputs.timestep,
            "text": inputs.text,
            "cond": inputs.x[:, channels:] if dit.config.cond_channels else None,
        }
        return pool.predict(dit.expert, tensors, self._sent_options(inputs.x))

    def _sent_options(self, x: Tensor) -> dict[str, Any]:
        options: dict[str, Any] = {}
        if COMPILED in self.options:
            options["compiled"] = self.options[COMPILED].mode
        guidance = self.options.get(NEGATIVE)
        away = None if guidance is None else guidance.at(self.options, lambda text: text, x)
        if away is not None:
            options["negative"] = {
                "text": away.embedded.cpu(),
                "alpha": away.alpha.cpu(),
                "settings": asdict(away.settings),
            }
        return options

    def _refuse_patches(self) -> None:
        """Refuses what would have to be called inside of the transformer."""
        options, dit = self.options, self.dit
        found = [name for name in PATCHES if options.get("patches", {}).get(name)]
        found += [place for place, patch in options.get("patches_replace", {}).items() if patch]
        found += [ATTENTION] if options.get(ATTENTION) is not None else []
        if options.get(POSITIONS) or not is_cores_own(dit.rope_embedder, dit.config.head_dim):
            found.append("positions of tokens")
        found += ["prompts over time"] if SCHEDULE in options else []
        if found:
            raise PairingError(
                "Patches inside of the transformer cannot be sent to other GPUs. Got "
                f"{', '.join(found)}, need none. {ADVICE}"
            )


class RemotePatcher(WanPatcher):
    """What ComfyUI's memory manager sees of weights that are in other processes."""

    def patch_model(self, *args: Any, **kwargs: Any) -> Any:
        """Puts patches in place that are around a forward pass.

        Raises:
            PairingError: if others are there.
        """
        inside = [name for name in self.object_patches if name.startswith(ROOT)]
        if inside:
            raise PairingError(
                "Patches inside of the transformer cannot be sent to other GPUs. Got "
                f"{', '.join(inside)}, need none. {ADVICE}"
            )
        return super().patch_model(*args, **kwargs)

    def unpatch_model(self, device_to: Any = None, unpatch_weights: bool = True) -> None:  # noqa: ARG002
        """Takes patches back. There are no weights to move."""
        super().unpatch_model(None, unpatch_weights)

    def model_state_dict_for_saving(self, *_: Any, **__: Any) -> Any:
        """Has nothing to save.

        Raises:
            PairingError: always.
        """
        raise PairingError(
            "A distributed MODEL cannot be saved. Got one whose weights are in other processes, "
            "need one of our loaders. Connect that to the node that saves."
        )
