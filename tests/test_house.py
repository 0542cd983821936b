from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from commands import ROOT

RANKS = {
    name: rank
    for rank, names in enumerate(
        (
            "errors regular allocator calibration labels joined world rng plain_load zipped",
            "atomic lockfile filekinds split_names foreign_folders telemetry hints checkpoints notebook thresholds",
            "modelfolder bitdepth alone",
            "tiff",
            "projection fonts hosting folders spec samples metrics pairing phrases neighbours images lbfgs "
            "blocks plan stages machines recipe passes renaming",
            "remote folds spectrum state_dicts label_metrics features report files holdout objective trivial sealed "
            "parity class_names network_names columns layers devices device_pass transferability",
            "prediction progress_bar steps pooling weights findings training trees capacity input_notes data_summary",
            "frozen folder_layout softmax datasets lock layout views engines presets card commands",
            "drawing entries network checkpoint weights_source",
            "tables tarfiles webdataset unfreezing hidden_labels",
            "convergence plots galleries symptoms likeness known timm_networks torchvision_networks shards huggingface",
            "sources",
            "manifest inputs predictions page regression checksums skeleton creation conversion architectures",
            "linear onevsrest arrays",
            "folding scaling attention imagenet",
            "loader heads headfile sgd selection cache backbones",
            "own_network",
            "closed valuerange head2toe writer imagecache live_batches starting verification saved extractor transfer",
            "parts",
            "eachlabel families validation carrying run classifier formats workman member",
            "serving sorting exporting evaluating finetuning cluster",
            "auto extraction team",
            "multilabel estimating rates",
            "fitters",
            "fitting updating doubts",
            "curves probes",
            "pictures routes forecasting doctor",
            "budget figures",
            "outcomes",
            "verdict work",
            "comparison reporting",
            "pages capacity_page",
            "trying",
        )
    )
    for name in names.split()
}
LIBRARY = sorted((ROOT / "featcache").glob("*.py"))
CLI = sorted((ROOT / "cli" / "featcache_cli").glob("*.py"))
GUARDED = {
    "h5py": {"featcache/skeleton.py"},
    "matplotlib": {f"featcache/{name}.py" for name in ("drawing", "figures", "fonts", "plots", "galleries")},
    "PIL": {"featcache/images.py"},
    "tifffile": {"featcache/tiff.py"},
    "pillow_heif": {"featcache/images.py"},
    "zlib_ng": {"featcache/checksums.py", "featcache/imagecache.py"},
    "simplejpeg": {"featcache/images.py"},
    "timm": {"featcache/timm_networks.py", "featcache/imagenet.py"},
    "openvino": {"featcache/conversion.py", "featcache/telemetry.py"},
    "gradio": {"featcache/serving.py"},
    "fsspec": {"featcache/remote.py"},
    "tenacity": {"featcache/remote.py"},
    "pyarrow": {"featcache/tables.py", "featcache/huggingface.py"},
    "datasets": {"featcache/huggingface.py"},
    "ray": {"featcache/machines.py"},
    "threadpoolctl": {"featcache/team.py"},
    "jinja2": {"featcache/page.py"},
    "click": {f"featcache_cli/{path.name}" for path in CLI},
    "tqdm": {"featcache/progress_bar.py", *(f"featcache_cli/{path.name}" for path in CLI)},
}


def _walk(node: ast.AST) -> Iterator[ast.AST]:
    """Every node but those that only type checkers see."""
    yield node
    for child in ast.iter_child_nodes(node):
        if not (isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING")):
            yield from _walk(child)


def _imports(path: Path) -> set[str]:
    """Dotted names of all that a file imports, inside of functions too."""
    found: set[str] = set()
    for node in _walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: a relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def test_the_table_names_every_module_and_no_other() -> None:
    assert set(RANKS) == {path.stem for path in LIBRARY} - {"__init__"}


@pytest.mark.parametrize("path", [path for path in LIBRARY if path.stem in RANKS], ids=lambda path: path.stem)
def test_a_module_imports_from_lower_ranks_only(path: Path) -> None:
    used = {name.split(".")[1] for name in _imports(path) if name.startswith("featcache.")}
    assert {name for name in used if RANKS[name] >= RANKS[path.stem]} == set()


def test_the_library_never_imports_the_command_line() -> None:
    assert [path.name for path in LIBRARY if any(name.startswith("featcache_cli") for name in _imports(path))] == []


@pytest.mark.parametrize("package", GUARDED)
def test_a_guarded_package_stays_in_its_room(package: str) -> None:
    rooms = {
        f"{path.parent.name}/{path.name}"
        for path in [*LIBRARY, *CLI]
        if any(name.split(".")[0] == package for name in _imports(path))
    }
    assert rooms
    assert rooms <= GUARDED[package]


def test_the_library_prints_nothing() -> None:
    calls = [
        f"{path.name}:{node.lineno}"
        for path in LIBRARY
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert calls == []


def test_no_module_is_a_hall() -> None:
    lengths = {path.name: len(path.read_text(encoding="utf-8").splitlines()) for path in [*LIBRARY, *CLI]}
    assert {name: length for name, length in lengths.items() if length >= 450} == {}


def test_a_command_is_a_thin_call() -> None:
    lengths = {}
    for path in CLI:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and any(
                ".command(" in ast.unparse(one) for one in node.decorator_list
            ):
                body = node.body[1:]
                lengths[f"{path.name}: {node.name}"] = (body[-1].end_lineno or 0) - body[0].lineno + 1
    assert len(lengths) == 21 + 7  # show has seven pictures
    assert {name: length for name, length in lengths.items() if length > 25} == {}
