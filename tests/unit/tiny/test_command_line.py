"""python -m tools.tiny_score."""

import sys
from pathlib import Path

import av
import numpy as np
import pytest
from safetensors.torch import save_file

from tools.tiny_score import read_video
from tools.tiny_score.__main__ import main
from tools.train_tiny.scenes import prompt_scene, render, score_prompts

PROMPT = score_prompts()[4]


@pytest.fixture
def clip():
    return render([prompt_scene(PROMPT)])[0]


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["tiny_score", *arguments])
    return main()


def write_mp4(path: Path, clip) -> None:
    frames = ((clip + 1) * 127.5).round().byte().permute(1, 2, 3, 0).numpy()
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=16)
        stream.width, stream.height, stream.pix_fmt = 128, 128, "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def test_a_video_file_is_scored(tmp_path, monkeypatch, capsys, clip):
    path = tmp_path / "clip.mp4"
    write_mp4(path, clip)
    assert run(monkeypatch, str(path), "--prompt", PROMPT.text) == 0
    assert "colour ok, shape ok, motion ok, count ok" in capsys.readouterr().out
    assert run(monkeypatch, str(path), "--prompt", "a white ring shrinks") == 1
    assert "colour WRONG, shape WRONG, motion WRONG, count ok" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        run(monkeypatch, str(path), "--prompt", "a cat")


def test_tensors_are_read(tmp_path, monkeypatch, capsys, clip):
    np.save(tmp_path / "clip.npy", clip.numpy())
    save_file({"video": clip[None].clone()}, tmp_path / "clip.safetensors")
    assert (read_video(tmp_path / "clip.safetensors") == clip).all()
    paths = [str(tmp_path / name) for name in ("clip.npy", "clip.safetensors")]
    assert run(monkeypatch, paths[0], "--reference", paths[1], "--first-frame", paths[1]) == 0
    output = capsys.readouterr().out
    assert "PSNR inf dB" in output
    assert PROMPT.motion in output


def test_a_tensor_that_is_no_video_is_refused(tmp_path):
    np.save(tmp_path / "clip.npy", np.zeros((4, 8, 8)))
    with pytest.raises(ValueError, match="need \\[3, T, H, W\\]"):
        read_video(tmp_path / "clip.npy")
