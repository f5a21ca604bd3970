"""Command line: `python -m render_farm --comfyui PATH`."""

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import aiohttp
from aiohttp import web

from .crew import Crew
from .engine import HERE, ComfySpec, Engine, FarmError
from .farm import Farm
from .front import make_app
from .local_engine import LocalEngine
from .proxy import Proxy
from .ray_engine import RayEngine
from .worker_files import claim, default_folder

logger = logging.getLogger("render_farm")

EPILOG = """
What follows -- goes to every ComfyUI: python -m render_farm --comfyui ~/ComfyUI -- --fast

All workers use ComfyUI's folders for models, input, output and user together.
"""

SHUTDOWN_SECONDS = 5.0
"""In which answers that are on their way may end."""

FROM_HERE = ("OMP_NUM_THREADS", "PYTHONPATH")
"""Variables that Ray sets anew for its processes."""


GIVEN_TO_WORKERS = {
    *("--port", "--listen", "--tls-keyfile", "--tls-certfile", "--cuda-device"),
    *("--temp-directory", "--user-directory", "--database-url", "--auto-launch"),
}
"""ComfyUI's options that would break the way to a worker, or what is its own."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the farm until it is stopped; returns the exit code."""
    options = parse(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    try:
        spec = spec_of(options)
        engine: Engine = (
            LocalEngine(spec, options.workers)
            if options.without_ray
            else RayEngine(spec, options.workers, options.address)
        )
    except FarmError as error:
        logger.error("%s", error)
        return 2
    logger.info("ComfyUI with %d workers: http://%s:%d", engine.slots, options.listen, options.port)
    logger.info("The workers' messages are in %s", spec.folder)
    try:
        web.run_app(
            application(engine, mark_files=not options.keep_names),
            host=options.listen,
            port=options.port,
            print=None,
            access_log=None,
            shutdown_timeout=SHUTDOWN_SECONDS,
        )
    except OSError as error:
        logger.error("The address cannot be used. Got '%s'. Choose another --port.", error)
        return 2
    return 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Returns the options; `comfy` is what every ComfyUI gets."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    own = given[: given.index("--")] if "--" in given else given
    parser = argparse.ArgumentParser(
        prog="python -m render_farm",
        description="One address for several ComfyUIs, one per GPU. See docs/cluster.md.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--comfyui", required=True, metavar="PATH", help="folder with main.py")
    parser.add_argument(
        "--workers", type=int, default=0, metavar="N", help="default: one for each GPU"
    )
    parser.add_argument(
        "--address",
        default="",
        help="a Ray cluster, such as 10.0.0.1:6379; default: Ray on this computer alone",
    )
    parser.add_argument(
        "--without-ray", action="store_true", help="only this computer's GPUs, as plain processes"
    )
    parser.add_argument(
        "--listen",
        default=HERE,
        metavar="IP",
        help="default: 127.0.0.1, this computer alone. There is no password: whoever reaches the "
        "address can run anything that ComfyUI can",
    )
    parser.add_argument("--port", type=int, default=8188, help="default: 8188")
    parser.add_argument(
        "--worker-port", type=int, default=8201, help="of worker 1, the next has the next one"
    )
    parser.add_argument(
        "--folder",
        default="",
        help="for the workers' messages, temporary files and databases; default: a private one",
    )
    parser.add_argument(
        "--keep-names",
        action="store_true",
        help="do not add _w1, _w2 ... to names of saved files; two workers may then overwrite "
        "each other's",
    )
    options = parser.parse_args(own)
    options.comfy = given[len(own) + 1 :]
    if options.address and options.without_ray:
        parser.error("--address needs Ray: leave out --without-ray.")
    for name in (each.partition("=")[0] for each in options.comfy):
        if name in GIVEN_TO_WORKERS:
            parser.error(
                f"{name} cannot stand behind --: the farm sets it for each worker, or all workers "
                "need ComfyUI's own. Leave it out; --port and --listen in front of -- are the "
                "farm's address."
            )
    if options.workers < 0:
        parser.error(f"--workers: got {options.workers}, need 1 or more.")
    return options


def spec_of(options: argparse.Namespace) -> ComfySpec:
    """Returns how workers are started.

    Raises:
        FarmError: if there is no ComfyUI, or no folder for the workers.
    """
    program = Path(options.comfyui).expanduser().resolve() / "main.py"
    if not program.is_file():
        raise FarmError(
            f"There is no ComfyUI. Got {program.parent}, need the folder with its main.py. Give it "
            "with --comfyui."
        )
    folder = Path(options.folder or default_folder(options.port)).expanduser().absolute()
    if not options.folder:
        try:
            claim(folder)
        except OSError as error:
            raise FarmError(str(error)) from error
    environment = tuple((name, os.environ[name]) for name in FROM_HERE if name in os.environ)
    return ComfySpec(
        str(program),
        tuple(options.comfy),
        str(folder),
        options.worker_port,
        environment,
        private=not options.folder,
    )


async def application(engine: Engine, *, mark_files: bool) -> web.Application:
    """Returns what answers, with workers that live as long as it does."""
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=10)
    # Each client has a connection to each worker: of 100 in all, none would be left for questions.
    connector = aiohttp.TCPConnector(limit=0)
    session = aiohttp.ClientSession(connector=connector, timeout=timeout)
    farm, proxy = Farm(mark_files=mark_files), Proxy()
    crew = Crew(engine, farm, session)

    async def stop_working(_: web.Application) -> None:
        await farm.close()

    async def end_workers(_: web.Application) -> None:
        await crew.close()
        await proxy.close()
        await session.close()

    app = make_app(farm, crew, proxy)
    app.on_shutdown.append(stop_working)
    app.on_cleanup.append(end_workers)
    farm.start()
    crew.start()
    return app
