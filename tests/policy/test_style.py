"""What reviewers should not have to look for: sizes, and habits that hide faults."""

import ast

import pytest

from .source import ALL_FOLDERS, REPOSITORY, Function, Source, pack_sources, sources

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60

UNSAFE_MODULES = {"pickle", "cPickle", "cloudpickle", "dill", "marshal", "shelve", "subprocess"}
NETWORK_MODULES = {
    *(
        "socket",
        "socketserver",
        "ssl",
        "http",
        "urllib",
        "ftplib",
        "smtplib",
        "xmlrpc",
        "webbrowser",
    ),
    *("requests", "httpx", "urllib3", "websocket", "websockets", "huggingface_hub", "aiohttp"),
}
RANDOM_CALLS = {"rand", "randn", "randint", "randperm", "normal", "multinomial", "bernoulli"}
RANDOM_LIKE = {"rand_like", "randn_like", "randint_like", "manual_seed", "seed"}
"""Of PyTorch, without a generator of one's own."""
RANDOM_METHODS = {"normal_", "uniform_", "random_", "bernoulli_", "exponential_"}
UNSAFE_CALLS = {"torch.load", "eval", "exec", "os.system", "__import__"}
PICKLE_READER = "wan_model/convert/pickled.py"
"""Reads pickled files on the command line, in a process of its own, and only with weights_only."""


def at(source: Source, node: ast.AST) -> str:
    """Returns "file:line"."""
    return f"{source}:{getattr(node, 'lineno', 0)}"


def test_files_are_short():
    long = [f"{s}: {s.lines}" for s in sources("", *ALL_FOLDERS) if s.lines > MAX_FILE_LINES]
    for script in sorted((REPOSITORY / "js").glob("**/*.js")):
        lines = len(script.read_text(encoding="utf-8").splitlines())
        if lines > MAX_FILE_LINES:
            long.append(f"{script.relative_to(REPOSITORY)}: {lines}")
    assert not long, "\n".join(long)


def test_functions_are_short():
    long = [
        f"{at(source, node)} {node.name}: {(node.end_lineno or 0) - node.lineno + 1}"
        for source in sources("", *ALL_FOLDERS)
        for node in source.functions()
        if (node.end_lineno or 0) - node.lineno >= MAX_FUNCTION_LINES
    ]
    assert not long, "\n".join(long)


def test_no_two_modules_of_one_name():
    """A newcomer finds the place from the name alone; adapters' folders mirror the library's."""
    modules = [source.path for source in sources("wan_model", "nodes")]
    folders = {path.parent for path in modules}
    scripts = [path.relative_to(REPOSITORY) for path in (REPOSITORY / "js").glob("**/*.js")]
    places: dict[str, list[str]] = {}
    for path in sorted({*modules, *scripts}):
        if path.name != "__init__.py":
            places.setdefault(path.stem, []).append(path.as_posix())
    for name, found in places.items():
        found += sorted(folder.as_posix() for folder in folders if folder.name == name)
    same = [f"{name}: {', '.join(found)}" for name, found in places.items() if len(found) > 1]
    assert not same, "\n".join(same)


def test_nothing_is_printed():
    wrong = [
        at(source, node)
        for source in pack_sources()
        for node in source.walk()
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "print"
    ]
    assert not wrong, "\n".join(wrong)


def test_no_bare_except():
    wrong = [
        at(source, node)
        for source in sources("", *ALL_FOLDERS)
        for node in source.walk()
        if isinstance(node, ast.ExceptHandler) and node.type is None
    ]
    assert not wrong, "\n".join(wrong)


def test_nothing_that_runs_code_from_a_file():
    wrong = [
        f"{source}:{found.line} {found.module}"
        for source in pack_sources()
        for found in source.imports
        if found.top in UNSAFE_MODULES
    ]
    wrong += [
        f"{at(source, node)} {ast.unparse(node.func)}"
        for source in pack_sources()
        for node in source.walk()
        if isinstance(node, ast.Call) and ast.unparse(node.func) in UNSAFE_CALLS
        if not (str(source) == PICKLE_READER and "weights_only=True" in ast.unparse(node))
    ]
    assert not wrong, "\n".join(wrong)


ASKING = "wan_model/prompt_help/chat.py"
"""The only file that asks a service: the one whose address a person wrote, see SECURITY.md."""

ASKING_MODULES = ("http.client", "socket")

LOOKING = "nodes/_comfy/cluster/ray_health.py"
"""The only file that looks whether somebody listens: Ray, which *Distribute* has started."""

ANSWERING = (
    "nodes/routes.py",
    "nodes/prompt_check/serve.py",
    "nodes/_comfy/host/prompt_gate.py",
)
"""Files that answer on ComfyUI's server, with aiohttp's part for servers."""


def test_nothing_opens_the_network():
    """As SECURITY.md says: but for one file. Our routes are on ComfyUI's own server."""
    wrong = [
        f"{source}:{found.line} {found.module}.{found.name}"
        for source in pack_sources()
        for found in source.imports
        if found.top in NETWORK_MODULES
        if not (str(source) in ANSWERING and (found.module, found.name) == ("aiohttp", "web"))
        if not (str(source) == ASKING and found.module in ASKING_MODULES)
        if not (str(source) == LOOKING and found.module == "socket")
        if found.module != "urllib.parse"
    ]
    for script in sorted((REPOSITORY / "js").glob("**/*.js")):
        text = script.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        words = ("://", "XMLHttpRequest", "WebSocket", "sendBeacon", "EventSource")
        wrong += [f"{script.relative_to(REPOSITORY)}: {word}" for word in words if word in text]
    assert not wrong, "\n".join(wrong)


def test_the_reader_of_pickles_is_no_part_of_the_nodes():
    readers = {"wan_model.convert", "wan_model.convert.pickled", "wan_model.convert.__main__"}
    wrong = [
        f"{source}:{found.line} {found.module}"
        for source in pack_sources()
        for found in source.imports
        if found.module in readers and not str(source).startswith("wan_model/convert/")
    ]
    assert not wrong, "\n".join(wrong)


def test_no_global_state():
    wrong = [
        at(source, node)
        for source in pack_sources()
        for node in source.walk()
        if isinstance(node, ast.Global)
    ]
    assert not wrong, "\n".join(wrong)


def foreign_assignments(source: Source) -> list[str]:
    """Returns the places where an attribute of something imported is assigned or deleted."""
    imported = {found.name for found in source.imports}
    wrong = []
    for node in source.walk():
        targets: list[ast.expr] = []
        if isinstance(node, ast.Assign | ast.Delete):
            targets = node.targets
        elif isinstance(node, ast.AugAssign | ast.AnnAssign):
            targets = [node.target]
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("setattr", "delattr"):
            targets = [ast.Attribute(node.args[0], "x")]
        for target in targets:
            root = target
            while isinstance(root, ast.Attribute | ast.Subscript):
                root = root.value
            if root is not target and isinstance(root, ast.Name) and root.id in imported:
                wrong.append(f"{at(source, node)} {ast.unparse(node)}")
    return wrong


def test_other_modules_are_not_patched():
    assert not [place for source in pack_sources() for place in foreign_assignments(source)]


@pytest.mark.parametrize(
    "code",
    [
        "import comfy.samplers\ncomfy.samplers.X = 1",
        "from comfy import samplers\nsamplers.table['a'] = 1",
        "import torch as t\nt.backends.cudnn.benchmark: bool = True",
        "import torch\nsetattr(torch, 'load', None)",
    ],
)
def test_patching_is_recognized(code: str, tmp_path):
    path = tmp_path / "patch.py"
    path.write_text(code)
    assert foreign_assignments(Source(path))


def test_torch_chooses_attention_kernels_for_others_as_before():
    """`sdpa_kernel(set_priority=True)` leaves torch's order changed for the whole process."""
    calls = [
        at(source, node)
        for source in pack_sources()
        for node in source.walk()
        if isinstance(node, ast.Call) and "set_priority" in {key.arg for key in node.keywords}
    ]
    assert not calls, "\n".join(calls)


def shared_randomness(source: Source) -> list[str]:
    """Returns the places that draw from, or seed, the random numbers of all."""
    bad_anyway = {f"torch.{name}" for name in RANDOM_LIKE} | {"torch.cuda.manual_seed_all"}
    with_one = {f"torch.{name}" for name in RANDOM_CALLS}
    wrong = []
    for node in source.walk():
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        own = "generator" in {key.arg for key in node.keywords}
        draws = called in with_one or called.rpartition(".")[2] in RANDOM_METHODS
        if called in bad_anyway or (draws and not own):
            wrong.append(at(source, node))
    return wrong


def test_a_samplers_seed_decides_its_noise():
    """Measurements and trials run between a seed and the noise of ancestral samplers."""
    assert not [place for source in pack_sources() for place in shared_randomness(source)]


@pytest.mark.parametrize(
    ("code", "wrong"),
    [
        ("torch.randn(2, device='cpu')", True),
        ("torch.randn(2, generator=g)", False),
        ("torch.manual_seed(0)", True),
        ("x.normal_()", True),
        ("torch.Generator().manual_seed(0)", False),
    ],
)
def test_shared_randomness_is_recognized(code: str, wrong: bool, tmp_path):
    path = tmp_path / "noise.py"
    path.write_text(code)
    assert bool(shared_randomness(Source(path))) is wrong


def undocumented(source: Source, node: ast.AST, *, methods: bool) -> list[str]:
    """Returns the public classes and functions (and methods) below a node without a docstring."""
    missing = []
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, Function | ast.ClassDef) or child.name.startswith("_"):
            continue
        if ast.get_docstring(child) is None:
            missing.append(f"{at(source, child)} {child.name}")
        if isinstance(child, ast.ClassDef) and methods:
            missing += undocumented(source, child, methods=True)
    return missing


def test_public_names_are_documented():
    library, nodes = sources("wan_model"), sources("nodes")
    missing = [place for s in library for place in undocumented(s, s.tree, methods=True)]
    # The methods of a node are ComfyUI's interface; the node's schema describes it.
    missing += [place for s in nodes for place in undocumented(s, s.tree, methods=False)]
    missing += [str(s) for s in (*library, *nodes) if s.text and not ast.get_docstring(s.tree)]
    assert not missing, "\n".join(missing)
