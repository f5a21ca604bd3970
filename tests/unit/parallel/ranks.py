"""What each rank of the tests runs: the same passes alone and together, and how far they differ.

All cases share one start of the processes, which takes longer than they do.
"""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor

from tests.parity.recipe import fill
from tests.unit.dit.toy import BF16, FP32, make_dit, make_inputs
from tests.unit.offload.fakes import plan_for
from tests.unit.quant.loras import give, give_all, lora
from wan_model.attention import SparseSchedule
from wan_model.attention.sdpa import sdpa
from wan_model.config import VaeConfig
from wan_model.dit import BlockRunner, WanDiT, run_in_order
from wan_model.dit.block import Block, BlockStages
from wan_model.dit.stage_choice import FastestStages, StagesOf, own_stages, with_stages
from wan_model.dit.text_guidance import GuidanceSettings, NegativeText
from wan_model.dit.tokens import RUN_TOKENS, runs
from wan_model.errors import SettingsError
from wan_model.loading import load_dit
from wan_model.offload import HostModel, OffloadEngine, PlainDevice
from wan_model.parallel import (
    Degrees,
    Mesh,
    Team,
    decode_rows,
    encode_rows,
    exchanged_bytes,
    samples_parallel,
    sequence_parallel,
)
from wan_model.parallel.shared_tokens import SharedTokens
from wan_model.quant import AS_STORED
from wan_model.vae import build_vae
from wan_model.worker import Worker

RANKS = 4
WORKERS = 2
HEADS = 12
"""Divisible by 2, 3 and 4, as 40 and 24 are by many."""

Report = dict[str, float | str]


def start(rank: int, folder: str) -> None:
    """Entry of a process; leaves its report in a file."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=RANKS
    )
    with torch.no_grad():
        report = dict(results())
        dist.barrier()
        dist.destroy_process_group()
        if rank < WORKERS:
            report |= worker_cases(rank, folder)
    Path(folder, f"{rank}.json").write_text(json.dumps(report), encoding="utf-8")


def results() -> Iterator[tuple[str, float | str]]:
    """Yields the name of each case, and the rms error of the result or what was refused."""
    for ranks in (2, 3, 4):
        members = list(range(ranks))
        group = dist.new_group(members)
        if dist.get_rank() in members:
            yield from sequence_cases(Team(group))
            yield from vae_cases(Team(group))
    yield from mesh_cases()
    single, _ = dist.new_subgroups_by_enumeration([[rank] for rank in range(RANKS)])
    yield from vae_cases(Team(single), ("wan2.1",))


def sequence_cases(team: Team) -> Iterator[tuple[str, float | str]]:
    """Yields the cases of tokens that a team shares; 3 x 3 x 5 = 45 tokens are uneven for 2, 4."""
    for kind in ("t2v", "i2v", "ti2v"):
        yield f"{kind} {team.ranks}", error(dit(kind), uneven(dit(kind)), team)
    if team.ranks == 2:
        yield "bf16", error(dit("t2v", BF16), uneven(dit("t2v", BF16), batch=2), team)
        yield from feature_cases(team)
        yield "runs", error_of_runs(team)
    if team.ranks == 3:
        yield "heads", refusal(make_dit(num_heads=4, dim=96), team)
    if team.ranks == 4:
        yield "tokens", refusal(dit(), team, size=(1, 2, 6))


def feature_cases(team: Team) -> Iterator[tuple[str, float]]:
    """Yields what comes into a pass through its runner."""
    model = dit("ti2v")
    inputs = uneven(model, batch=2)
    text = model.embed_text(inputs.text[:1] * 2)
    negative = NegativeText(text, torch.tensor([0.25, 0.0]), GuidanceSettings())
    yield "negative prompt", error(model, inputs, team, around=partial(with_text, negative))

    adapted = dit("t2v")
    plain = adapted(*uneven(adapted))
    give_all(adapted, rank=3, scale=0.5)
    assert (adapted(*uneven(adapted)) - plain).norm() > 0.01 * plain.norm()
    yield "lora", error(adapted, uneven(adapted), team)

    yield "block swap", streamed(dit("i2v", num_layers=4), team)

    stages = CountedStages()
    yield "stages", error(model, inputs, team, around=partial(with_stages, stages=stages))
    assert stages.blocks == 2 * 2, "blocks alone and together call the stages that they are given"

    schedule = SparseSchedule(sparse=coarse, dense_part=0, min_tokens=40)
    yield "sparse", error(model, inputs, team, inside=partial(by_layer, schedule))

    one_token_less = SparseSchedule(sparse=coarse, dense_part=0, min_tokens=46)
    assert error(model, inputs, team, inside=partial(by_layer, one_token_less)) < 1e-5
    # As many text tokens as a rank has of the video, which tells the attentions apart by no shape.
    same = dit("t2v", text_len=23)
    yield "as many words", error(same, uneven(same), team)


def error_of_runs(team: Team) -> float:
    """Returns the error of attention where the first rank has a run more than the second.

    Keys come in the order of the video, as they do on one GPU: bf16 rounds otherwise in another.
    """
    counts = (RUN_TOKENS + 1, RUN_TOKENS)
    layer = dit().blocks[0].self_attn
    generator = torch.Generator().manual_seed(3)
    shape = (1, sum(counts), layer.num_heads, layer.head_dim)
    qkv = [torch.randn(shape, generator=generator) for _ in range(3)]

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Depends on the place of each key, and answers queries in their order."""
        place = torch.arange(k.shape[1]).view(1, -1, 1, 1) / k.shape[1]
        return q * (k * v * place).mean(1, keepdim=True)

    mine = slice(0, counts[0]) if team.rank == 0 else slice(counts[0], None)
    here = [part[:, mine] for part in qkv]
    shared = SharedTokens(team, counts, layer, attend, torch.empty(1, counts[team.rank], 1))
    for run in runs(counts[team.rank]):
        for place, part in zip(shared.places(run), here, strict=True):
            place.copy_(part[:, run])
            shared.written()
    attended = shared.attended()
    found = torch.cat([attended(run) for run in runs(counts[team.rank])], dim=1)
    return rms(found, attend(*qkv)[:, mine])


def vae_cases(
    team: Team, variants: Any = ("wan2.1", "wan2.2")
) -> Iterator[tuple[str, float | str]]:
    """Yields both directions of both VAEs, of 5 rows."""
    if team.ranks > 3:
        return
    for variant in variants:
        z_dim = 16 if variant == "wan2.1" else 48
        config = VaeConfig(variant=variant, encoder_dim=8, decoder_dim=8, z_dim=z_dim)
        vae = build_vae(config)
        fill(vae)
        generator = torch.Generator().manual_seed(5)
        latent = torch.randn(1, z_dim, 2, 5, 3, generator=generator)
        size = [config.spatial_stride * n for n in (5, 3)]
        video = torch.randn(1, 3, 5, *size, generator=generator)
        name = f"{variant} {team.ranks}"
        yield f"decode {name}", rms(decode_rows(vae, latent, team), vae.decode(latent))
        yield f"encode {name}", rms(encode_rows(vae, video, team), vae.encode(video))
    if team.ranks == 3:
        try:
            decode_rows(vae, latent[:, :, :, :2], team)
        except SettingsError as refused:
            yield "rows", str(refused)


def mesh_cases() -> Iterator[tuple[str, float | str]]:
    """Yields the cases of samples on different ranks."""
    model = dit("ti2v")
    for degrees in (Degrees(cfg=2, ulysses=2), Degrees(cfg=4), Degrees(ulysses=4)):
        mesh = Mesh.of(degrees)
        sizes: list[int] = []
        together = samples_parallel(counted(model, sizes, mesh), mesh.samples)
        for batch in (degrees.cfg, 1, 3):
            inputs = uneven(model, batch)
            name = f"cfg {degrees.cfg} ulysses {degrees.ulysses} of {batch}"
            yield name, rms(together(*inputs), model(*inputs))
        assert sizes == [1, 1, 3], "a rank has its part of the samples where they can be shared"
    try:
        Mesh.of(Degrees(cfg=3))
    except SettingsError as refused:
        yield "ranks", str(refused)


def counted(model: WanDiT, sizes: list[int], mesh: Mesh) -> Callable[..., Tensor]:
    """Returns predictions by a mesh's tokens; notes how many samples they were of."""

    def predict(latent: Tensor, *others: Tensor | None) -> Tensor:
        sizes.append(len(latent))
        return model(latent, *others, run_blocks=sequence_parallel(run_in_order, mesh.tokens))

    return predict


def dit(kind: str = "t2v", precision: Any = FP32, **sizes: int) -> WanDiT:
    """Returns a model whose heads can be shared."""
    return make_dit(kind, precision, **{"num_heads": HEADS, "dim": 12 * HEADS, **sizes})


def uneven(model: WanDiT, batch: int = 1, size: tuple[int, ...] = (3, 6, 10)) -> Any:
    """Returns inputs of a number of tokens that cannot be shared evenly; TI2V's have two times."""
    inputs = make_inputs(model, batch)
    stretched = {
        name: torch.randn(batch, part.shape[1], *size, generator=torch.Generator().manual_seed(7))
        for name, part in (("latent", inputs.latent), ("cond", inputs.cond))
        if part is not None
    }
    times = torch.tensor([637.0, 902.5, 14.0, 500.0])[:batch]
    inputs = inputs._replace(timestep=times, **stretched)
    if model.config.kind == "ti2v":
        per_frame = inputs.timestep.unsqueeze(1).repeat(1, size[0])
        per_frame[:, 0] = 0
        inputs = inputs._replace(timestep=per_frame)
    return inputs


def error(
    model: WanDiT,
    inputs: Any,
    team: Team,
    *,
    around: Callable[[BlockRunner], BlockRunner] = lambda runner: runner,
    inside: Callable[[BlockRunner], BlockRunner] = lambda runner: runner,
) -> float:
    """Returns how far a pass of a team is from one of this process, relative to its rms."""
    alone = model.velocity(*inputs, around(inside(run_in_order)))
    together = model.velocity(*inputs, around(sequence_parallel(inside(run_in_order), team)))
    return rms(together, alone)


def streamed(model: WanDiT, team: Team) -> float:
    """Returns the error of a pass whose blocks come one by one."""
    inputs = uneven(model)
    alone = model(*inputs)
    host = HostModel(model, model.blocks)
    engine = OffloadEngine([host], plan_for(host, blocks_to_swap=3), PlainDevice("cpu"))
    runner = sequence_parallel(run_in_order, team)
    return rms(engine.run(0, partial(model.velocity, *inputs), runner), alone)


def refusal(model: WanDiT, team: Team, **size: Any) -> str:
    """Returns why a pass is refused."""
    try:
        model(*uneven(model, **size), run_blocks=sequence_parallel(run_in_order, team))
    except SettingsError as refused:
        return str(refused)
    return ""


def rms(result: Tensor, expected: Tensor) -> float:
    """Returns the difference relative to what is expected."""
    return float((result - expected).norm() / expected.norm())


def with_text(attention: Any, runner: BlockRunner) -> BlockRunner:
    """Returns a runner with another attention to text."""

    def run(blocks: Any, x: Tensor, inputs: Any) -> Tensor:
        return runner(blocks, x, replace(inputs, text_attention=attention))

    return run


def by_layer(schedule: SparseSchedule, runner: BlockRunner) -> BlockRunner:
    """Returns a runner that gives each block the attention of its layer."""

    def run(blocks: Any, x: Tensor, inputs: Any) -> Tensor:
        def call(block: Any, layer: int, x: Tensor, inputs: Any) -> Tensor:
            return block(x, replace(inputs, attend=schedule.at(layer, 0, 4)))

        return runner((partial(call, block, n) for n, block in enumerate(blocks)), x, inputs)

    return run


def coarse(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention that is plainly another one."""
    return sdpa(q * 0.5, k, v)


class CountedStages(FastestStages):
    """Counts the blocks that ask for stages, and gives them their own."""

    def __init__(self) -> None:
        super().__init__(FP32)
        self.blocks = 0

    def of(self, block: Block, device: torch.device) -> StagesOf:  # noqa: ARG002
        """Returns stages that are counted."""
        return self._counted

    def _counted(self, block: Block) -> BlockStages:
        self.blocks += 1
        return own_stages(block)


def worker_cases(rank: int, folder: str) -> Iterator[tuple[str, float]]:
    """Yields what two workers predict of a file, against the same model without them."""
    port, file = Path(folder, "port"), Path(folder, "model.safetensors")
    worker = Worker("cpu", rank, 2)
    if rank == 0:
        written = port.with_suffix(".part")
        written.write_text(str(worker.open_meeting("127.0.0.1")))
        written.rename(port)
    while not port.exists():
        time.sleep(0.01)
    worker.meet("127.0.0.1", int(port.read_text()))
    worker.load([str(file)], "float32", AS_STORED, "sdpa", {"blocks_to_swap": 1}, "")
    model = load_dit(file, dtype=torch.float32, attention="sdpa")
    inputs = uneven(model, batch=2)
    layer = model.get_submodule("blocks.1.ffn.0")
    found = lora(layer, rank=3, scale=0.5)
    text, alpha = inputs.text[:1] * 2, torch.tensor([0.25, 0.0])
    negative = {"text": text, "alpha": alpha, "settings": {"scale": 4.0}}

    def predicted(options: Any, splits: Any = ((2, 1), (1, 2))) -> float:
        away = NegativeText(model.embed_text(text), alpha, GuidanceSettings(scale=4.0))
        runner = with_text(away, run_in_order) if options else run_in_order
        alone = model.velocity(*inputs, runner)
        given = dict(zip(inputs._fields, inputs, strict=True))
        results = [worker.predict(0, given, *split, options)[0] for split in splits]
        assert [result is None for result in results] == len(splits) * [rank > 0]
        return max((rms(result, alone) for result in results if result is not None), default=0.0)

    yield "worker", predicted({})
    yield "worker, negative prompt", predicted({"negative": negative})
    worker.set_loras(0, {"blocks.1.ffn.0": [(found.down, found.up, found.scale)]})
    give(layer, [found])
    yield "worker, lora", predicted({})
    worker.release()
    yield "worker, released", predicted({})
    seconds, sent, rate = worker.survey((3, 6, 10))
    assert seconds > 0
    assert rate > 0
    assert sent == exchanged_bytes(model.config, 45, 2, itemsize=4)

    limits = {"blocks_to_swap": 2}
    worker.load([str(file)], "float32", AS_STORED, "sdpa", limits, "", by_layers=True)
    worker.set_loras(0, {"blocks.1.ffn.0": [(found.down, found.up, found.scale)]})
    yield "worker, layers", predicted({}, splits=((1, 2),))
    yield "worker, layers and text", predicted({"negative": negative}, splits=((1, 2),))

    vae = build_vae(VaeConfig(variant="wan2.1", encoder_dim=8, decoder_dim=8, z_dim=16))
    fill(vae)
    weights = Path(folder, f"vae{rank}.safetensors")
    save_file({name: w.contiguous() for name, w in vae.state_dict().items()}, weights)
    worker.load_vae(str(weights), "float32")
    latent = torch.randn(1, 16, 2, 5, 3, generator=torch.Generator().manual_seed(5))
    video = vae.decode(latent, normalized=False)
    part = slice(0, 24) if rank == 0 else slice(24, None)
    yield "worker, decode", rms(worker.decode(latent), video[:, :, :, part])
    encoded = worker.encode(video)
    assert (encoded is None) == (rank > 0)
    expected = vae.encode(video, normalized=False)
    yield "worker, encode", 0.0 if encoded is None else rms(encoded, expected)
    dist.destroy_process_group()
