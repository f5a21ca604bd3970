"""Weights on the host: read from files or tensors, and what happens to files meanwhile."""

import os
from concurrent.futures import ThreadPoolExecutor
from io import FileIO
from pathlib import Path
from threading import Barrier

import pytest
import torch
from safetensors.torch import save_file

from tests.unit.dit.toy import make_dit, make_inputs
from tests.unit.offload.fakes import LazyDevice, forward, plan_for
from wan_model.dit import WanDiT
from wan_model.errors import CheckpointError
from wan_model.loading.source_safetensors import DTYPES, open_safetensors
from wan_model.offload import FileRegion, HostModel, OffloadEngine
from wan_model.offload import host_model as host_module
from wan_model.offload.host_model import LANES, WARMERS, WeightFile


def regions_of(path: Path) -> dict[str, FileRegion]:
    dtypes = {name: dtype for dtype, name in DTYPES.items()}
    return {
        raw.name: FileRegion(raw.file, raw.start, raw.nbytes, dtypes[raw.stored_dtype])
        for raw in open_safetensors(path).tensors
    }


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    save_file({k: t.contiguous() for k, t in make_dit(num_layers=3).state_dict().items()}, path)
    return path


@pytest.fixture
def emptied() -> WanDiT:
    """A model whose own tensors are zeros, so that only the file can give the right numbers."""
    model = make_dit(num_layers=3)
    for tensor in model.state_dict().values():
        tensor.zero_()
    return model


@pytest.fixture
def expected() -> torch.Tensor:
    model = make_dit(num_layers=3)
    return model(*make_inputs(model))


@pytest.mark.parametrize("pinned", [0, 1 << 29])
def test_weights_come_from_the_file(file, emptied, expected, pinned):
    host, device = HostModel(emptied, emptied.blocks, regions_of(file)), LazyDevice()
    plan = plan_for(host, blocks_to_swap=2, pinned_ram_bytes=pinned)
    engine = OffloadEngine([host], plan, device)
    for _ in range(2):
        assert torch.equal(forward(engine, device, emptied, make_inputs(emptied)), expected)


@pytest.mark.parametrize(
    ("other_dtype", "part"), [(torch.bfloat16, 2), (torch.int32, 1), (torch.float32, 2)]
)
def test_converted_tensors_do_not_come_from_the_file(file, expected, other_dtype, part):
    model = make_dit(num_layers=3)
    regions = regions_of(file)
    for name in ("blocks.1.ffn.0.weight", "blocks.2.norm3.bias", "head.head.weight"):
        region = regions[name]
        regions[name] = FileRegion(region.file, 0, region.nbytes // part, other_dtype)
    host, device = HostModel(model, model.blocks, regions), LazyDevice()
    engine = OffloadEngine([host], plan_for(host, blocks_to_swap=3), device)
    assert torch.equal(forward(engine, device, model, make_inputs(model)), expected)


def read_by_many(path: Path) -> None:
    """Has as many threads as there may be read different parts of one file."""
    path.write_bytes(bytes(range(100)))
    file = WeightFile(path)
    targets = [bytearray(3) for _ in range(LANES + WARMERS)]
    with ThreadPoolExecutor(len(targets)) as pool:
        list(pool.map(file.read, range(len(targets)), map(memoryview, targets)))
    assert targets == [bytearray(range(start, start + 3)) for start in range(len(targets))]


@pytest.mark.skipif(not host_module.READS_IN_PLACE, reason="This system has no os.preadv.")
def test_one_handle_serves_all_threads(tmp_path, monkeypatch):
    path = tmp_path / "codes"
    numbers: list[int] = []

    class Counted(FileIO):
        def __init__(self, file: Path) -> None:
            super().__init__(file)
            if file == path:
                numbers.append(self.fileno())

    monkeypatch.setattr(host_module, "FileIO", Counted)
    everybody, preadv = Barrier(LANES + WARMERS), os.preadv

    def meeting(number, *args):
        # Threads of earlier tests may still be reading other files.
        if number in numbers:
            everybody.wait(300)
        return preadv(number, *args)

    monkeypatch.setattr(os, "preadv", meeting)
    read_by_many(path)
    assert len(numbers) == 1


def test_threads_do_not_disturb_each_other_without_reads_in_place(tmp_path, monkeypatch):
    everybody = Barrier(LANES + WARMERS)

    class Meeting(FileIO):
        """All threads move to their place in the file before any of them reads."""

        def seek(self, *args: int) -> int:
            place = super().seek(*args)
            everybody.wait(300)
            return place

    monkeypatch.setattr(host_module, "FileIO", Meeting)
    monkeypatch.setattr(host_module, "READS_IN_PLACE", False)
    read_by_many(tmp_path / "codes")


@pytest.mark.parametrize("from_file", [False, True])
def test_any_part_of_a_slab_can_be_read(file, from_file):
    model = make_dit(num_layers=3)
    slab = HostModel(model, model.blocks, regions_of(file) if from_file else None).slabs[1]
    with ThreadPoolExecutor(4) as pool:
        whole = torch.zeros(slab.layout.nbytes, dtype=torch.uint8)
        slab.read(whole, 0, pool)
        for start, count in ((0, 1), (7, 1000), (511, 5000), (slab.layout.nbytes - 300, 300)):
            part = torch.zeros(count, dtype=torch.uint8)
            slab.read(part, start, pool)
            assert torch.equal(part, whole[start : start + count])
    for view, tensor in zip(
        slab.layout.views(whole), model.blocks[1].state_dict().values(), strict=True
    ):
        assert torch.equal(view, tensor)


def test_a_file_may_be_deleted(file, emptied, expected):
    host, device = HostModel(emptied, emptied.blocks, regions_of(file)), LazyDevice()
    file.unlink()
    engine = OffloadEngine([host], plan_for(host, blocks_to_swap=2), device)
    assert torch.equal(forward(engine, device, emptied, make_inputs(emptied)), expected)


def test_a_file_cut_off_between_passes_is_an_error(file, emptied):
    host, device = HostModel(emptied, emptied.blocks, regions_of(file)), LazyDevice()
    engine = OffloadEngine([host], plan_for(host, blocks_to_swap=2), device)
    forward(engine, device, emptied, make_inputs(emptied))
    os.truncate(file, file.stat().st_size // 2)
    with pytest.raises(CheckpointError, match=r"model.safetensors was changed .* Got \d+ bytes"):
        forward(engine, device, emptied, make_inputs(emptied))


def test_a_file_written_to_is_an_error(file, emptied):
    host, device = HostModel(emptied, emptied.blocks, regions_of(file)), LazyDevice()
    engine = OffloadEngine([host], plan_for(host, blocks_to_swap=2), device)
    os.utime(file, ns=(0, 1))
    with pytest.raises(CheckpointError, match="newer modification time"):
        forward(engine, device, emptied, make_inputs(emptied))


def test_a_file_cut_off_during_a_pass_is_an_error(file, emptied, monkeypatch):
    host, device = HostModel(emptied, emptied.blocks, regions_of(file)), LazyDevice()
    engine = OffloadEngine([host], plan_for(host, blocks_to_swap=2), device)
    monkeypatch.setattr(HostModel, "check_files", lambda _: os.truncate(file, 2000))
    for _ in range(2):
        with pytest.raises(
            CheckpointError, match=r"cut off while .* Got 2000 bytes, need at least \d+"
        ):
            forward(engine, device, emptied, make_inputs(emptied))
    engine.unload()
    assert device.live_bytes == 0


def test_a_file_that_is_not_there_is_an_error(file):
    model = make_dit(num_layers=3)
    regions = regions_of(file)
    file.unlink()
    with pytest.raises(CheckpointError, match="cannot be read"):
        HostModel(model, model.blocks, regions)


def test_warming_reads_the_whole_slab(file, emptied, monkeypatch):
    host = HostModel(emptied, emptied.blocks, regions_of(file))
    read: list[int] = []
    own = next(iter(host._files.values()))
    of_file = type(own).read

    def noted(weights: WeightFile, offset: int, target: memoryview) -> None:
        # Threads of earlier tests may still be reading other files.
        read.append(len(target) if weights is own else 0)
        of_file(weights, offset, target)

    monkeypatch.setattr(WeightFile, "read", noted)
    host.slabs[0].warm()
    assert sum(read) == sum(place.nbytes for place in host.slabs[0].layout.places)


def test_a_file_that_can_be_read_again_is_used_again(file, emptied, expected, monkeypatch):
    host, device = HostModel(emptied, emptied.blocks, regions_of(file)), LazyDevice()
    engine = OffloadEngine([host], plan_for(host, blocks_to_swap=2), device)
    monkeypatch.setattr(HostModel, "check_files", lambda _: None)
    content = file.read_bytes()
    os.truncate(file, 2000)
    with pytest.raises(CheckpointError):
        forward(engine, device, emptied, make_inputs(emptied))
    file.write_bytes(content)
    assert torch.equal(forward(engine, device, emptied, make_inputs(emptied)), expected)
