"""A file that cannot be read for want of memory, file handles or permission is not damaged."""

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from tests.unit.loading.checkpoints import dit_state, save, save_sharded
from wan_model.errors import CheckpointError, MemoryLimitError, ShortageError, UnreadableError
from wan_model.loading import files, open_checkpoint, source_safetensors
from wan_model.loading.gguf_tokenizer import sentencepiece_model
from wan_model.loading.source import Reader
from wan_model.loading.source_safetensors import open_safetensors
from wan_model.lora import open_lora
from wan_model.offload.host_model import WeightFile
from wan_model.writing import converted_file

resource = pytest.importorskip("resource")

NOBODY = 65534
LARGE = 90 << 20
MARGIN = 16 << 20
"""Of addresses, for what Python does beside it."""

Door = Callable[[], object]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    save(folder / "a.safetensors", {"x": torch.ones(2, 2)})
    with (folder / "a.gguf").open("wb") as stream:
        stream.write(b"GGUF")
        stream.truncate(LARGE)
    save(folder / "model" / "b.safetensors", dit_state())
    save_sharded(folder / "parts", dit_state())
    return folder


@pytest.fixture(scope="module")
def doors(folder: Path) -> dict[str, Door]:
    """Ways to read files, by what they are."""
    file, gguf, kept = folder / "a.safetensors", folder / "a.gguf", folder / "kept"
    (tensor,) = open_safetensors(file).tensors
    source = open_checkpoint(folder / "model" / "b.safetensors")
    converted_file(source, "fp8", kept)
    return {
        "model": lambda: open_checkpoint(file),
        "folder": lambda: open_checkpoint(folder / "parts"),
        "GGUF": lambda: open_checkpoint(gguf),
        "tokenizer": lambda: sentencepiece_model(gguf),
        "LoRA": lambda: open_lora(file),
        "weights": lambda: Reader()(tensor, torch.float32),
        "streamed weights": lambda: WeightFile(file),
        "kept weights": lambda: converted_file(source, "fp8", kept),
    }


DOORS = ("model", "folder", "GGUF", "tokenizer", "LoRA", "weights", "streamed weights")


@contextmanager
def limited(kind: int, value: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(kind)
    resource.setrlimit(kind, (value, hard))
    try:
        yield
    finally:
        resource.setrlimit(kind, (soft, hard))


@pytest.mark.parametrize("name", [*DOORS, "kept weights"])
def test_without_a_file_handle(name: str, doors: dict[str, Door]):
    with (
        pytest.raises(ShortageError, match=r"cannot be opened at the moment.*Too many open files"),
        limited(resource.RLIMIT_NOFILE, 0),
    ):
        doors[name]()


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="no such limit on this system")
@pytest.mark.parametrize("name", ["GGUF", "tokenizer"])
def test_without_memory_for_a_mapped_file(name: str, doors: dict[str, Door]):
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MARGIN
    with (
        pytest.raises(MemoryLimitError, match=r"memory is full while reading a\.gguf"),
        limited(resource.RLIMIT_AS, limit),
    ):
        doors[name]()


@pytest.mark.parametrize("error", [MemoryError(), OSError(errno.ENOMEM, "Cannot allocate memory")])
@pytest.mark.parametrize("name", ["model", "folder", "LoRA", "kept weights"])
def test_without_memory_for_a_header(
    name: str, error: Exception, doors: dict[str, Door], monkeypatch: pytest.MonkeyPatch
):
    def full(_: object) -> object:
        raise error

    monkeypatch.setattr(source_safetensors, "parse_json", full)
    with pytest.raises(MemoryLimitError, match="The computer's memory is full while reading"):
        doors[name]()


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES, errno.ESTALE])
def test_kept_weights_that_cannot_be_read_now_stay(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    source = open_checkpoint(save(tmp_path / "a.safetensors", dit_state()))
    kept = converted_file(source, "fp8", tmp_path / "kept").path
    before = kept.stat()

    def refused(_: object) -> object:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(source_safetensors, "parse_json", refused)
    assert converted_file(source, "fp8", tmp_path / "kept") is source
    assert os.strerror(number) in caplog.text
    after = kept.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


@pytest.mark.parametrize("number", [errno.ENOENT, errno.EIO])
@pytest.mark.parametrize("written", [False, True], ids=["kept", "just written"])
def test_kept_weights_that_go_between_a_look_and_the_reading(
    written: bool, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Another ComfyUI tidies up, or a drive goes: there is the source, which gives the same."""
    source = open_checkpoint(save(tmp_path / "a.safetensors", dit_state()))
    if not written:
        converted_file(source, "fp8", tmp_path / "kept")
    parse = source_safetensors.parse_json
    errors = iter([OSError(number, os.strerror(number))])

    def refused_at_first(text: bytes) -> object:
        for error in errors:
            raise error
        return parse(text)

    monkeypatch.setattr(source_safetensors, "parse_json", refused_at_first)
    found = converted_file(source, "fp8", tmp_path / "kept")
    made_anew = number == errno.ENOENT and not written
    assert (found.path.parent.name == "kept") == made_anew


@pytest.mark.parametrize("error", [MemoryError(), OSError(errno.EMFILE, "No handle")])
def test_tidying_up_ends_no_conversion(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    source = open_checkpoint(save(tmp_path / "a.safetensors", dit_state()))
    save(tmp_path / "kept" / "another.safetensors", {"x": torch.ones(1)})
    parse = source_safetensors.parse_json
    failures = iter([error])

    def full_at_first(text: bytes) -> object:
        for one in failures:
            raise one
        return parse(text)

    monkeypatch.setattr(source_safetensors, "parse_json", full_at_first)
    assert converted_file(source, "fp8", tmp_path / "kept").path.parent.name == "kept"


def test_a_drive_that_maps_no_files_is_said_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tensor,) = open_safetensors(save(tmp_path / "a.safetensors", {"x": torch.ones(2)})).tensors

    def refused(file: str, **_: object) -> object:
        raise RuntimeError(f"unable to mmap 9 bytes from file <{file}>: No such device (19)")

    monkeypatch.setattr(torch.UntypedStorage, "from_file", refused)
    with pytest.raises(CheckpointError, match=r"No such device \(19\)'.*to a local disk") as seen:
        Reader()(tensor, torch.float32)
    assert str(tmp_path) not in str(seen.value)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EIO, errno.EACCES])
def test_an_index_that_cannot_be_read_now(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """It may be the index of the file, which would not be whole without it."""
    save_sharded(tmp_path, dit_state())
    (one,) = tmp_path.glob("*-00001-of-*.safetensors")
    index = tmp_path / "model.safetensors.index.json"
    alone = one.rename(tmp_path / "high.safetensors")
    index.write_text(index.read_text().replace(one.name, alone.name))

    def refused(_: object) -> object:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(files, "parse_json", refused)
    if number == errno.EMFILE:
        with pytest.raises(ShortageError, match="cannot be opened at the moment"):
            open_checkpoint(alone)
    else:  # another's file in the folder must not keep all models from being loaded
        with pytest.raises(CheckpointError, match=r"high\.safetensors is incomplete"):
            open_checkpoint(alone)
        told = f"{index.name} cannot be read: {os.strerror(number)}. If it is the index of"
        assert told in caplog.text
    monkeypatch.undo()
    assert len(open_checkpoint(alone).files) == 3


@pytest.mark.parametrize("name", DOORS)
def test_without_permission(name: str, doors: dict[str, Door], folder: Path):
    folder.chmod(0)
    try:
        if os.geteuid() == 0:  # who may do everything
            os.seteuid(NOBODY)
        with pytest.raises(UnreadableError, match=r"cannot be read\. Got Permission denied"):
            doors[name]()
    finally:
        os.seteuid(os.getuid())
        folder.chmod(0o700)
