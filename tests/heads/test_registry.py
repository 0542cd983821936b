"""A head of another package is fitted, saved, loaded and used like those of featcache."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from commands import as_json, done, featcache_cli
from featcache.cache.feature_cache import FeatureCache
from featcache.core.model_card import ModelCard
from featcache.errors import HeadError
from featcache.extraction.extract import extract
from featcache.heads.fit_head import fit_head
from featcache.heads.io import load_head
from featcache.heads.registry import HEADS, HeadSpec, find_head, heads_with
from featcache.models.classifier import Classifier
from toys import random_image, toy_backbone

TOY = '''
import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin

from featcache.heads.registry import HeadSpec
from featcache.heads.training_data import Fitted


class NearestMean(ClassifierMixin, BaseEstimator):
    """The class whose mean is nearest."""

    head_name = "toy"

    def __init__(self, means, classes):
        self.means, self.classes = means, classes
        self.classes_, self.n_features_in_ = classes, means.shape[1]

    def predict(self, X):
        distances = ((np.asarray(X)[:, None] - self.means) ** 2).sum(axis=2)
        return self.classes_[distances.argmin(axis=1)]

    def to_arrays(self):
        return {"means": self.means, "classes": self.classes}


def load(arrays):
    if len(arrays["means"]) != len(arrays["classes"]):
        raise ValueError("its means do not fit its classes")
    return NearestMean(arrays["means"], arrays["classes"])


def fit(name, data, options):
    x, y = np.asarray(data.train.clean(), np.float64), data.train.y
    classes = np.unique(y)
    means = np.stack([x[y == label].mean(axis=0) for label in classes])
    return Fitted(NearestMean(means + options.parameters.get("shift", 0.0), classes), name)


SPEC = HeadSpec("toy", fit=fit, load=load, multilabel=False)
WRONG = "not a spec"
'''


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of installed packages with the head toy."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "toy_head.py").write_text(TOY)
    info = site / "toy_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[featcache.heads]\ntoy = toy_head:SPEC\nwrong = toy_head:WRONG\n")
    monkeypatch.syspath_prepend(site)
    monkeypatch.delitem(sys.modules, "toy_head", raising=False)
    assert "linear" in HEADS  # the modules of featcache have registered their heads
    monkeypatch.setattr(HEADS, "_entries", dict(HEADS._entries))
    return site


@pytest.fixture
def cache(split_folder: Path) -> FeatureCache:
    return extract(split_folder, split_folder.parent / "toy.h5", backbone=toy_backbone(), views=1).cache


def test_a_head_of_another_package_is_fitted_saved_and_loaded(toy: Path, cache: FeatureCache, tmp_path: Path) -> None:
    fit = fit_head(cache, tmp_path / "head", head="toy")
    assert (fit.name, fit.accuracy.accuracy) == ("toy", 1.0)
    card = ModelCard.read(tmp_path / "head")
    assert (card.head, card.file) == ("toy", "head.safetensors")
    loaded = load_head(tmp_path / "head" / card.file)
    assert type(loaded).__name__ == "NearestMean"
    np.testing.assert_array_equal(loaded.means, fit.estimator.means)
    classifier = Classifier.load(tmp_path / "head", backbone=toy_backbone(), device="cpu")
    predictions = classifier.predict([random_image(7, tint=0), random_image(8, tint=1)])
    assert [prediction.label for prediction in predictions] == ["ants", "bees"]


def test_the_command_fits_a_head_of_another_package(toy: Path, cache: FeatureCache, tmp_path: Path) -> None:
    fit = as_json("fit-head", cache.path, "-o", tmp_path / "head", "--head", "toy", "-p", "shift=0.5")
    assert (fit["head"], fit["accuracy"]) == ("toy", 1.0)
    unshifted = fit_head(cache, head="toy").estimator.means
    np.testing.assert_allclose(load_head(tmp_path / "head" / "head.safetensors").means, unshifted + 0.5)
    assert "toy" in done("fit-head", "--help")


def test_options_without_effect_on_it_are_rejected(toy: Path, cache: FeatureCache) -> None:
    with pytest.raises(HeadError, match=r"^cv has no effect on toy: leave it out$"):
        fit_head(cache, head="toy", cv=3)


def test_a_file_with_wrong_arrays_is_rejected_by_the_package(toy: Path, cache: FeatureCache, tmp_path: Path) -> None:
    fit_head(cache, tmp_path / "head", head="toy")
    file = tmp_path / "head" / "head.safetensors"
    arrays = load_file(file)
    save_file({**arrays, "classes": np.arange(5)}, file, {"head": "toy"})
    with pytest.raises(HeadError) as error:
        load_head(file)
    assert str(error.value) == f"{file} is not a head that can be loaded safely: its means do not fit its classes"


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ("toy", "there is no head 'toy'; there are: {names}."),
        ("toy_head", "there is no head 'toy_head'; there are: {names}."),
        ("os.system", "there is no head 'os.system'; there are: {names}."),
        ("linear", "the head 'linear' is not saved as arrays of its own"),
    ],
)
def test_a_file_imports_nothing_that_is_not_an_installed_head(
    head: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The module exists, but no package has registered it as a head."""
    mark = tmp_path / "imported"
    (tmp_path / "toy_head.py").write_text(f"open({str(mark)!r}, 'w').close()\n")
    monkeypatch.syspath_prepend(tmp_path)
    file = tmp_path / "head.safetensors"
    save_file({"means": np.ones((2, 3)), "classes": np.arange(2)}, file, {"head": head})
    with pytest.raises(HeadError) as error:
        load_head(file)
    expected = message.format(names=", ".join(HEADS.names()))
    assert str(error.value).startswith(f"{file} is not a head that can be loaded safely: {expected}")
    assert not mark.exists()


def test_an_entry_point_that_is_not_a_head_is_an_error(toy: Path, cache: FeatureCache) -> None:
    with pytest.raises(HeadError) as error:
        fit_head(cache, head="wrong")
    assert str(error.value) == "the head 'wrong' of another package is a str; it must be a HeadSpec"


def test_help_and_unknown_names_import_no_head_of_another_package(toy: Path, cache: FeatureCache) -> None:
    result = featcache_cli("fit-head", cache.path, "--head", "tyo")
    assert "there is no head 'tyo'. Use attention, auto, " in result.stderr
    assert ", toy, wrong, or the dotted path" in result.stderr
    assert "toy_head" not in sys.modules


@pytest.mark.parametrize("head", ["imagenet", "linear:ant"])
def test_an_argument_must_be_given_where_a_head_takes_one(head: str) -> None:
    written = "imagenet:CLASS,..." if head == "imagenet" else "linear"
    with pytest.raises(HeadError, match=rf"^{head} is incomplete or too long: write {written}$"):
        find_head(head)


def test_a_spec_is_that_of_its_name() -> None:
    assert [find_head(name).name for name in HEADS.names() if name != "imagenet"] == [
        name for name in HEADS.names() if name != "imagenet"
    ]
    assert find_head("imagenet:ant").name == "imagenet:ant"
    assert find_head("sklearn.naive_bayes.GaussianNB") == HeadSpec(
        "sklearn.naive_bayes.GaussianNB", estimator="sklearn.naive_bayes.GaussianNB"
    )
    assert heads_with("linear") == ["centroid", "head2toe", "lda", "linear", "logreg", "ridge", "sgd"]
    assert heads_with("device") == ["auto", "head2toe", "linear"]
