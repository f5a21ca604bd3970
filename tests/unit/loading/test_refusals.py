"""Files that are damaged, unsafe or incomplete: always a CheckpointError that says why."""

import json
import os
import pickle
import time
import zipfile
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.loading.checkpoints import (
    LAYER,
    dit_state,
    save,
    save_sharded,
    scaled,
    write_raw,
)
from wan_model import detect, load_dit, load_vae
from wan_model.errors import CheckpointError

PREFIX = "model.diffusion_model."


def refused(path: Path, match: str) -> None:
    for read in (detect, load_dit, load_vae):
        with pytest.raises(CheckpointError, match=match):
            read(path)


def test_missing_files(tmp_path: Path):
    refused(tmp_path / "nothing.safetensors", "no checkpoint at this path")


def test_missing_keys_are_counted_and_named(tmp_path: Path):
    state = dit_state()
    for key in [key for key in state if key.startswith("blocks.1.ffn.")]:
        del state[key]
    del state["head.modulation"]
    with pytest.raises(CheckpointError) as caught:
        load_dit(save(tmp_path / "a.safetensors", state))
    assert str(caught.value) == (
        "a.safetensors does not fit its model, T2V (dim 256, 2 layers), fp32. Got tensors that "
        "differ: 5 missing (blocks.1.ffn.0.weight, blocks.1.ffn.0.bias, blocks.1.ffn.2.weight, "
        "blocks.1.ffn.2.bias and 1 more); need exactly the 69 tensors of the model. Download the "
        "file again."
    )


def test_unexpected_keys_and_shapes_are_named(tmp_path: Path):
    state = dit_state() | {
        "blocks.0.self_attn.q": torch.zeros(1),
        "b\n" + "x" * 200: torch.zeros(1),
    }
    state["head.head.bias"] = torch.zeros(65)
    with pytest.raises(CheckpointError) as caught:
        load_dit(save(tmp_path / "a.safetensors", state))
    message = str(caught.value)
    assert "2 unexpected (" in message
    assert "blocks.0.self_attn.q," in message or "blocks.0.self_attn.q)" in message
    assert "\n" not in message
    assert "1 of another shape (head.head.bias: [65] instead of [64])" in message
    assert message.endswith("Choose another version of the model.")


@pytest.mark.parametrize("key", ["patch_embedding.weight", "head.head.weight"])
def test_a_missing_key_that_sizes_are_read_from(key: str, tmp_path: Path):
    state = dit_state()
    del state[key]
    refused(save(tmp_path / "a.safetensors", state), f"incomplete. Got no tensor {key}")


def test_keys_under_two_prefixes(tmp_path: Path):
    state = dit_state()
    key = "blocks.0.ffn.0.weight"
    state[PREFIX + key] = state[key].clone()
    refused(save(tmp_path / "a.safetensors", state), rf"1 doubled keys \(.*{PREFIX}{key}")


def test_keys_in_two_shards(tmp_path: Path):
    index = save_sharded(tmp_path, dit_state())
    first, second = sorted(tmp_path.glob("*.safetensors"))[:2]
    keys = json.loads(index.read_text())["weight_map"]
    state = {key: t for key, t in dit_state().items() if keys[key] == second.name}
    extra = next(key for key, name in keys.items() if name == first.name)
    save(second, state | {extra: dit_state()[extra]})
    refused(index, f"1 doubled keys .*{extra}")


def test_keys_twice_in_a_header(tmp_path: Path):
    entry = b'"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}'
    file = write_raw(tmp_path / "a.safetensors", b"{" + entry + b", " + entry + b"}", b"0000")
    refused(file, "the key a is there twice")


@pytest.mark.parametrize(
    ("header", "data", "match"),
    [
        (b"", b"", "cannot be read"),
        (b"[]", b"", "not a table of tensors"),
        (b"not json", b"", "cannot be read"),
        (b"\xff\xfe", b"", "cannot be read"),
        (b"[" * 100_000, b"", "cannot be read.*nested"),
        ({"__metadata__": 3}, b"", "metadata is not text"),
        ({"__metadata__": {"a": 3}}, b"", "metadata is not text"),
        ({"a": 3}, b"", "wrong header entry"),
        ({"a": {"dtype": "F32", "shape": [1]}}, b"", "wrong header entry"),
        ({"a": {"dtype": "F33", "shape": [1], "data_offsets": [0, 4]}}, b"0000", "F33"),
        ({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}, b"0000", "sides from 0"),
        ({"a": {"dtype": "F32", "shape": [1.0], "data_offsets": [0, 4]}}, b"0000", "sides from 0"),
        ({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}}, b"0000", "not negative"),
        ({"a": {"dtype": "U8", "shape": [1] * 9, "data_offsets": [0, 1]}}, b"0", "9 sides"),
        ({"a": {"dtype": "U8", "shape": [0, 2**48], "data_offsets": [0, 0]}}, b"", "sides from 0"),
        ({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}, b"0000", "4 bytes"),
        ({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, b"000", "cut off"),
        ({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, b"00000", "no tensor"),
        ({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}, b"0" * 8, "misplaced"),
    ],
)
def test_bad_headers(header: object, data: bytes, match: str, tmp_path: Path):
    refused(write_raw(tmp_path / "a.safetensors", header, data), f"is damaged.*{match}")


@pytest.mark.parametrize("shape", [b"9" * 4000 + b"," + b"9" * 4000, b"9" * 4000])
def test_absurd_shapes_are_refused_before_they_are_multiplied(shape: bytes, tmp_path: Path):
    sides = b",".join([shape] * 200)
    header = b'{"a": {"dtype": "F32", "shape": [%b], "data_offsets": [0, 4]}}' % sides
    started = time.process_time()
    refused(write_raw(tmp_path / "a.safetensors", header, b"0000"), "wrong header entry")
    assert time.process_time() - started < 20


def test_a_key_given_twice_is_found_in_a_long_header(tmp_path: Path):
    names = [f'"k{i}": 1' for i in range(60_000)]
    header = "{" + ",".join([*names, '"k59999": 1']) + "}"
    started = time.process_time()
    refused(write_raw(tmp_path / "a.safetensors", header.encode()), "the key k59999 is there twice")
    assert time.process_time() - started < 20


@pytest.mark.parametrize("length", [2**63, 2**30, 50])
def test_headers_that_claim_to_be_longer_than_the_file(length: int, tmp_path: Path):
    file = tmp_path / "a.safetensors"
    file.write_bytes(length.to_bytes(8, "little") + b'{"a": 1}')
    refused(file, "header is cut off")


@pytest.mark.parametrize("kept", [4, 8, 1000, 100_000])
def test_truncated_files(kept: int, tmp_path: Path):
    file = save(tmp_path / "a.safetensors", dit_state())
    file.write_bytes(file.read_bytes()[:kept])
    refused(file, "is damaged.* cut off.*Download the file again")


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("a.gguf", b"", "an empty file"),
        ("a.gguf", b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        ("a.pth", b"", "a pickled PyTorch file"),
        ("a.ckpt", b"anything", "a pickled PyTorch file"),
        ("a.bin", b"anything", "a pickled PyTorch file"),
        ("a.safetensors", b"", "an empty file"),
        ("a.safetensors", b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        ("a.safetensors", b"<!DOCTYPE html>", "web page"),
    ],
)
def test_other_files_are_named(name: str, content: bytes, what: str, tmp_path: Path):
    (tmp_path / name).write_bytes(content)
    refused(tmp_path / name, what)


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("unpickled",))


@pytest.mark.parametrize("name", ["a.pt", "a.pth", "a.safetensors", "a"])
@pytest.mark.parametrize("form", ["pickle", "zip"])
def test_pickles_are_never_opened(name: str, form: str, tmp_path: Path):
    file = tmp_path / name
    if form == "pickle":
        file.write_bytes(pickle.dumps(Bomb()))
    else:
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("archive/data.pkl", pickle.dumps(Bomb()))
    refused(file, "a pickled PyTorch file, which could run code.*python -m wan_model.convert FILE")


def test_a_header_length_that_looks_like_a_pickle_is_fine(tmp_path: Path):
    """Header of 0x0280 bytes: the first two bytes of the file are those of pickle protocol 2."""
    text = b'{"something.new": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}'
    file = write_raw(tmp_path / "a.safetensors", text.ljust(0x280), b"0000")
    assert file.read_bytes().startswith(b"\x80\x02")
    refused(file, "unknown model")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="No pipes here.")
def test_what_is_no_regular_file_is_never_opened(tmp_path: Path):
    pipe = tmp_path / "a.safetensors"
    os.mkfifo(pipe)
    refused(pipe, "Got a pipe or a device")
    refused(tmp_path, "is not one checkpoint")
    (tmp_path / "zero.safetensors").symlink_to("/dev/zero")
    refused(tmp_path / "zero.safetensors", "Got a pipe or a device")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="No pipes here.")
def test_neighbours_do_not_matter(tmp_path: Path):
    """What looks like an index is passed over, unless it is one of the file."""
    file = save(tmp_path / "a.safetensors", dit_state())
    unusual = file.rename(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.safetensors"))
    index = "{}.safetensors.index.json".format
    (tmp_path / index("broken")).write_text('{"weight_map": {"a": "a.safetensors"')
    (tmp_path / index("other")).write_text('{"weight_map": ["a.safetensors"]}')
    (tmp_path / index("link")).symlink_to(tmp_path / "nowhere")
    (tmp_path / index("zero")).symlink_to("/dev/zero")
    (tmp_path / index("folder")).mkdir()
    os.mkfifo(tmp_path / index("pipe"))
    assert detect(unusual).kind == "t2v"
    assert detect(unusual.rename(file)).kind == "t2v"


class TestSharded:
    def test_missing_parts(self, tmp_path: Path):
        index = save_sharded(tmp_path, dit_state())
        (tmp_path / "model-00002-of-00003.safetensors").unlink()
        match = "Got 2 of 3 parts, need also model-00002-of-00003.safetensors"
        refused(index, match)
        refused(tmp_path / "model-00001-of-00003.safetensors", match)

    def test_a_part_without_index(self, tmp_path: Path):
        save_sharded(tmp_path, dit_state()).unlink()
        refused(tmp_path / "model-00001-of-00003.safetensors", "one part of a sharded")
        refused(tmp_path, "is not one checkpoint")

    @pytest.mark.parametrize(
        "name",
        [
            "../a.safetensors",
            "/etc/a.safetensors",
            "x/../../a",
            "..\\a",
            "C:\\a",
            "c:a",
            "",
            "a\0b",
        ],
    )
    def test_parts_outside_the_folder(self, name: str, tmp_path: Path):
        save(tmp_path / "a.safetensors", dit_state())
        index = tmp_path / "inner" / "m.safetensors.index.json"
        index.parent.mkdir()
        index.write_text(json.dumps({"weight_map": {"head.modulation": name}}))
        refused(index, "is unsafe")

    @pytest.mark.parametrize(
        "content",
        ["", "{", "[]", '{"weight_map": []}', '{"weight_map": {}}', '{"weight_map": {"a": 1}}'],
    )
    def test_a_broken_index(self, content: str, tmp_path: Path):
        index = tmp_path / "m.safetensors.index.json"
        index.write_text(content)
        refused(index, "index cannot be read|index has no weight_map")

    def test_an_index_that_names_other_keys(self, tmp_path: Path):
        index = save_sharded(tmp_path, dit_state())
        fields = json.loads(index.read_text())
        fields["weight_map"]["extra.weight"] = "model-00001-of-00003.safetensors"
        index.write_text(json.dumps(fields))
        refused(index, r"without 1 keys \(extra\.weight\)")

    def test_a_part_that_is_a_pickle(self, tmp_path: Path):
        index = save_sharded(tmp_path, dit_state())
        (tmp_path / "model-00002-of-00003.safetensors").write_bytes(pickle.dumps(Bomb()))
        refused(index, "a pickled PyTorch file")

    def test_a_folder_of_several_files(self, tmp_path: Path):
        save(tmp_path / "a.safetensors", dit_state())
        save(tmp_path / "b.safetensors", dit_state())
        refused(tmp_path, r"Got a\.safetensors, b\.safetensors, need exactly one")

    def test_a_pipeline_folder_names_its_parts(self, tmp_path: Path):
        save(tmp_path / "transformer" / "a.safetensors", dit_state())
        save(tmp_path / "transformer_2" / "a.safetensors", dit_state())
        refused(tmp_path, r"Choose one of its folders: transformer, transformer_2\.")


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A small scaled checkpoint; one block keeps the header short and most bytes of it vital."""
    state = {k: t for k, t in dit_state().items() if not k.startswith("blocks.1.")}
    folder = tmp_path_factory.mktemp("healthy")
    return save(folder / "a.safetensors", scaled(state), {"format": "pt"}).read_bytes()


FUZZ = settings(
    max_examples=50,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@FUZZ
@given(data=st.data())
def test_truncation_anywhere(healthy: bytes, tmp_path: Path, data: st.DataObject):
    kept = data.draw(st.integers(0, len(healthy) - 1))
    file = tmp_path / "a.safetensors"
    file.write_bytes(healthy[:kept])
    with pytest.raises(CheckpointError):
        detect(file)


def test_block_numbers_cannot_make_a_huge_model(tmp_path: Path):
    state = dit_state() | {"blocks.9999.ffn.0.weight": torch.zeros(1)}
    state |= {"blocks." + "9" * 5000 + ".ffn.0.weight": torch.zeros(1)}
    with pytest.raises(CheckpointError, match="missing"):
        load_dit(save(tmp_path / "a.safetensors", state))


def test_a_scale_is_read_only_from_its_own_layer(tmp_path: Path):
    state = scaled(dit_state())
    state[f"{LAYER}.extra.weight_scale"] = torch.tensor(1.0)
    with pytest.raises(CheckpointError, match=r"1 unexpected \(blocks\.1\.ffn\.0\.extra"):
        load_dit(save(tmp_path / "a.safetensors", state))
