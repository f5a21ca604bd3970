"""Converted weights in a file: the same model again, and no harm if it cannot be written."""

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from tests.unit.loading.checkpoints import (
    LAYER,
    block_layers,
    dense,
    dit_state,
    note,
    save,
    save_sharded,
    scaled,
    to_fp8,
    vae_state,
)
from tests.unit.loading.test_weights import PAIRS, SOURCES, TARGETS, is_kept, velocity
from wan_model import detect, load_dit
from wan_model.errors import BackendError, CheckpointError
from wan_model.loading.checkpoint import open_checkpoint
from wan_model.loading.source_safetensors import open_safetensors
from wan_model.quant.formats import holds
from wan_model.writing import converted_file as converted_checkpoint
from wan_model.writing.partial_file import new_file

E4M3 = torch.float8_e4m3fn
MIXED = ("mixed", "nvfp4 and fp8")
ORDER = ["F32", "F16", "BF16", "F8_E4M3"]


def converted_file(source: Path, weights: str, folder: Path) -> Path:
    """The path of what `converted_file` gives."""
    return converted_checkpoint(source, weights, folder).path


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return save(tmp_path / "a_high_noise.safetensors", dit_state())


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "weights"


@pytest.mark.parametrize(("name", "target"), PAIRS)
def test_the_file_gives_the_same_model(name: str, target: str, tmp_path: Path) -> None:
    source = save(tmp_path / "a.safetensors", SOURCES[name])
    file = converted_file(source, target, tmp_path / "cache")
    expected = load_dit(source, weights=target)
    assert (file == source) == (is_kept(name, target) and name not in MIXED)
    matrices = [e for e in open_checkpoint(file).entries.values() if e.is_block_matrix]
    assert matrices
    assert all(holds(entry.format, TARGETS[target][0]) for entry in matrices)
    dtype = expected.precision.compute_dtype
    got = load_dit(file, weights=target, dtype=dtype)
    state, wanted = got.state_dict(), expected.state_dict()
    assert state.keys() == wanted.keys()
    for key, tensor in wanted.items():
        assert torch.equal(state[key].float(), tensor.float()), key
    for layer in block_layers(SOURCES["fp32"]):
        assert got.get_submodule(layer).format is TARGETS[target][0], layer
    # Tensors that are aligned differently are added up in another order.
    assert (velocity(got) - velocity(expected)).norm() < 2e-3 * velocity(expected).norm()
    assert not list(tmp_path.rglob("*.partial"))


def test_the_file_is_an_ordinary_checkpoint(source: Path, cache: Path) -> None:
    file = converted_file(source, "fp8", cache)
    info = detect(file)
    assert (info.format, info.expert, info.kind) == ("fp8 scaled", "high", "t2v")
    assert info.parameters == detect(source).parameters
    model = load_dit(file)
    scale = model.get_submodule(LAYER).weight_scale
    assert scale.shape == (512, 1)
    tensors = open_safetensors(file).tensors
    assert tensors[0].start % 64 == 0
    # Wide items first: whatever the sizes, no tensor starts in the middle of an item.
    dtypes = [raw.stored_dtype for raw in tensors]
    assert dtypes == sorted(dtypes, key=ORDER.index)


def test_a_second_time_nothing_is_written(source: Path, cache: Path) -> None:
    file = converted_file(source, "int8", cache)
    before = file.stat().st_mtime_ns
    assert converted_file(source, "int8", cache) == file
    assert file.stat().st_mtime_ns == before
    assert len(list(cache.iterdir())) == 1


def test_formats_and_sources_do_not_meet(source: Path, cache: Path, tmp_path: Path) -> None:
    other = save(tmp_path / "b" / source.name, dit_state())
    files = {converted_file(source, "fp8", cache), converted_file(source, "int8", cache)}
    files.add(converted_file(other, "fp8", cache))
    assert len(files) == 3
    assert converted_file(source, "fp8 storage", cache) in files


def test_a_changed_source_is_converted_anew(source: Path, cache: Path) -> None:
    file = converted_file(source, "fp8", cache)
    changed = {key: 2 * tensor for key, tensor in dit_state().items()}
    save(source, changed)
    os.utime(source, ns=(1, 1))
    assert converted_file(source, "fp8", cache) == file
    got = dense(load_dit(file), LAYER)
    assert (got - changed[f"{LAYER}.weight"]).norm() < 0.05 * got.norm()
    assert len(list(cache.iterdir())) == 1


@pytest.mark.parametrize("damage", ["cut", "empty", "other", "folder of the future"])
def test_a_damaged_file_is_written_anew(damage: str, source: Path, cache: Path) -> None:
    file = converted_file(source, "fp8", cache)
    whole = file.read_bytes()
    match damage:
        case "cut":
            file.write_bytes(whole[:-100])
        case "empty":
            file.write_bytes(b"")
        case "other":
            save(file, dit_state())
        case _:
            file.write_bytes(whole.replace(b'"wanduet_version": "1"', b'"wanduet_version": "2"'))
    assert converted_file(source, "fp8", cache) == file
    assert file.read_bytes() == whole


def test_a_full_disk_leaves_the_source(
    source: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    try:
        assert converted_file(source, "fp8", cache) == source
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(cache.iterdir()) == []
    assert f"cannot be kept in {cache}: {os.strerror(errno.EFBIG)}." in caplog.text
    assert velocity(load_dit(source, weights="fp8")).isfinite().all()
    assert converted_file(source, "fp8", cache) != source


class Usage(NamedTuple):
    total: int
    used: int
    free: int


def test_too_little_space_is_seen_before_writing(
    source: Path, cache: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(1 << 30, 1 << 30, 1000))
    assert converted_file(source, "fp8", cache) == source
    assert list(cache.iterdir()) == []
    assert "are needed and 0.0 GiB are free" in caplog.text


def test_a_folder_that_cannot_be_made_leaves_the_source(source: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    assert converted_file(source, "fp8", tmp_path / "cache") == source


def test_two_writers_at_once(source: Path, cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = converted_file(source, "fp8", cache)
    content = file.read_bytes()
    with new_file(file):
        file.unlink()
        assert converted_file(source, "fp8", cache) == source
    assert "another program is writing the same file" in caplog.text
    assert file.read_bytes() == b""
    assert converted_file(source, "fp8", cache) == file
    assert file.read_bytes() == content


@pytest.mark.parametrize("is_kept", [True, False])
def test_a_file_that_goes_between_look_and_load(
    is_kept: bool, source: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody tidies up at that moment."""
    file = converted_file(source, "fp8", cache)
    content = file.read_bytes()
    if not is_kept:
        file.unlink()
    looks, is_file = [], Path.is_file

    def is_file_for_once(path: Path) -> bool:
        found = is_file(path)
        if path == file and found and not looks:
            looks.append(path)
            path.unlink()
        return found

    monkeypatch.setattr(Path, "is_file", is_file_for_once)
    found = converted_checkpoint(source, "fp8", cache)
    assert looks == [file]
    assert found.path == (file if is_kept else source)
    assert not is_kept or file.read_bytes() == content
    assert velocity(load_dit(found, weights="fp8")).isfinite().all()


def test_what_a_killed_writer_left_is_taken_over(source: Path, cache: Path) -> None:
    """Its lock dies with it, so nobody waits for it."""
    file = converted_file(source, "fp8", cache)
    content = file.read_bytes()
    file.unlink()
    partial = file.with_name(file.name + ".partial")
    left = cache / "other.safetensors.partial"
    code = (
        "import fcntl, os, sys\n"
        "files = [open(name, 'wb') for name in sys.argv[1:]]\n"
        "for file in files:\n"
        "    fcntl.flock(file, fcntl.LOCK_EX)\n"
        "    file.write(b'half' * 999)\n"
        "    file.flush()\n"
        "print('writing', flush=True)\n"
        "sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", code, str(partial), str(left)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as killed:
        assert killed.stdout is not None
        killed.stdout.readline()
        assert converted_file(source, "fp8", cache) == source
        assert left.exists()
        killed.kill()
        killed.wait()
    assert converted_file(source, "fp8", cache) == file
    assert file.read_bytes() == content
    assert list(cache.iterdir()) == [file]


def test_what_cannot_be_moved_to_its_place_is_removed(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.mkdir()
    with pytest.raises((IsADirectoryError, PermissionError)), new_file(file) as stream:
        stream.write(b"14 GB")
    assert list(tmp_path.iterdir()) == [file]


def test_files_of_sources_that_have_gone_are_removed(tmp_path: Path, cache: Path) -> None:
    drive = tmp_path / "drive"
    source = save(drive / "a.safetensors", dit_state())
    first = converted_file(source, "fp8", cache)
    stranger = save(cache / "stranger.safetensors", {"x": torch.ones(1)})
    renamed = source.rename(drive / "renamed.safetensors")
    second = converted_file(renamed, "fp8", cache)
    assert set(cache.iterdir()) == {second, stranger}
    assert first != second
    # As long as a drive is not there, nobody knows.
    drive.rename(tmp_path / "elsewhere")
    converted_file(save(tmp_path / "b.safetensors", dit_state()), "fp8", cache)
    assert second.exists()


def test_an_error_while_converting_leaves_nothing(tmp_path: Path, cache: Path) -> None:
    state = scaled(dit_state(), shape="row", dtype=torch.int8)
    state[f"{LAYER}.weight_scale"][3] = float("nan")
    source = save(tmp_path / "a.safetensors", state)
    with pytest.raises(CheckpointError, match="broken scales"):
        converted_file(source, "fp8", cache)
    assert list(cache.iterdir()) == []


def test_what_cannot_be_converted(source: Path, cache: Path, tmp_path: Path) -> None:
    assert converted_file(source, "as stored", cache) == source
    with pytest.raises(BackendError, match="no such weight format"):
        converted_file(source, "auto", cache)
    vae = save(tmp_path / "vae.safetensors", vae_state("2.1"))
    with pytest.raises(CheckpointError, match="need a diffusion model"):
        converted_file(vae, "fp8", cache)
    assert not cache.exists()


def test_notes_and_small_quantized_tensors(tmp_path: Path) -> None:
    state = scaled(dit_state(dtype=torch.float16), leaf="scale_weight")
    head = state["head.head.weight"]
    state["head.head.weight"] = head.to(E4M3)
    state["head.head.scale_weight"] = torch.tensor(0.5)
    state["scaled_fp8"] = torch.zeros(2, dtype=E4M3)
    for layer in block_layers(state):
        state[f"{layer}.comfy_quant"] = note({"format": "float8_e4m3fn"})
        state[f"{layer}.scale_input"] = torch.tensor(1.0)
    source = save(tmp_path / "a.safetensors", {f"diffusion_model.{k}": t for k, t in state.items()})
    file = converted_file(source, "int8", tmp_path)
    names = {raw.name for raw in open_safetensors(file).tensors}
    quantized = [*block_layers(state), "head.head"]
    leaves = ("weight_scale", "comfy_quant")
    assert names == set(dit_state()) | {f"{layer}.{leaf}" for layer in quantized for leaf in leaves}
    assert torch.equal(dense(load_dit(file), "head.head"), head.to(E4M3).float() * 0.5)


def test_plain_fp8_outside_the_blocks_is_dequantized(tmp_path: Path) -> None:
    state = {key: tensor.to(E4M3) for key, tensor in dit_state().items()}
    source = save(tmp_path / "a.safetensors", state)
    model = load_dit(converted_file(source, "int8", tmp_path))
    assert model.time_projection[1].weight.dtype == torch.bfloat16
    for key in ("time_projection.1.weight", "blocks.0.modulation", "head.head.bias"):
        assert torch.equal(model.state_dict()[key].float(), state[key].float())


def test_a_mixture_of_plain_fp8_and_wider_weights(tmp_path: Path) -> None:
    state = to_fp8(dit_state())
    state["blocks.0.ffn.0.weight"] = dit_state()["blocks.0.ffn.0.weight"]
    source = save(tmp_path / "a.safetensors", state)
    file = converted_file(source, "fp8", tmp_path)
    model = load_dit(file)
    assert detect(file).format == "fp8 scaled"
    assert torch.equal(dense(model, LAYER), state[f"{LAYER}.weight"].float())
    assert model.get_submodule("blocks.0.ffn.0").weight_scale.shape == (512, 1)


def test_fp64_becomes_fp32(tmp_path: Path) -> None:
    source = save(tmp_path / "a.safetensors", dit_state(dtype=torch.float64))
    tensors = open_safetensors(converted_file(source, "fp8", tmp_path)).tensors
    assert {raw.stored_dtype for raw in tensors} == {"F32", "F8_E4M3"}


def test_shards_and_folders(tmp_path: Path, cache: Path) -> None:
    index = save_sharded(tmp_path / "low_noise_model", dit_state())
    file = converted_file(index, "fp8", cache)
    assert file.name.startswith("low_noise_model.low_noise.fp8.")
    expected = load_dit(index, weights="fp8")
    got = load_dit(file, weights="fp8")
    torch.testing.assert_close(velocity(got), velocity(expected), rtol=0, atol=1e-5)


def test_other_numbers_of_heads_are_not_lost(tmp_path: Path, cache: Path) -> None:
    save(tmp_path / "model" / "model.safetensors", dit_state())
    (tmp_path / "model" / "config.json").write_text('{"num_attention_heads": 4}')
    assert converted_file(tmp_path / "model", "fp8", cache) == tmp_path / "model"


def test_fp8_stays_if_it_is_there_already(tmp_path: Path, cache: Path) -> None:
    for state in (to_fp8(dit_state()), scaled(dit_state()), scaled(dit_state(), shape="block")):
        source = save(tmp_path / "a.safetensors", state)
        assert converted_file(source, "fp8", cache) == source
