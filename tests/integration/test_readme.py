"""Every command and every line of Python in the README works as it stands there."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from featcache.core.ray_cluster import RayCluster
from featcache_cli.main import main
from outcomes import in_this_process
from toys import random_image

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def commands(language: str) -> list[list[str]]:
    lines = [line for block in blocks(language) for line in block.splitlines()]
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("featcache ")]


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for split, count in (("train", 6), ("val", 3)):
        for tint, name in enumerate(("ants", "bees")):
            (tmp_path / "photos" / split / name).mkdir(parents=True)
            for number in range(count):
                image = random_image(100 * count + 10 * tint + number, 40, 30, tint)
                image.save(tmp_path / "photos" / split / name / f"{number:03d}.jpg", quality=95)
    (tmp_path / "traits.csv").write_text(*blocks("csv"))
    shutil.make_archive(str(tmp_path / "photos"), "tar", tmp_path / "photos")  # the README's `tar` line
    monkeypatch.chdir(tmp_path)
    return tmp_path / "photos"


@pytest.fixture
def one_cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Ray is started once, by the first command with --cluster."""
    import ray

    monkeypatch.setattr(RayCluster, "close", lambda _: None)
    yield
    ray.shutdown()


@pytest.mark.timeout(3600)  # minutes, on a machine with nothing else to do
@pytest.mark.usefixtures("photos", "one_cluster")
def test_every_shell_command_runs_in_the_order_of_the_readme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_this_process(monkeypatch)  # the routes of `benchmark`
    assert {command[0] for command in commands("sh")} >= {
        "extract",
        "info",
        "fit-head",
        "predict",
        "benchmark",
        "finetune",
    }
    for command in commands("sh"):
        result = CliRunner().invoke(main, command)
        fine = (0, 3, 4) if command[0] == "doctor" else (0,)  # these photos are noise
        assert result.exit_code in fine, (command, result.output)
    for name in ("report.md", "report.json", "report.png"):
        assert (tmp_path / "report" / name).stat().st_size > 1000


def test_commands_that_need_a_download_are_spelt_rightly() -> None:
    assert commands("console")
    for command in commands("console"):
        context = main.make_context("featcache", [], resilient_parsing=True)
        subcommand = main.get_command(context, command[0])
        assert subcommand is not None
        subcommand.make_context(command[0], command[1:], parent=context)  # else click would forget main's -h for good


@pytest.mark.usefixtures("photos")
def test_the_python_of_the_readme_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = blocks("python")
    names: dict[str, object] = {}
    exec(code, names)
    printed = capsys.readouterr().out
    assert "photos/val/ants/000.jpg" in printed
    assert "{'penultimate': 1280}" in printed


def test_ci_runs_the_test_command_of_the_readme() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert script.rstrip().endswith("make test")
    assert "make test " in README
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for verb in re.findall(r"`?make ([a-z]+)", README + (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")):
        assert f"\n{verb}:" in makefile, verb


def test_links_and_pictures_exist() -> None:
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in link]
    assert links
    for link in links:
        assert (ROOT / link).exists(), link


FIGURES = {  # of a script's row: the format, and the way to the median in its results
    "tutorial": [
        ("{:.0f} s", "seconds", "from process start", "cached, cold"),
        ("{:.0f} s", "seconds", "from process start", "cached, first ever"),
        ("{:.1f} s", "seconds", "from process start", "cached, warm"),
        ("{:.0f} s", "seconds", "from process start", "tutorial, frozen"),
        ("{:.0f} s", "seconds", "from process start", "tutorial, fine-tune"),
        ("{:.0f} s", "seconds", "from process start", "featcache finetune, fp32"),
        ("{:.0f} s", "seconds", "from process start", "featcache finetune, bf16, image cache"),
        ("{:.1f} and", "times faster", "from process start", "cached, cold / tutorial, frozen"),
        ("{:.0f} times", "times faster", "from process start", "cached, cold / tutorial, fine-tune"),
        ("{:.1f} and", "times faster", "from process start", "cached, first ever / tutorial, frozen"),
        ("{:.0f} times", "times faster", "from process start", "cached, first ever / tutorial, fine-tune"),
        ("{:.0f} and", "times faster", "from process start", "cached, warm / tutorial, frozen"),
        ("{:.0f} times", "times faster", "from process start", "cached, warm / tutorial, fine-tune"),
    ],
    "extraction": [
        (form, network, "ratios", name)
        for name, forms in {
            "end to end K=0 / timm": ("{:.1f} and", "{:.1f} times the images/s of timm"),
            "end to end K=0 / thingsvision": ("{:.1f} and", "{:.1f} times thingsvision"),
            "end to end K=0 / img2vec": ("{:.1f} times img2vec", None),
            "end to end K=0 pytorch bf16 / timm": ("in bf16 {:.1f} and", "{:.1f} times timm's"),
            "forward openvino bf16 / torch.mm": ("at {:.2f} (resnet18)", "and {:.2f} of what bf16"),
            "end to end K=8 openvino bf16 / limit": ("extraction at {:.2f} and", "{:.2f} of what the stages"),
            "cores busy K=8 openvino bf16": ("the cores {:.0%}", "{:.0%} busy"),
            "share write K=8 openvino bf16": ("writing {:.1%}", "{:.1%}; 0.9 GB"),
        }.items()
        for network, form in zip(("resnet18", "efficientnet_lite0"), forms, strict=True)
        if form
    ],
    "cache_io": [
        (form, views, "ratios", name)
        for name, forms in {
            "mini-batches: cache / array in memory": ("mini-batches at {:.2f} and", "{:.2f} of memory"),
            "mini-batches: cache / h5py, contiguous": ("take {:.0f} and", "{:.0f} times as long"),
            "write to disk: cache / plain file": ("writing reaches {:.2f} and", "{:.2f} of a plain"),
            "write to memory: cache / plain file": ("files {:.2f} and", "{:.2f}, and a read"),
            "read: cache / cache with checksums": ("takes {:.1f} and", "{:.1f} times as long as one"),
        }.items()
        for views, form in zip(("K=0", "K=8"), forms, strict=True)
    ],
    "cluster": [("{:.2f} and", "overhead", 0, "ratio"), ("{:.2f} times as long", "overhead", 1, "ratio")],
    "cluster_kills": [
        ("{} kills", "equal"),
        ("{} images extracted again", "again"),
        ("{:.1f} s longer", "longer_s"),
    ],
    "team": [
        ("machine {:.2f} times and", "heads", "linear", "one worker", "fit: over alone"),
        ("the cores {:.2f} times", "heads", "linear", "two workers", "fit: over alone"),
        ("ridge {:.2f} and", "heads", "ridge", "one worker", "fit: over alone"),
        ("{:.2f} times, Ray's start", "heads", "ridge", "two workers", "fit: over alone"),
        ("{:.3f} apart", "heads", "linear", "two workers", "probabilities apart"),
        ("ridge's {:.0e}", "heads", "ridge", "two workers", "probabilities apart"),
    ],
    "plan": [
        ("take {:.2f} and", "checks", 0, "alone / foretold"),
        ("{:.2f} times what", "checks", 1, "alone / foretold"),
        ("worker {:.2f} and", "checks", 0, "ray / foretold"),
        ("{:.2f} times. A billion", "checks", 1, "ray / foretold"),
        ("computes {:.1e} and", "checks", 0, "driver_s an image"),
        ("and {:.1e} s an image", "checks", 1, "driver_s an image"),
    ],
    "heads": [
        ("centred: {:.0f} and", "20k-1280-10 plain", "one", "ratio"),
        ("and {:.0f} times faster", "100k-512-100 plain", "one", "ratio"),
        ("ill-conditioned ones {:.0f} and", "20k-1280-10 ill", "one", "ratio"),
        ("and {:.0f} times; a path", "100k-512-100 ill", "one", "ratio"),
        ("strengths {:.0f} and", "20k-1280-10 plain", "path of ten", "ratio"),
        ("and {:.0f} times. Centred", "100k-512-100 plain", "path of ten", "ratio"),
        ("easiest: {:.1f} and", "20k-1280-10 well", "one", "ratio"),
        ("and {:.1f} times, paths", "100k-512-100 well", "one", "ratio"),
        ("paths {:.1f} and", "20k-1280-10 well", "path of ten", "ratio"),
        ("and {:.1f} times. On", "100k-512-100 well", "path of ten", "ratio"),
        ("(2,876 x 1,280) {:.0f} times", "digits", "one", "ratio"),
        ("together, {:.0f} times", "labels", "ratio"),
        ("cost {:.2f} times", "ridge", "ratio"),
        ("does {:.0%} and", "20k-1280-10 well", "one", "share_of_peak"),
        ("and {:.0%} of the multiplications", "100k-512-100 well", "one", "share_of_peak"),
        ("take {:.2f} and", "100-16-2 well", "one", "ratio"),
        ("and {:.2f} of scikit-learn", "500-64-3 well", "one", "ratio"),
    ],
    "fit_head": [
        ("head: {:.1f} times (no views)", "ants_bees", "views 0", "ratio"),
        ("and {:.1f} times (8 views)", "ants_bees", "views 8", "ratio"),
        ("takes {:.1f} times as long as keeping", "streamed", "ratio"),
        ("and {:.2f} of the memory", "streamed", "memory_ratio"),
    ],
    "predict": [
        ("{:.2f} and", "efficientnet_lite0", "predict / extract, from start to end"),
        ("and {:.2f} times the images/s", "resnet18", "predict / extract, from start to end"),
        ("end, {:.2f} and", "efficientnet_lite0", "predict / extract, after the start"),
        ("and {:.2f} times after", "resnet18", "predict / extract, after the start"),
        ("start: {:.1f} s", "efficientnet_lite0", "predict, s to start (with 20 photos)"),
        ("and {:.1f} s instead", "resnet18", "predict, s to start (with 20 photos)"),
        ("of {:.1f} s and", "efficientnet_lite0", "extract, s to start (with 20 photos)"),
        ("and {:.1f} s, as", "resnet18", "extract, s to start (with 20 photos)"),
    ],
    "export": [
        (form, "networks", network, kind, "difference")
        for network, name in {
            "efficientnet_lite0": "embedded",
            "mobilenet_v2": "mobilenet_v2 (real weights)",
            "resnet18": "resnet18",
            "timm/vit_small_patch16_224": "ViT-S/16",
        }.items()
        for kind, form in {"state-dict": f"{name} {{:.1e}}", "onnx": ", {:.1e}, ", "torch-export": ", {:.1e}"}.items()
    ],
    "gap": [
        (form, "summary", place, "routes", route, what)
        for place, forms in (
            (
                0,
                {
                    "all stages, LDA": ("{:.3f} in", "{:.0f} s by"),
                    "all stages, all pools": ("{:.3f} in", "{:.0f} s by"),
                    "fine-tune, clean views": ("{:.3f} in", "{:.0f} s by"),
                    "LP-FT, clean views": ("{:.3f} in", "{:.0f} s by"),
                },
            ),
            (
                1,
                {
                    "all stages, LDA": ("{:.3f} in", "{:.0f} s, "),
                    "fine-tune, clean views": ("against {:.3f} in", "{:.0f} s. "),
                },
            ),
            (
                2,
                {
                    "penultimate, K=1": ("bees: {:.3f} in", "in {:.1f} s by"),
                    "fine-tune": ("{:.3f} in", "{:.0f} s by fine"),
                    "fine-tune, last stage": ("{:.3f} in", "{:.0f} s by that"),
                    "all stages": ("stages {:.3f}", "{:.1f} s; "),
                },
            ),
            (
                3,
                {
                    "penultimate, K=0": ("{:.3f} in", "{:.1f} s against"),
                    "fine-tune, AdamW": ("against {:.3f} in", "{:.0f} s by"),
                    "LP-FT, last stage": ("{:.3f} in", "{:.0f} s by"),
                },
            ),
        )
        for route, pair in forms.items()
        for what, form in zip(("accuracy", "cold_s"), pair, strict=True)
    ],
    "faults": [
        ("{} ways of writing", "commands"),
        ("{} kills", "faults", "SIGKILL at each step"),
        ("{} full disks", "faults", "full disk"),
        ("{} lost permissions", "faults", "lost permission"),
        ("{} second writers", "faults", "second writer"),
        ("the first: {} left", "broken"),
    ],
    "safety": [
        ("images {:.1%}", "shares", "hash, of extract"),
        ("checksums {:.2%}", "shares", "checksums, of extract"),
        ("fsync {:.2%}", "shares", "fsync, of extract"),
        ("checksums {:.1%}", "shares", "look at the checksums, of fit_head"),
        ("({:.2f} s)", "seconds", "fit_head"),
    ],
}


@pytest.mark.parametrize("script", FIGURES)
def test_the_figures_of_the_readme_are_those_of_the_results(script: str) -> None:
    (row,) = re.findall(rf"^\| `{script}\.py` \|.*$", README, re.MULTILINE)
    results = json.loads((ROOT / "benchmarks" / "results" / f"{script}.json").read_text(encoding="utf-8"))
    for form, *way in FIGURES[script]:
        found = results
        for step in way:
            found = found[step]
        value = found["median"] if isinstance(found, dict) else found[0] if isinstance(found, list) else found
        figure = form.format(value).replace("%", "")
        assert figure in row.replace(" %", ""), way
