"""Imports only from rooms above, files and Dask only in their modules, one name for one thing."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import geoseg

ROOT = Path(geoseg.__file__).parent

# From the lowest room to the highest: each imports only from rooms before it, and from itself.
ROOMS = (
    "version", "credentials", "errors", "sample", "options", "config", "jobs", "geo", "town",
    "data", "networks", "prediction", "vectorization", "alignment", "evaluation", "training",
    "detection", "api", "__init__", "cli", "__main__",
)  # fmt: skip

FLOOR_OF = {room: floor for floor, room in enumerate(ROOMS)}


def name_of(path):
    """`geoseg/geo/vector/polygons.py` → `geoseg.geo.vector.polygons`."""
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): ast.parse(path.read_text()) for path in sorted(ROOT.rglob("*.py"))}


def room_of(module):
    """`geoseg.geo.vector.polygons` → `geo`."""
    return [*module.split("."), "__init__"][1]


def imports_of(tree):
    """Names of all modules that a module imports, at its top or later."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide which floor they reach"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name for name in names if name in MODULES} or {node.module}
    return found


def own(names):
    return sorted(name for name in names if name.split(".")[0] == "geoseg")


def calls(tree, *path):
    """Line numbers where `path[0].path[1]...` is used, or `path[0]` alone is called."""
    wanted = ".".join(path)
    return [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute | ast.Call)
        and ast.unparse(node.func if isinstance(node, ast.Call) else node) == wanted
    ]


def test_every_module_has_a_floor():
    rooms = {room_of(module) for module in MODULES}
    assert rooms - set(FLOOR_OF) == set()
    assert set(FLOOR_OF) - rooms == set()


@pytest.mark.parametrize("module", MODULES)
def test_imports_only_go_down(module):
    floor = FLOOR_OF[room_of(module)]
    upward = [name for name in own(imports_of(MODULES[module])) if FLOOR_OF[room_of(name)] > floor]
    assert upward == []


def test_rooms_below_the_api_do_not_know_networks_of_boxes():
    using = {room_of(m) for m, tree in MODULES.items() for name in own(imports_of(tree))
             if room_of(name) == "detection"}  # fmt: skip
    assert using == {"detection", "api"}


def test_one_class_name_means_one_thing():
    owners = {}
    for module, tree in MODULES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                owners.setdefault(node.name, []).append(module)
    assert {name: modules for name, modules in owners.items() if len(modules) > 1} == {}


def test_no_module_imports_itself_in_a_circle():
    graph = {
        module: [name for name in own(imports_of(tree)) if name in MODULES and name != module]
        for module, tree in MODULES.items()
    }
    done, path = set(), []

    def visit(module):
        assert module not in path, " → ".join([*path[path.index(module) :], module])
        if module in done:
            return
        path.append(module)
        for name in graph[module]:
            visit(name)
        done.add(path.pop())

    for module in graph:
        visit(module)
    assert done == set(MODULES)


def users(*packages):
    return [
        module
        for module, tree in MODULES.items()
        if {name.split(".")[0] for name in imports_of(tree)} & set(packages)
    ]


def test_only_the_cluster_imports_dask():
    assert users("dask", "distributed") == ["geoseg.jobs.dask_cluster"]


def test_only_raster_opens_rasters():
    opening = [m for m, tree in MODULES.items() if calls(tree, "rasterio", "open")]
    assert opening == ["geoseg.geo.raster.geotiff", "geoseg.geo.raster.opening"]


def test_loggers_hide_credentials():
    users = [m for m, tree in MODULES.items() if calls(tree, "logging", "getLogger")]
    # A session changes the levels of loggers of other libraries.
    assert users == ["geoseg.credentials", "geoseg.training.session"]


def test_torch_is_used_only_where_there_are_networks():
    rooms = {room_of(module) for module in users("torch", "torchvision", "timm", "lightning")}
    assert rooms <= {"networks", "prediction", "training", "detection", "api", "cli"}
    assert {"networks", "training"} <= rooms


def test_options_import_only_pydantic():
    modules = [tree for module, tree in MODULES.items() if room_of(module) == "options"]
    packages = {name.split(".")[0] for tree in modules for name in imports_of(tree)}
    assert packages - sys.stdlib_module_names == {"geoseg", "pydantic"}


def test_the_library_does_not_print_or_exit():
    library = {m: tree for m, tree in MODULES.items() if room_of(m) != "cli"}
    assert {m: calls(tree, "print") for m, tree in library.items() if calls(tree, "print")} == {}
    assert [m for m, tree in library.items() if calls(tree, "sys", "exit")] == []
    assert [m for m, tree in MODULES.items() if calls(tree, "print")] == []


def test_nothing_executes_from_a_file():
    assert users("cloudpickle", "dill", "joblib", "shelve", "marshal") == []
    for module in users("pickle"):
        names = [
            alias.name
            for node in ast.walk(MODULES[module])
            if isinstance(node, ast.ImportFrom) and node.module == "pickle"
            for alias in node.names
        ]
        assert names == ["UnpicklingError"], module
        assert "pickle" not in imports_of(MODULES[module]) or names, module
    for module, tree in MODULES.items():
        assert calls(tree, "yaml", "load") == [], module
        assert calls(tree, "eval") + calls(tree, "exec") == [], module
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call):
                continue
            name = ast.unparse(node.func)
            given = {k.arg: ast.unparse(k.value) for k in node.keywords}
            assert not name.startswith("pickle."), module
            assert not name.endswith("read_pickle"), module
            assert given.get("allow_pickle", "False") == "False", module
            if name == "torch.load":
                assert given.get("weights_only") == "True", module


def test_the_command_line_starts_light():
    heavy = {"torch", "numpy", "rasterio", "geopandas", "pandas", "dask", "yaml", "pydantic"}
    code = "import sys, geoseg.cli; print(*{name.split('.')[0] for name in sys.modules})"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT.parent
    )
    assert set(result.stdout.split()) & heavy == set()
