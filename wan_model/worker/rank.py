"""One rank of a forward pass, and what another process may ask of it.

What comes in and goes out are numbers, texts and tensors: the other process may have imported this
package under another name, so it knows other classes than these.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]

from ..attention import Guarded, guarded, resolve, try_again
from ..dit import BlockFn, BlockInputs, BlockRunner, WanDiT, run_in_order
from ..dit.compiled_stages import CompiledStages
from ..dit.expanded_blocks import with_expanded
from ..dit.stage_choice import with_stages
from ..dit.text_guidance import GuidanceSettings, NegativeText, fastest_guide
from ..errors import MemoryLimitError
from ..loading import load_dit, open_checkpoint, unchanged_regions
from ..offload import Extra, HostModel, Limits
from ..parallel import (
    Degrees,
    LayerLine,
    Mesh,
    exchanged_bytes,
    measure_link,
    samples_parallel,
    sequence_parallel,
)
from ..quant import Linear, LowRank, stacked
from ..writing import converted_file
from .placed_experts import PlacedExperts
from .shared_vae import SharedVae

MEETING_TIMEOUT = timedelta(minutes=30)
"""For the slowest step of a rank, such as reading a model from a disk."""

Lora = tuple[Tensor, Tensor, float]
"""Down (R, I), up (O, R), strength."""


class Worker:
    """Computes with all other ranks whatever each of them is asked for with the same words."""

    def __init__(self, device: str, rank: int, ranks: int) -> None:
        """Takes nothing of the device yet.

        Args:
            device: that computes, such as "cuda:0".
            rank: number of this process.
            ranks: how many there are.
        """
        self._device = torch.device(device)
        self._rank, self._ranks = rank, ranks
        self._store: TCPStore | None = None
        self._meshes: dict[Degrees, Mesh] = {}
        self._compiled: dict[str, CompiledStages] = {}
        self._experts: PlacedExperts | None = None
        self._line: LayerLine | None = None
        self._link: float | None = None
        self._vae: SharedVae | None = None
        if self._device.type == "cuda":
            torch.cuda.set_device(self._device)

    def open_meeting(self, host: str) -> int:
        """Has the other ranks meet here; returns the port."""
        self._store = TCPStore(
            host, 0, is_master=True, wait_for_workers=False, timeout=MEETING_TIMEOUT
        )
        return self._store.port

    def meet(self, host: str, port: int) -> None:
        """Joins the other ranks, of which the first has opened the meeting."""
        store = self._store or TCPStore(host, port, is_master=False, timeout=MEETING_TIMEOUT)
        backend = "nccl" if self._device.type == "cuda" else "gloo"
        dist.init_process_group(
            backend, store=store, rank=self._rank, world_size=self._ranks, timeout=MEETING_TIMEOUT
        )

    def load(
        self,
        files: Sequence[str],
        dtype: str,
        weights: str,
        attention: str,
        limits: Mapping[str, int | None],
        folder: str,
        by_layers: bool = False,
        shortages: int = 0,
    ) -> int:
        """Loads one expert or two; their weights stay in their files until they run.

        Args:
            files: of each expert.
            dtype: that blocks compute in, such as "bfloat16".
            weights: format of the weights; see `load_dit`.
            attention: name of a backend.
            limits: fields of `Limits`.
            folder: where converted weights are kept; "" if there is nothing to convert.
            by_layers: whether each rank is to hold some of the blocks only.
            shortages: how often processes before these ran out of memory: so much more is left
                free.

        Returns:
            bytes of all weights.
        """
        compute_dtype = getattr(torch, dtype)
        hosts = []
        self._line = None
        for file in files:
            checkpoint = open_checkpoint(file)
            if folder:
                checkpoint = converted_file(checkpoint, weights, folder, device=self._device)
            dit = load_dit(
                checkpoint,
                dtype=compute_dtype,
                weights=weights,
                compute_device=self._device,
                attention=guarded(resolve(attention, dtype=compute_dtype)),
            )
            regions = unchanged_regions(dit, checkpoint)
            if by_layers:
                everywhere = self._mesh(Degrees(ulysses=self._ranks)).tokens
                self._line = self._line or LayerLine(everywhere, len(dit.blocks))
                self._line.drop_others(dit.blocks)
            own = self._own_blocks(dit)
            hosts.append(HostModel(dit, dit.blocks[own], regions))
        allowed = Limits(**limits)
        if self._line is not None:
            allowed = self._line.part_of(allowed)
        self._experts = PlacedExperts(hosts, self._device, allowed, shortages)
        return self._experts.nbytes

    def load_vae(self, file: str, dtype: str) -> None:
        """Loads a VAE in place of the one before, and of experts where they fill the GPU.

        Raises:
            MemoryLimitError: if there is no room without them, either.
            CheckpointError: see `SharedVae.of_file`.
        """
        team = self._mesh(Degrees(ulysses=self._ranks)).tokens
        self._vae = None
        # Files of 16 bits may be computed with in 32.
        self._make_room(2 * Path(file).stat().st_size)
        load = partial(SharedVae.of_file, file, dtype, self._device, team)
        try:
            self._vae = load()
        except torch.OutOfMemoryError:
            self.release()
        if self._vae is None:
            with _memory_of_vae():
                self._vae = load()

    def decode(self, latent: Tensor) -> Tensor:
        """Returns this rank's rows of a video; see `SharedVae.decode`."""
        vae = self._loaded_vae()
        stride = vae.vae.config.spatial_stride
        height, width = (size * stride for size in latent.shape[-2:])
        self._make_room(vae.peak_bytes("decode", height, width))
        with _memory_of_vae():
            return vae.decode(latent)

    def encode(self, video: Tensor) -> Tensor | None:
        """Returns the latent (the first rank's); see `SharedVae.encode`."""
        vae = self._loaded_vae()
        height, width = video.shape[-2:]
        self._make_room(vae.peak_bytes("encode", height, width))
        with _memory_of_vae():
            latent = vae.encode(video)
        return latent if self._rank == 0 else None

    def set_loras(self, expert: int, loras: Mapping[str, Sequence[Lora]]) -> None:
        """Takes LoRAs by the paths of their layers, in place of those before."""
        experts = self._loaded()
        dit, extras = experts.dit(expert), {}
        for path, of_layer in loras.items():
            parts = path.split(".")
            block = int(parts[1]) if parts[0] == "blocks" else None
            if block is not None:
                own = self._own_blocks(dit)
                if not own.start <= block < own.stop:
                    continue
                block -= own.start
            layer = dit.get_submodule(path)
            assert isinstance(layer, Linear)
            extras.setdefault(block, []).append(_carried(layer, of_layer))
        experts.carry(expert, extras)
        try_again(dit.attend, object())

    def expect(self, expert: int, after: int) -> None:
        """Announces the expert that runs after so many more forward passes."""
        self._loaded().expect(expert, after)

    def release(self) -> None:
        """Gives the device's memory back; the next pass takes it again."""
        if self._experts is not None:
            self._experts.release()

    @torch.no_grad()
    def predict(
        self,
        expert: int,
        inputs: Mapping[str, Tensor | None],
        cfg: int,
        ulysses: int,
        options: Mapping[str, Any],
    ) -> tuple[Tensor | None, int, list[str]]:
        """Returns the velocity (the first rank's), bytes taken on the device, and news for people.

        Args:
            expert: number of it.
            inputs: latent, timestep, text and cond of `WanDiT.forward`.
            cfg: parts that the samples are split into.
            ulysses: parts that the tokens are split into.
            options: "compiled": mode of the compiler; "negative": text, alpha of each sample and
                settings of a negative prompt that tokens are kept from.
        """
        experts, mesh = self._loaded(), self._mesh(Degrees(cfg, ulysses))
        dit = experts.dit(expert)
        latent, timestep, text, cond = (
            None if (tensor := inputs[name]) is None else tensor.to(self._device)
            for name in ("latent", "timestep", "text", "cond")
        )
        assert latent is not None
        assert timestep is not None
        assert text is not None
        negative = options.get("negative")
        alpha = None if negative is None else negative["alpha"].to(self._device)
        said: list[str] = []
        one = partial(self._one_sample, expert, mesh, options, said)
        join = torch.cat if self._line is None else self._line.result
        together = samples_parallel(_one_by_one(one, join), mesh.samples)
        predict = partial(together, latent, timestep, text, cond, alpha)
        attend = dit.attend
        result = attend.check(predict, said.append) if isinstance(attend, Guarded) else predict()
        return (result.cpu() if self._rank == 0 else None), experts.device_bytes, said

    def _one_sample(
        self,
        expert: int,
        mesh: Mesh,
        options: Mapping[str, Any],
        said: list[str],
        latent: Tensor,
        timestep: Tensor,
        text: Tensor,
        cond: Tensor | None,
        alpha: Tensor | None,
    ) -> Tensor:
        experts = self._loaded()
        dit = experts.dit(expert)
        shared = run_in_order
        if self._line is None:
            shared = sequence_parallel(run_in_order, mesh.tokens)
        runner = self._staged(shared, options, said)
        if alpha is not None:
            runner = _kept_from(options["negative"], dit.embed_text, alpha, runner)
        line = self._line

        def velocity(run_blocks: BlockRunner) -> Tensor:
            around = run_blocks if line is None else line.around(run_blocks)
            return dit.velocity(latent, timestep, text, cond, around)

        frames, height, width = latent.shape[2:]
        size = (frames, height, width)
        ranks = mesh.tokens.ranks if line is None else 1
        return experts.run(expert, size, ranks, velocity, with_expanded(runner))

    def _staged(
        self, runner: BlockRunner, options: Mapping[str, Any], said: list[str]
    ) -> BlockRunner:
        mode = options.get("compiled")
        if mode is None:
            return with_stages(runner, self._loaded().stages)
        if mode not in self._compiled:
            self._compiled[mode] = CompiledStages(mode, report=said.append)
        return self._compiled[mode].around(runner)

    def _mesh(self, degrees: Degrees) -> Mesh:
        if degrees not in self._meshes:
            self._meshes[degrees] = Mesh.of(degrees)
        return self._meshes[degrees]

    def survey(self, size: tuple[int, int, int]) -> tuple[float, int, float]:
        """Returns what is known of sharing a video's tokens: the fields of `Sharing`.

        Args:
            size: latent frames, height and width.
        """
        experts = self._loaded()
        dit, tokens = experts.dit(0), size[0] * (size[1] // 2) * (size[2] // 2)
        if self._link is None:
            team = self._mesh(Degrees(ulysses=self._ranks)).tokens
            self._link = measure_link(team, self._device)
        itemsize = dit.precision.compute_dtype.itemsize
        sent = exchanged_bytes(dit.config, tokens, self._ranks, itemsize)
        return experts.pass_seconds(size), sent, self._link

    def _own_blocks(self, dit: WanDiT) -> slice:
        """Returns the blocks of this rank: all, unless each has some."""
        return slice(0, len(dit.blocks)) if self._line is None else self._line.own

    def _make_room(self, nbytes: int) -> None:
        """Lets experts' weights go if so much does not fit beside them."""
        if self._experts is not None and self._experts.free_bytes() < nbytes:
            self._experts.release()

    def _loaded_vae(self) -> SharedVae:
        if self._vae is None:
            raise RuntimeError("no VAE has been loaded")
        return self._vae

    def _loaded(self) -> PlacedExperts:
        if self._experts is None:
            raise RuntimeError("no model has been loaded")
        return self._experts


@contextmanager
def _memory_of_vae() -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError as error:
        reason = str(error).split(". ", 1)[0]
        raise MemoryLimitError(
            f"The VAE does not fit on a GPU of those that share its rows. Got '{reason}', need "
            "more free memory on each. Use the VAE on one GPU, which decodes in tiles."
        ) from error


def _one_by_one(
    predict: Callable[..., Tensor], join: Callable[[list[Tensor]], Tensor]
) -> Callable[..., Tensor]:
    """Returns what predicts samples one after the other, which takes the memory of one."""

    def predict_all(*tensors: Tensor | None) -> Tensor:
        assert tensors[0] is not None
        samples = range(len(tensors[0]))
        cut = [[None if t is None else t[i : i + 1] for t in tensors] for i in samples]
        return join([predict(*of_sample) for of_sample in cut])

    return predict_all


def _kept_from(
    negative: Mapping[str, Any],
    embed: Callable[[Tensor], Tensor],
    alpha: Tensor,
    runner: BlockRunner,
) -> BlockRunner:
    """Returns a runner whose tokens keep away from a negative prompt."""

    def run(blocks: Iterable[BlockFn], x: Tensor, inputs: BlockInputs, /) -> Tensor:
        settings = GuidanceSettings(**negative["settings"])
        embedded = embed(negative["text"].to(x.device))
        away = NegativeText(embedded, alpha, settings, fastest_guide(x.device))
        return runner(blocks, x, replace(inputs, text_attention=away))

    return run


def _carried(layer: Linear, loras: Sequence[Lora]) -> Extra:
    """Returns a layer's LoRAs as what travels with it."""
    pairs = [(down.flatten(1), up.flatten(1)) for down, up, _ in loras]
    a, b = stacked(pairs, layer.compute_dtype)
    scale = torch.zeros(len(a))
    strengths = torch.cat([torch.full((len(down),), strength) for down, _, strength in loras])
    scale[: len(strengths)] = strengths
    return Extra(layer, "adapters", (a, b, scale), lambda *tensors: (LowRank(*tensors),))
