"""The command line, and processes that end with their starter."""

import importlib.util
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from render_farm import worker_files
from render_farm.engine import GUARD, ComfySpec, FarmError, check_port
from render_farm.launch import main, parse, spec_of
from render_farm.local_engine import visible_gpus
from render_farm.worker_files import shorten_while_written

from .fake_comfyui import FakeComfyUI, in_own_loop


def test_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "main.py").touch()
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    given = ["--comfyui", str(tmp_path), "--folder", str(tmp_path / "f"), "--", "--cpu", "--fast"]
    options = parse(given)
    assert (options.listen, options.port) == ("127.0.0.1", 8188)
    spec = spec_of(options)
    assert not spec.on_gpu
    assert ("OMP_NUM_THREADS", "3") in spec.environment
    command = spec.command(2, "127.0.0.1")
    assert command[:3] == [sys.executable, str(GUARD), str(tmp_path / "main.py")]
    assert command[-2:] == ["--cpu", "--fast"]
    assert command[command.index("--port") + 1] == "8202"
    assert Path(command[command.index("--temp-directory") + 1]).is_dir()


@pytest.mark.parametrize(
    "options",
    [["--address", "a:1", "--without-ray"], ["--workers", "-1"], []],
)
def test_options_that_do_not_fit(options: list[str], tmp_path: Path):
    with pytest.raises(SystemExit):
        parse(["--comfyui", str(tmp_path), *options] if options else [])


def test_no_comfyui(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    assert main(["--comfyui", str(tmp_path)]) == 2
    assert "There is no ComfyUI. Got" in caplog.text


@pytest.mark.skipif(sys.platform == "win32", reason="There the temporary folder is the user's.")
def test_the_default_folder_is_this_users_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """In a folder that others write to, too: what somebody else has put there is not used."""
    (tmp_path / "main.py").touch()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    options = parse(["--comfyui", str(tmp_path), "--port", "1234"])
    spec = spec_of(options)
    folder = Path(spec.folder)
    assert (folder.parent, folder.stat().st_mode & 0o777) == (tmp_path, 0o700)
    assert "1234" in folder.name
    spec.command(1, "127.0.0.1")

    def refused() -> None:
        with pytest.raises(FarmError, match=r"not this user's alone\. Got .* need .*--folder"):
            spec_of(options)
        with pytest.raises(PermissionError):
            spec.command(1, "127.0.0.1")

    folder.chmod(0o750)
    refused()
    folder.rename(tmp_path / "theirs")
    (tmp_path / "theirs").chmod(0o700)
    folder.symlink_to(tmp_path / "theirs")
    refused()
    folder.unlink()
    folder.mkdir(0o700)
    other = os.getuid() + 1
    monkeypatch.setattr(os, "getuid", lambda: other)
    folder.rename(worker_files.default_folder(1234))
    refused()


@pytest.mark.skipif(sys.platform == "win32", reason="There it is shortened at a start only.")
def test_a_log_is_shortened_while_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """The program goes on in the same file; the end of what was there is kept once."""
    monkeypatch.setattr(worker_files, "MOST_LOG_BYTES", 100)
    spec = ComfySpec("main.py", (), str(tmp_path), 9000)
    for number in range(3):
        with spec.open_log(1) as log:
            log.write(b"%d" % number * 101)
            log.flush()
            assert shorten_while_written(spec.log(1))
            assert (spec.log(1).stat().st_size, log.write(b"next")) == (0, 4)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == {
        "worker-1.log": b"next",
        "worker-1.old.log": b"2" * 100,
    }
    old = tmp_path / "worker-1.old.log"
    old.unlink()
    old.mkdir()
    spec.log(1).write_bytes(b"3" * 101)
    spec.open_log(1).close()
    assert not shorten_while_written(spec.log(1), quiet=True)
    assert spec.log(1).stat().st_size == 101
    assert caplog.text.count("cannot be shortened") == 1


def test_no_ray(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    if importlib.util.find_spec("ray") is not None:
        pytest.skip("Ray is there.")
    (tmp_path / "main.py").touch()
    assert main(["--comfyui", str(tmp_path)]) == 2
    assert "Ray is missing. Got no usable package 'ray'" in caplog.text
    assert "--without-ray" in caplog.text


def test_gpus_that_were_chosen(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-a")
    assert visible_gpus() == ["3", "GPU-a"]


def test_a_worker_has_no_port_behind_the_last():
    with pytest.raises(FarmError, match="Got 65536, need one from 1 to 65535"):
        check_port("127.0.0.1", ComfySpec("main.py", (), "/f", 65535).port(2))


def test_a_port_that_is_taken():
    async def take() -> None:
        fake = FakeComfyUI(1, set())
        await fake.start()
        with pytest.raises(FarmError, match=f"Got {fake.port}"):
            check_port(fake.host, fake.port)
        await fake.end()
        check_port(fake.host, fake.port)

    in_own_loop(take())


def test_a_guarded_program_ends_with_its_starter(tmp_path: Path):
    program = tmp_path / "program.py"
    program.write_text(
        "import sys, time; print(__name__, sys.argv[1:], flush=True); time.sleep(60)"
    )
    process = subprocess.Popen(
        [sys.executable, str(GUARD), str(program), "--a"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stdout.readline() == "__main__ ['--a']\n"
    process.stdin.close()
    assert process.wait(300) == 1
    process.stdout.close()


@pytest.mark.skipif(sys.platform != "linux", reason="Linux only.")
def test_a_program_that_restarts_itself_ends_with_its_starter(tmp_path: Path):
    program = tmp_path / "program.py"
    program.write_text(
        "import os, sys, time\n"
        "if len(sys.argv) == 1: os.execv(sys.executable, [sys.executable, __file__, '--again'])\n"
        "print(os.getpid(), flush=True)\n"
        "time.sleep(30)\n"
        "print('late')\n"
    )
    code = "import subprocess, sys; subprocess.Popen(sys.argv[1:], stdin=-1).wait()"
    command = [sys.executable, "-c", code, sys.executable, str(GUARD), str(program)]
    starter = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert starter.stdout is not None
    assert starter.stdout.readline()
    starter.kill()
    starter.wait()
    assert starter.stdout.read() == "", "whoever holds the other end has ended"
    starter.stdout.close()


@pytest.mark.parametrize("option", ["--port", "--listen=0.0.0.0", "--tls-keyfile", "--cuda-device"])
def test_options_that_the_farm_gives_itself(
    option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    with pytest.raises(SystemExit):
        parse(["--comfyui", str(tmp_path), "--", option, "1"])
    assert option.partition("=")[0] in capsys.readouterr().err


def test_ports_are_one_after_another():
    spec = ComfySpec("main.py", (), "/f", 9000)
    assert [spec.port(slot) for slot in (1, 2, 3)] == [9000, 9001, 9002]
    assert spec.on_gpu
