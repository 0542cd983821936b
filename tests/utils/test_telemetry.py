"""No command sends usage data, or writes any, whatever third-party packages do by default."""

from __future__ import annotations

import ast
import importlib.util
import ipaddress
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from commands import PATHS, ROOT, SMALL, write_folder

# Python runs a sitecustomize.py at the start of every process, child processes included. Nothing is really looked up.
SITE = """
import os, sys

LOCAL = os.environ["LOCAL"].split()

def watch(event, arguments):
    if event in ("socket.getaddrinfo", "socket.gethostbyname"):
        address = arguments[0]
        if ":" in str(address) or not str(address).strip("0123456789."):
            return  # a number, of which nothing is looked up
    elif event == "socket.connect" and arguments[0].type == 1 and isinstance(arguments[1], tuple):  # TCP
        address = arguments[1][0]
    else:
        return
    address = address.decode() if isinstance(address, bytes) else str(address or "localhost")
    if address not in LOCAL:
        with open(os.environ["WATCHED"], "a", encoding="utf-8") as file:
            file.write(address + "\\n")
        raise OSError("nothing but this machine is reached in this test")

sys.addaudithook(watch)
"""

# The same for native code, of which Python knows nothing; preloaded where there is a C compiler.
PRELOAD = """
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dlfcn.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints, struct addrinfo **result) {
    int (*real)(const char *, const char *, const struct addrinfo *, struct addrinfo **) = dlsym(RTLD_NEXT, "getaddrinfo");
    const char *log = getenv("WATCHED"), *local = getenv("LOCAL");
    struct in6_addr number;
    if (node == NULL || log == NULL || local == NULL || strstr(local, node) || inet_pton(AF_INET, node, &number) == 1
        || inet_pton(AF_INET6, node, &number) == 1)
        return real(node, service, hints, result);
    FILE *file = fopen(log, "a");
    if (file) { fprintf(file, "%s\\n", node); fclose(file); }
    return EAI_NONAME;
}
"""  # noqa: E501

PROBE = """
import ctypes, multiprocessing, socket, subprocess, sys
def look(name):
    try:
        socket.getaddrinfo(name, 443)
    except OSError:
        pass
look("process.probe.invalid")
child = multiprocessing.get_context("fork").Process(target=look, args=["fork.probe.invalid"])
child.start()
child.join()
subprocess.run([sys.executable, "-c", "import urllib.request as u; u.urlopen('http://child.probe.invalid')"],
               stderr=subprocess.DEVNULL)
ctypes.CDLL(None).getaddrinfo(b"native.probe.invalid", b"443", None, ctypes.byref(ctypes.c_void_p()))
"""

# Commands load each package in their own way first; then what they did not need is imported as it is.
COMMANDS = """
import importlib, json, sys
from featcache_cli.main import main
data, small, packages = sys.argv[1], json.loads(sys.argv[2]), json.loads(sys.argv[3])
def run(*arguments):
    assert not main([str(one) for one in arguments], standalone_mode=False)
run("extract", data, "-o", "cache.h5", *small, "--views", "0", "--engine", "openvino", "--precision", "fp32")
run("fit-head", "cache.h5", "-o", "head", "--head", "linear", "-p", "C=0.1")
if "onnxruntime" in packages:
    run("export", "head", "--format", "onnx", "-o", "network.onnx")
if "gradio" in packages:
    from featcache import Classifier, serve
    def stop(page):
        raise KeyboardInterrupt
    try:
        serve(Classifier.load("head"), on_start=stop)
    except KeyboardInterrupt:
        pass
for name in packages:
    importlib.import_module(name)
print(json.dumps(sorted({name.split(".")[0] for name in sys.modules})))
"""

CLUSTER = """
from featcache.core.ray_cluster import Cluster, RayCluster
machines = RayCluster(Cluster())
assert machines.available_nodes()
machines.close()
"""


def third_party() -> set[str]:
    """Packages that the library and the command line import anywhere, inside functions too."""
    found = set()
    for path in [*(ROOT / "featcache").rglob("*.py"), *(ROOT / "cli" / "featcache_cli").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found.add((node.module or "").split(".")[0])
    return found - set(sys.stdlib_module_names) - {"featcache", "featcache_cli"}


def run_watched(folder: Path, code: str, *arguments: str) -> tuple[str, set[str], list[str]]:
    """Run Python code in a fresh process with an empty home.

    Returns
    -------
    tuple
        What it printed; the addresses other than this machine's that it and its child processes looked up or connected
        to; the files that they left in the home.
    """
    home, site, log = folder / "home", folder / "site", folder / "watched.txt"
    for made in (home, site):
        made.mkdir(parents=True)
    (site / "sitecustomize.py").write_text(SITE, encoding="utf-8")
    log.touch()
    own = {"localhost", socket.gethostname(), "127.0.0.1", "::1", "0.0.0.0", "::", *_own_addresses()}
    # A user's machine: nothing is switched off already, and it does not look like one that builds software
    told = ("XDG_", "HF_", "RAY_", "ORT_", "GRADIO_", "MPL", "CI", "TF_BUILD", "GITHUB_", "BUILD_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(told)}
    environment |= {"HOME": str(home), "WATCHED": str(log), "LOCAL": " ".join(own), "RAY_ADDRESS": "local"}
    environment |= {"PYTHONPATH": os.pathsep.join([str(site), PATHS])}
    if _compiler():
        (site / "watch.c").write_text(PRELOAD, encoding="utf-8")
        library = site / "watch.so"
        subprocess.run([_compiler(), "-shared", "-fPIC", "-o", library, site / "watch.c", "-ldl"], check=True)
        environment["LD_PRELOAD"] = str(library)
    line = [sys.executable, "-c", code, *arguments]
    ran = subprocess.run(line, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)
    assert ran.returncode == 0, ran.stderr
    addresses = set(log.read_text(encoding="utf-8").split())
    return ran.stdout, addresses, [str(one.relative_to(home)) for one in home.rglob("*") if one.is_file()]


def _compiler() -> str:
    return (shutil.which("cc") or "") if sys.platform == "linux" else ""


def _own_addresses() -> set[str]:
    try:
        return {str(one[4][0]) for one in socket.getaddrinfo(socket.gethostname(), None)}
    except OSError:
        return set()


def _is_link_local(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_link_local
    except ValueError:
        return False


def test_the_watch_sees_native_code_and_children_too(tmp_path: Path) -> None:
    _, addresses, files = run_watched(tmp_path, PROBE)
    seen = ["process", "fork", "child", *(["native"] if _compiler() else [])]
    assert addresses == {f"{who}.probe.invalid" for who in seen}
    assert files == []


def test_no_command_sends_usage_data_or_writes_any(tmp_path: Path) -> None:
    used = third_party() | {"onnxscript", "onnxruntime"}  # the latter by PyTorch's exporter and exported programs
    assert {"torch", "openvino", "gradio", "datasets", "ray"} <= used
    installed = sorted(name for name in used if importlib.util.find_spec(name))
    data = write_folder(tmp_path / "data")
    printed, addresses, files = run_watched(
        tmp_path / "fresh", COMMANDS, str(data), json.dumps(SMALL), json.dumps(installed)
    )
    loaded = set(json.loads(printed.splitlines()[-1]))
    assert set(installed) <= loaded
    assert "openvino_telemetry" not in loaded
    assert addresses == set()
    ours = (".cache/featcache/", ".cache/matplotlib/", ".config/matplotlib/")
    assert [name for name in files if not name.startswith(ours)] == []


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")
def test_a_cluster_of_ones_own_sends_no_usage_data(tmp_path: Path) -> None:
    """Ray asks link-local addresses in which cloud the machine is, whatever it is told, and sends nothing else."""
    _, addresses, files = run_watched(tmp_path, CLUSTER)
    assert {one for one in addresses if not _is_link_local(one)} <= {"metadata.google.internal"}
    assert [name for name in files if name != ".ray/auth_token"] == []  # by which workers know each other


def test_a_users_own_choice_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    from featcache._utils.telemetry import decline_usage_data

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "1")
    monkeypatch.delenv("HF_HUB_DISABLE_TELEMETRY", raising=False)
    decline_usage_data()
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "1"
    assert os.environ["HF_HUB_DISABLE_TELEMETRY"] == "1"


@pytest.mark.parametrize("package", ["datasets", "huggingface_hub", "ray", "timm", "transformers"])
def test_who_imports_such_a_package_declines_first(package: str) -> None:
    found = []
    for path in sorted((ROOT / "featcache").rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        if re.search(rf"^ +(import|from) {package}\b", text, re.MULTILINE):
            found.append(path.name)
            assert "decline_usage_data()" in text, path.name
    assert found
