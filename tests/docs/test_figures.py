"""The numbers in the documentation are those of the results in benchmarks/results/."""

from __future__ import annotations

import json
import re
import statistics

import pytest

from commands import ROOT

BENCHMARKS = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
VIEWS = (ROOT / "docs" / "guides" / "views.md").read_text(encoding="utf-8")


def sections() -> dict[str, str]:
    """The text of each script's section by the name of the script, in one line, without the marks of lists."""
    found = re.findall(r"^### [^\n]*\(`(\w+)\.py`\)\n(.*?)(?=^##|\Z)", BENCHMARKS, re.MULTILINE | re.DOTALL)
    assert len({name for name, _ in found}) == len(found)
    lines = {name: re.sub(r"^- ", "", text, flags=re.MULTILINE).replace("**", "") for name, text in found}
    return {name: " ".join(text.split()) for name, text in lines.items()}


SECTIONS = sections()
FIGURES = {  # of a script's section: the format, and the way to the median in its results
    "device_views": [("{:,} values are equal", "values_compared")],
    "tutorial": [
        ("featcache takes {:.0f} s. Ten", "seconds", "from process start", "cached, cold"),
        ("featcache takes {:.0f} s and is", "seconds", "from process start", "cached, first ever"),
        ("it takes {:.1f} s and is", "seconds", "from process start", "cached, warm"),
        ("tutorial take {:.0f} s with a frozen", "seconds", "from process start", "tutorial, frozen"),
        ("and {:.0f} s with fine-tuning", "seconds", "from process start", "tutorial, fine-tune"),
        ("take {:.0f} s in fp32", "seconds", "from process start", "featcache finetune, fp32"),
        ("and {:.0f} s in bf16", "seconds", "from process start", "featcache finetune, bf16, image cache"),
        ("so featcache is {:.1f} and", "times faster", "from process start", "cached, cold / tutorial, frozen"),
        ("and {:.0f} times faster. If", "times faster", "from process start", "cached, cold / tutorial, fine-tune"),
        ("and is {:.1f} and", "times faster", "from process start", "cached, first ever / tutorial, frozen"),
        (
            "and {:.0f} times faster. On",
            "times faster",
            "from process start",
            "cached, first ever / tutorial, fine-tune",
        ),
        ("and is {:.0f} and", "times faster", "from process start", "cached, warm / tutorial, frozen"),
        ("and {:.0f} times faster. Ten", "times faster", "from process start", "cached, warm / tutorial, fine-tune"),
    ],
    "extraction": [
        (form, network, "ratios", name)
        for name, forms in {
            "end to end K=0 / timm": ("reaches {:.1f} and", "and {:.1f} times the images/s of timm with"),
            "end to end K=0 / thingsvision": ("fp32, {:.1f} and", "and {:.1f} times those of thingsvision"),
            "end to end K=0 / img2vec": ("and {:.1f} times those of img2vec", None),
            "end to end K=0 pytorch bf16 / timm": (
                "OpenVINO, reaches {:.1f} and",
                "and {:.1f} times the images/s of timm.",
            ),
            "forward openvino bf16 / torch.mm": ("runs at {:.2f} and", "and {:.2f} times the speed of bf16"),
            "end to end K=8 openvino bf16 / limit": (
                "extraction reaches {:.2f} and",
                "and {:.2f} times the speed that its stages",
            ),
            "cores busy K=8 openvino bf16": ("cores are {:.0%} and", "and {:.0%} busy"),
            "share write K=8 openvino bf16": (
                "writing takes {:.1%} and",
                "and {:.1%} of their time. It uses 0.9 GB",
            ),
        }.items()
        for network, form in zip(("resnet18", "efficientnet_lite0"), forms, strict=True)
        if form
    ],
    "cache_io": [
        (form, views, "ratios", name)
        for name, forms in {
            "mini-batches: cache / array in memory": (
                "mini-batches reach {:.2f} and",
                "and {:.2f} times the speed of an array",
            ),
            "mini-batches: cache / h5py, contiguous": (
                "h5py they take {:.0f} and",
                "and {:.0f} times as long from contiguous",
            ),
            "write to disk: cache / plain file": (
                "writing reaches {:.2f} and",
                "and {:.2f} times the speed of a plain",
            ),
            "write to memory: cache / plain file": ("disk, and {:.2f} and", "and {:.2f} times in memory-backed"),
            "read: cache / cache with checksums": ("checksums takes {:.1f} and", "and {:.1f} times as long as without"),
        }.items()
        for views, form in zip(("K=0", "K=8"), forms, strict=True)
    ],
    "cluster": [
        ("takes {:.2f} and", "overhead", 0, "ratio"),
        ("and {:.2f} times as long as extraction", "overhead", 1, "ratio"),
    ],
    "cluster_kills": [
        ("{} kills", "equal"),
        ("{} stored images were extracted again", "again"),
        ("took {:.1f} s longer", "longer_s"),
    ],
    "team": [
        ("One worker takes {:.2f} times", "heads", "linear", "one worker", "fit: over alone"),
        ("cores each take {:.2f} times", "heads", "linear", "two workers", "fit: over alone"),
        ("`ridge` takes {:.2f} and", "heads", "ridge", "one worker", "fit: over alone"),
        ("and {:.2f} times as long. Starting", "heads", "ridge", "two workers", "fit: over alone"),
        ("differ by {:.3f} for `linear`", "heads", "linear", "two workers", "probabilities apart"),
        ("by {:.0e} for `ridge`", "heads", "ridge", "two workers", "probabilities apart"),
    ],
    "plan": [
        ("takes {:.2f} and", "checks", 0, "alone / foretold"),
        ("and {:.2f} times as long as `featcache plan`", "checks", 1, "alone / foretold"),
        ("of a cluster {:.2f} and", "checks", 0, "ray / foretold"),
        ("and {:.2f} times. The estimate", "checks", 1, "ray / foretold"),
        ("computes for {:.1e} and", "checks", 0, "driver_s an image"),
        ("and {:.1e} s per image", "checks", 1, "driver_s an image"),
    ],
    "heads": [
        ("featcache is {:.0f} and", "20k-1280-10 plain", "one", "ratio"),
        ("and {:.0f} times faster, on ill", "100k-512-100 plain", "one", "ratio"),
        ("ill-conditioned features {:.0f} and", "20k-1280-10 ill", "one", "ratio"),
        ("and {:.0f} times, on a path", "100k-512-100 ill", "one", "ratio"),
        ("strengths {:.0f} and", "20k-1280-10 plain", "path of ten", "ratio"),
        ("and {:.0f} times. On centred", "100k-512-100 plain", "path of ten", "ratio"),
        ("case, it is {:.1f} and", "20k-1280-10 well", "one", "ratio"),
        ("and {:.1f} times faster, on paths", "100k-512-100 well", "one", "ratio"),
        ("paths {:.1f} and", "20k-1280-10 well", "path of ten", "ratio"),
        ("and {:.1f} times. It", "100k-512-100 well", "path of ten", "ratio"),
        ("It is {:.0f} times faster on features of real", "digits", "one", "ratio"),
        ("and {:.0f} times faster on twenty", "labels", "ratio"),
        ("cost {:.2f} times", "ridge", "ratio"),
        ("solver reaches {:.0%} and", "20k-1280-10 well", "one", "share_of_peak"),
        ("and {:.0%} of the peak speed", "100k-512-100 well", "one", "share_of_peak"),
        ("it reaches {:.2f} and", "100-16-2 well", "one", "ratio"),
        ("and {:.2f} times the speed of scikit-learn", "500-64-3 well", "one", "ratio"),
    ],
    "fit_head": [
        ("takes {:.1f} times (no views)", "ants_bees", "views 0", "ratio"),
        ("and {:.1f} times (8 views)", "ants_bees", "views 8", "ratio"),
        ("streaming takes {:.1f} times as long", "streamed", "ratio"),
        ("and {:.2f} times the memory", "streamed", "memory_ratio"),
    ],
    "predict": [
        ("reaches {:.2f} and", "efficientnet_lite0", "predict / extract, from start to end"),
        ("and {:.2f} times the images/s", "resnet18", "predict / extract, from start to end"),
        ("end, and {:.2f} and", "efficientnet_lite0", "predict / extract, after the start"),
        ("and {:.2f} times after", "resnet18", "predict / extract, after the start"),
        ("`predict` takes {:.1f} s", "efficientnet_lite0", "predict, s to start (with 20 photos)"),
        ("and {:.1f} s, that", "resnet18", "predict, s to start (with 20 photos)"),
        ("of `extract` {:.1f} s and", "efficientnet_lite0", "extract, s to start (with 20 photos)"),
        ("and {:.1f} s, because", "resnet18", "extract, s to start (with 20 photos)"),
        ("other work ({} on", "from a cache", "load before (1 minute)"),
        ("a cache of {:,} rows", "from a cache", "rows"),
        ("takes {:,.0f} rows/s", "from a cache", "efficientnet_lite0", "rows/s after the start"),
        ("startup, {:.0f} times", "from a cache", "efficientnet_lite0", "times the rate after the start"),
        ("a cache of {} photos", "from a cache", "images"),
        ("photos takes {:.1f} s, the", "from a cache", "efficientnet_lite0", "cache of the photos, s"),
        ("photos themselves {:.0f} s", "from a cache", "efficientnet_lite0", "photos, s"),
        ("differ by {:.1e} at", "from a cache", "efficientnet_lite0", "largest difference of a probability"),
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
                    "all stages, LDA": (
                        "Digits, embedded network: LDA on all stages {:.3f} in",
                        "in {:.0f} s, a linear",
                    ),
                    "all stages, all pools": ("all pools {:.3f} in", "in {:.0f} s, fine-tuning"),
                    "fine-tune, clean views": ("fine-tuning {:.3f} in", "in {:.0f} s, LP-FT"),
                    "LP-FT, clean views": ("LP-FT {:.3f} in", "in {:.0f} s (the last two"),
                },
            ),
            (
                1,
                {
                    "all stages, LDA": (
                        "Digits, mobilenet_v2: LDA on all stages {:.3f} in",
                        "in {:.0f} s, fine-tuning",
                    ),
                    "fine-tune, clean views": ("fine-tuning {:.3f} in", "in {:.0f} s. Ants"),
                },
            ),
            (
                2,
                {
                    "penultimate, K=1": (
                        "bees, embedded network: penultimate layer with one view {:.3f} in",
                        "in {:.1f} s, ",
                    ),
                    "fine-tune": ("fine-tuning {:.3f} in", "in {:.0f} s, fine-tuning of"),
                    "fine-tune, last stage": ("fine-tuning of the last stage {:.3f} in", "in {:.0f} s. Ants"),
                    "all stages": ("all stages on ants and bees have {:.3f} in", "in {:.1f} s. "),
                },
            ),
            (
                3,
                {
                    "penultimate, K=0": (
                        "bees, mobilenet_v2: penultimate layer {:.3f} in",
                        "in {:.1f} s, fine-tuning with",
                    ),
                    "fine-tune, AdamW": ("fine-tuning with AdamW {:.3f} in", "in {:.0f} s, LP-FT of"),
                    "LP-FT, last stage": ("LP-FT of the last stage {:.3f} in", "in {:.0f} s. featcache loses"),
                },
            ),
        )
        for route, pair in forms.items()
        for what, form in zip(("accuracy", "cold_s"), pair, strict=True)
    ],
    "faults": [
        ("{} ways of writing", "commands"),
        ("with {} kills", "faults", "SIGKILL at each step"),
        ("{} full disks", "faults", "full disk"),
        ("{} lost permissions", "faults", "lost permission"),
        ("{} second writers", "faults", "second writer"),
        ("There were {} exceptions", "broken"),
    ],
    "fine_tuning": [
        ("as accurate on {} pairs", "head at least as accurate"),
        ("could be significantly better on {} pairs", "could be better"),
    ],
    "label_curve": [
        ("median error is {:.1f} points", "median error, points"),
        ("largest {:.0f} points", "largest error, points"),
        ("(no gain) the median error is {:.1f} points", "median error of no gain, points"),
        ("closer on {} pairs", "closer than no gain"),
        ("farther on {}.", "farther than no gain"),
        ("says for {} of the pairs", "pairs that underfit"),
        ("its gain is {:.1f} points", "median gain, points", "underfits"),
        ("the others is {:.1f} points", "median gain, points", "others"),
    ],
    "safety": [
        ("images {:.1%}", "shares", "hash, of extract"),
        ("checksums {:.2%}", "shares", "checksums, of extract"),
        ("fsync {:.2%}", "shares", "fsync, of extract"),
        ("check of the checksums {:.1%}", "shares", "look at the checksums, of fit_head"),
        ("({:.2f} s)", "seconds", "fit_head"),
    ],
}


def test_the_table_of_views_is_that_of_the_results() -> None:
    results = json.loads((ROOT / "benchmarks" / "results" / "views.json").read_text(encoding="utf-8"))
    for recipe in ("gentle", "gentle-flip", "crop", "tutorial"):
        gains = [results["all_sets"][f"{recipe} {views}"] for views in (1, 2, 4)]
        cells = [f"{100 * gain['accuracy']:+.1f} ± {100 * gain['accuracy_se']:.1f}" for gain in gains]
        of_sets = {name: figures["gains"][f"{recipe} 4"]["accuracy"] for name, figures in results["sets"].items()}
        for choose in (min, max):
            name = choose(of_sets, key=lambda name: of_sets[name])
            cells.append(f"{100 * of_sets[name]:+.1f} ({name})")
        assert f"| `{recipe}` | {' | '.join(cells)} |" in VIEWS
    auto = results["auto"]
    assert f"the gain is {100 * auto['accuracy']:+.1f} ± {100 * auto['accuracy_se']:.1f}" in VIEWS
    chosen = [trial["chosen"] for figures in results["sets"].values() for trial in figures["auto"]["trials"]]
    assert f"views on {sum(map(bool, chosen))} of {len(chosen)} sets, and lost on none" in VIEWS
    assert min(figures["auto"]["test"]["accuracy"] for figures in results["sets"].values()) == 0


@pytest.mark.parametrize("script", FIGURES)
def test_the_figures_of_a_script_are_those_of_the_results(script: str) -> None:
    text = SECTIONS[script]
    results = json.loads((ROOT / "benchmarks" / "results" / f"{script}.json").read_text(encoding="utf-8"))
    for form, *way in FIGURES[script]:
        found = results
        for step in way:
            found = found[step]
        value = found["median"] if isinstance(found, dict) else found[0] if isinstance(found, list) else found
        figure = form.format(value).replace("%", "")
        assert figure in text.replace(" %", ""), way


def test_every_section_is_of_a_script_and_says_what_its_clock_covers() -> None:
    assert FIGURES.keys() <= SECTIONS.keys()
    assert [name for name in SECTIONS if not (ROOT / "benchmarks" / f"{name}.py").exists()] == []
    assert [name for name, text in SECTIONS.items() if text.count("*Clock*: ") != 1] == []


ROUTES = {
    "cached head, cold": "cached head, from the photos",
    "cached head, warm": "cached head, from the cache",
    "frozen, live every epoch": "frozen network, live in every epoch",
    "fine-tune": "fine-tuning of the whole network",
}


@pytest.mark.parametrize("route", ROUTES)
def test_the_table_of_the_readme_is_that_of_the_results(route: str) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    report = json.loads((ROOT / "benchmarks" / "results" / "ants-bees.json").read_text(encoding="utf-8"))
    outcomes = {outcome["route"]: outcome for outcome in report["outcomes"]}
    accuracy, seconds, cold = (
        statistics.median(outcomes[name][what])
        for name, what in ((route, "accuracy"), (route, "wall_s"), ("cached head, cold", "wall_s"))
    )
    times = f"{seconds / cold:.1f}".replace("1.0", "1")
    assert f"| {ROUTES[route]} | {accuracy:.3f} | {seconds:.1f} | {times} |" in text


TUTORIAL_ROUTES = {
    "tutorial, frozen": "tutorial, fixed feature extractor",
    "tutorial, fine-tune": "tutorial, fine-tuning",
    "cached, cold": "`featcache extract --views 8` and `fit-head`",
    "cached, warm": "`featcache fit-head` on an existing cache",
}


def test_the_tables_of_the_page_on_the_tutorials_are_those_of_the_results() -> None:
    text = (ROOT / "docs" / "from-the-tutorials.md").read_text(encoding="utf-8")
    folder = ROOT / "benchmarks" / "results"
    seconds = json.loads((folder / "tutorial.json").read_text(encoding="utf-8"))["seconds"]["from process start"]
    for route, name in TUTORIAL_ROUTES.items():
        median = seconds[route][0]
        assert f"| {name} | {median:.{0 if median > 10 else 1}f} |" in text
    report = json.loads((folder / "ants-bees.json").read_text(encoding="utf-8"))
    outcomes = {outcome["route"]: outcome for outcome in report["outcomes"]}
    best = {route: statistics.median(outcome["accuracy"]) for route, outcome in outcomes.items()}
    assert f"| cached head | {best['cached head, cold']:.3f} |" in text
    last = {rival["route"]: rival["accuracy"] for rival in report["verdict"]["rivals"]}
    frozen, tuned = "frozen, live every epoch", "fine-tune"
    assert f"| fixed feature extractor, run live | {best[frozen]:.3f}, the best of ten epochs on val |" in text
    assert f"| fine-tuning | {best[tuned]:.3f}, the best of ten epochs on val |" in text
    assert f"the fixed feature extractor has {last[frozen]:.3f} and fine-tuning {last[tuned]:.3f}" in text
    for route, option in (("fine-tune", ""), ("from scratch", "`--init scratch` "), (frozen, "`--train head` ")):
        assert f"| {option}| {last[route]:.3f} |" in text
