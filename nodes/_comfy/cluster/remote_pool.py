"""The weights engine of a MODEL whose weights are in other processes: starts and asks them."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from ....wan_model.errors import MemoryLimitError, PairingError, SettingsError
from ....wan_model.host_memory import available_bytes
from ....wan_model.offload import Limits
from ....wan_model.parallel import Degrees, Sharing, fitting_ranks
from ....wan_model.quant import Linear
from ..host import runtime
from ..model.low_rank import PREFIX, Lora, Patches, joined, path_of, same_patches, split
from .actor_team import ActorTeam
from .ray_session import connected, wait_for_gpus

MODES = ("auto", "ulysses", "cfg", "cfg+ulysses", "experts", "layers")

WORTHWHILE = 1.1
"""Gain from which on *auto* shares a video's tokens."""

SENT = "LoRAs of linear layers"


@dataclass(frozen=True)
class Source:
    """What the processes load."""

    files: tuple[str, ...]
    """Of each expert."""
    labels: tuple[str, ...]
    dtype: str
    """Of PyTorch, that blocks compute in."""
    weights: str
    attention: str
    limits: Limits
    folder: str
    """Where converted weights are kept; "" if there is nothing to convert."""
    heads: int


def degrees_for(mode: str, ranks: int, samples: int) -> Degrees:
    """Returns how ranks share a pass of so many samples."""
    halves = ranks % 2 == 0 and ranks > 1
    if mode == "cfg":
        return Degrees(cfg=ranks)
    if halves and (mode == "cfg+ulysses" or (mode == "auto" and samples % 2 == 0)):
        return Degrees(cfg=2, ulysses=ranks // 2)
    return Degrees(ulysses=ranks)


def check_mode(mode: str, ranks: int, heads: int, experts: int) -> None:
    """Refuses what cannot be split so.

    Raises:
        SettingsError: with the numbers that fit.
    """
    if mode == "experts" and (experts != 2 or ranks % 2):
        raise SettingsError(
            f"Experts need halves of the GPUs. Got {ranks} GPUs for {experts} of 2 experts, need "
            "an even number and both. Connect model_low, or choose another mode or number."
        )
    if mode == "layers":
        return
    if mode == "cfg" and ranks > 2:
        raise SettingsError(
            f"There are two passes to share, with and without the prompt. Got {ranks} GPUs, need 2 "
            "at most in this mode. Choose 'cfg+ulysses'."
        )
    if mode in ("cfg", "cfg+ulysses") and ranks % 2:
        raise SettingsError(
            f"Two passes cannot be shared so. Got {ranks} GPUs, need an even number. Choose "
            "'ulysses', or another number."
        )
    width = ranks // 2 if mode == "experts" else degrees_for(mode, ranks, 1).ulysses
    if heads % width:
        fitting = fitting_ranks(heads, heads)
        raise SettingsError(
            f"The model's attention cannot be split over this many GPUs. Got {width} for {heads} "
            f"heads, need one of {', '.join(map(str, fitting))}. Change gpus, or the mode."
        )


class RemotePool:
    """The experts of one model in other processes, as an `ExpertPool` to those who know that.

    Attributes:
        heading: what the running node says above news.
        step_passes: by expert, forward passes in one step.
        passes: forward passes so far.
    """

    def __init__(self, source: Source, mode: str, ranks: int, address: str) -> None:
        """Starts nothing yet.

        Args:
            source: of the experts.
            mode: one of `MODES`.
            ranks: processes.
            address: of a Ray cluster, or "".
        """
        self.heading, self.passes = "", 0
        self.step_passes: list[int | None] = [None] * len(source.files)
        self.device_bytes, self.nbytes = 0, 0
        self._source, self._mode, self._ranks, self._address = source, mode, ranks, address
        self._teams: list[ActorTeam] = []
        self._wanted: list[Patches] = [{} for _ in source.files]
        self._sent: list[Patches] = [{} for _ in source.files]
        self._layers: list[Any] = [None] * len(source.files)
        self._vae = ("", "")
        self._chosen: dict[tuple[int, ...], Degrees] = {}
        self._shortages = 0

    def prepare(self, expert: int, *_: Any, **__: Any) -> None:
        """Has the processes started, with an expert's LoRAs."""
        self._team(expert)

    def predict(
        self, expert: int, inputs: Mapping[str, Tensor | None], options: Mapping[str, Any]
    ) -> Tensor:
        """Returns the velocity of an expert.

        Args:
            expert: number of it.
            inputs: as of `Worker.predict`.
            options: likewise.

        Raises:
            MemoryLimitError: if it does not fit. The next one leaves more of each GPU free.
        """
        latent = inputs["latent"]
        assert latent is not None
        team, number = self._team(expert), self._number(expert)
        degrees = self._degrees(team, latent)
        on_host = {n: None if t is None else t.detach().cpu() for n, t in inputs.items()}
        split = (degrees.cfg, degrees.ulysses)
        try:
            answers = team.all("predict", number, on_host, *split, options)
        except MemoryLimitError:
            self._shortages += 1
            raise
        result, self.device_bytes, said = answers[0]
        self.passes += 1
        for line in said:
            self._show(line)
        return result.to(latent)

    def _degrees(self, team: ActorTeam, latent: Tensor) -> Degrees:
        """Returns how a pass is shared; of *auto*, after one look at the links."""
        frames, height, width = latent.shape[2:]
        mode = "ulysses" if self._mode == "experts" else self._mode
        degrees = degrees_for(mode, team.ranks, len(latent))
        if mode != "auto" or team.ranks == 1 or degrees.cfg > 1:
            return degrees
        size = (frames, height, width)
        key = (len(latent), *size)
        if key not in self._chosen:
            alone, sent, rate = team.all("survey", size)[0]
            sharing = Sharing(alone, sent, rate, team.ranks)
            worthwhile = sharing.gain >= WORTHWHILE
            self._chosen[key] = degrees if worthwhile else Degrees(cfg=team.ranks)
            self._show(said_of(sharing, worthwhile=worthwhile, samples=len(latent)))
        return self._chosen[key]

    def decode(self, file: str, dtype: str, latent: Tensor) -> Sequence[Tensor]:
        """See `RowPool`. Of experts on GPUs of their own, those of the first share the rows."""
        return self._ask_vae(file, dtype, "decode", latent)

    def encode(self, file: str, dtype: str, video: Tensor) -> Tensor:
        """See `RowPool`."""
        return self._ask_vae(file, dtype, "encode", video.cpu())[0]

    def _ask_vae(self, file: str, dtype: str, method: str, tensor: Tensor) -> list[Tensor]:
        """Returns what the processes that share a VAE's rows answer.

        Those that ran out of memory have ended; new ones have GPUs without experts.

        Raises:
            MemoryLimitError: if these run out of memory as well.
        """
        try:
            return self._with_vae(file, dtype).all(method, tensor)
        except MemoryLimitError:
            for team in self._teams:
                team.close()
        try:
            return self._with_vae(file, dtype).all(method, tensor)
        except MemoryLimitError as error:
            raise MemoryLimitError(
                f"{error} Disconnect 'vae' of 'Wan 2.2 Distribute', and connect the loader's VAE."
            ) from error

    def _with_vae(self, file: str, dtype: str) -> ActorTeam:
        """Returns the processes, with the VAE in them."""
        team = self._team(0)
        if self._vae != (file, dtype):
            team.all("load_vae", file, dtype)
            self._vae = (file, dtype)
        return team

    def expect(self, expert: int, after: int) -> None:
        """Announces the expert that runs after so many more forward passes."""
        if self._teams and self._mode != "experts":
            self._teams[0].tell("expect", expert, after)

    def set_patches(self, expert: int, active: Patches, waiting: Patches) -> None:  # noqa: ARG002
        """Takes an expert's patches from now on; hooks bring those that wait when it is time.

        Raises:
            PairingError: for patches that are not sent.
        """
        self._wanted[expert] = joined(active)

    def attach(self, expert: int, dit: torch.nn.Module) -> None:
        """Tells the layers of an expert, without weights."""
        self._layers[expert] = dit

    def move(self, device: torch.device) -> None:
        """Stays where it is."""

    def shrink(self, nbytes: int) -> int:  # noqa: ARG002
        """Gives back the memory that is taken on the first GPU, which others here use as well."""
        freed, self.device_bytes = self.device_bytes, 0
        self.release()
        return freed

    def release(self) -> None:
        """Gives back the memory of all GPUs."""
        self.device_bytes = 0
        for team in self._teams:
            if team.is_alive:
                team.tell("release")

    def _team(self, expert: int) -> ActorTeam:
        """Returns the processes of an expert, started, loaded and with its LoRAs."""
        if not self._teams or not all(team.is_alive for team in self._teams):
            self._start()
        team = self._teams[expert % len(self._teams)]
        wanted = self._wanted[expert]
        if not same_patches(self._sent[expert], wanted):
            loras = sent_loras(self._layers[expert], wanted)
            team.all("set_loras", self._number(expert), loras)
            self._sent[expert] = wanted
        return team

    def _number(self, expert: int) -> int:
        """Returns the number of an expert in its processes."""
        return 0 if self._mode == "experts" else expert

    def _start(self) -> None:
        for team in self._teams:
            team.close()
        source, self._teams, self._vae = self._source, [], ("", "")
        self._chosen.clear()
        self._sent = [{} for _ in source.files]
        ray = connected(self._address)
        on_gpu = runtime.compute_device().type == "cuda"
        if on_gpu:
            wait_for_gpus(ray, self._ranks)
        groups = [source.files]
        if self._mode == "experts":
            groups = [(file,) for file in source.files]
        limits = asdict(source.limits.shared(self._ranks, available_bytes()))
        kinds = (source.dtype, source.weights, source.attention, limits, source.folder)
        kinds += (self._mode == "layers", self._shortages)
        teams: list[ActorTeam] = []
        with ExitStack() as started:  # ends all of them if one fails, or on cancel
            for files in groups:
                ranks = self._ranks // len(groups)
                team = ActorTeam(ray, ranks, on_gpu=on_gpu, local=not self._address)
                started.callback(team.close)
                team.meet()
                self.nbytes = max(team.all("load", list(files), *kinds))
                teams.append(team)
            started.pop_all()
        self._teams = teams
        self._show(self.describe(on_gpu))

    def describe(self, on_gpu: bool) -> str:
        """Returns what the running node says of the split."""
        each = "GPUs" if on_gpu else "processes without a GPU"
        how = {
            "auto": "the two passes of a guided step on halves of them, else the video's tokens if "
            "the links are fast enough",
            "ulysses": "the video's tokens shared",
            "cfg": "the two passes of a guided step shared",
            "cfg+ulysses": "the two passes of a guided step on halves, which share the tokens",
            "experts": "each expert on half of them",
            "layers": "each holds some of the blocks",
        }[self._mode]
        labels = ", ".join(self._source.labels)
        spared = "; more memory is left free, since it ran out before" if self._shortages else ""
        return f"{labels}: on {self._ranks} {each}: {how}{spared}"

    def _show(self, text: str) -> None:
        runtime.show(runtime.running_node(), text, heading=self.heading)


def said_of(sharing: Sharing, *, worthwhile: bool, samples: int) -> str:
    """Returns what *auto* chose for a pass whose samples are not on halves of the GPUs, and why."""
    numbers = (
        f"{sharing.sent_bytes / 1e9:.2g} GB at {sharing.rate / 1e9:.2g} GB/s between GPUs, a pass "
        f"on one of {sharing.alone_seconds:.2g} s"
    )
    if worthwhile:
        return f"auto: the GPUs share the video, about {sharing.gain:.2g} x as fast ({numbers})."
    # Two passes are shared by halves of the GPUs.
    missing = ["guidance (cfg above 1)"] * (samples % 2) + ["an even number of GPUs"] * (
        sharing.ranks % 2
    )
    others = " and ".join(missing)
    modes = "mode 'layers'" if sharing.ranks % 2 else "mode 'experts' or 'layers'"
    return (
        f"auto: one GPU computes the whole video, as sharing it would gain too little ({numbers}). "
        f"With {others}, or {modes}, the others help."
    )


def sent_loras(dit: torch.nn.Module, patches: Patches) -> dict[str, list[tuple[Any, ...]]]:
    """Returns patches as what the processes take, by the layers' paths.

    Raises:
        PairingError: for patches that are no LoRAs of linear layers.
    """
    loras: dict[str, list[tuple[Any, ...]]] = {}
    others: list[str] = []
    for key, found in patches.items():
        layer = dit.get_submodule(path_of(key)) if key.endswith(".weight") else None
        if not isinstance(layer, Linear):
            others.append(key)
            continue
        operands, rest = split(found, layer)
        plain = [one for one in operands if isinstance(one, Lora)]
        if rest or len(plain) < len(operands):
            others.append(key)
        loras[path_of(key)] = [(one.down.cpu(), one.up.cpu(), one.scale) for one in plain]
    if others:
        raise PairingError(
            f"Some changes of weights cannot be sent to other GPUs. Got {_some(others)}, need "
            f"{SENT}. Remove the node that adds them, or save the changed model with 'Wan 2.2 Save "
            "Model' and load that."
        )
    return loras


def _some(keys: Sequence[str]) -> str:
    shown = ", ".join(key.removeprefix(PREFIX) for key in keys[:2])
    return f"{shown} and {len(keys) - 2} more" if len(keys) > 2 else shown
