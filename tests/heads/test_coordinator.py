"""Heads fitted by a cluster are equal to those of one machine, also if workers are killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from threadpoolctl import threadpool_info, threadpool_limits

from caches import cache_of, clouds
from clusters import fully_booked, two_machines
from commands import done, featcache_cli
from featcache.cache.feature_cache import FeatureCache
from featcache.cache.lazy_arrays import CenteredMatrix
from featcache.core.ray_cluster import WAITING_MESSAGE, Cluster
from featcache.errors import CacheDamagedError, ClusterError, HeadError
from featcache.heads.fit_head import HeadFit, fit_head
from featcache.heads.predict import classify
from featcache.heads.ray import coordinator
from featcache.heads.ray.coordinator import TrainingCluster
from featcache.heads.ray.worker import TrainingWorker
from featcache.heads.solvers.softmax import loss_and_gradient
from featcache.heads.tuning.tuning_data import TunedHead, TuningData
from tuned import try_to_tune

TOGETHER = ["linear", "centroid", "ridge", "lda"]


class DiedError(Exception):
    """Takes the place of RayError of Ray."""


class FailedError(DiedError):
    """Takes the place of RayTaskError of Ray."""


class FakeMachines:
    """Machines within this process, whose workers die on command.

    rooms : of each machine, how many workers. fatal : number of the call, of all calls, that kills its worker.
    """

    def __init__(self, rooms: dict[str, int], fatal: Callable[[int], bool] = lambda _: False) -> None:
        self.rooms, self.fatal, self.calls = rooms, fatal, 0
        self.hired: list[str] = []
        self.ray = SimpleNamespace(
            put=lambda thing: thing,
            get=lambda calls: [call() for call in calls],
            exceptions=SimpleNamespace(RayTaskError=FailedError, RayError=DiedError),
        )

    def available_nodes(self, lost: object = (), why: str = "") -> dict[str, tuple[int, int]]:
        return {name: (workers, 1) for name, workers in self.rooms.items()}

    def start_worker(self, kind: type, node: str, cores: int, concurrency: int) -> Any:
        self.hired.append(node)
        return FakeActor(self, kind())

    def stop_worker(self, worker: Any) -> None:
        pass

    def close(self) -> None:
        pass


class FakeActor:
    def __init__(self, machines: FakeMachines, worker: Any) -> None:
        self.machines, self.worker, self.dead = machines, worker, False

    def __getattr__(self, method: str) -> Any:
        return SimpleNamespace(remote=lambda *arguments: lambda: self._do(method, *arguments))

    def _do(self, method: str, *arguments: Any) -> Any:
        self.machines.calls += 1
        self.dead |= self.machines.fatal(self.machines.calls)
        if self.dead:
            raise DiedError("killed")
        return getattr(self.worker, method)(*arguments)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> FeatureCache:
    """120 training images of three classes in three views, 30 of val."""
    path = tmp_path_factory.mktemp("team") / "cache.h5"
    x_val, y_val = clouds(30, 3, seed=1)
    return cache_of(path, clouds(120, 3, views=3), (x_val[:, 0], y_val))


def cluster_of(machines: FakeMachines, cache: FeatureCache) -> TrainingCluster:
    training_cluster = TrainingCluster(Cluster(), cache.path, "penultimate")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("featcache.core.ray_cluster.RayCluster", lambda _: machines)
        assert training_cluster._pool.ray is machines.ray
    return training_cluster


def tuned_by(cache: FeatureCache, head: str, machines: FakeMachines | None = None, **options: Any) -> TunedHead:
    training_cluster = cluster_of(machines, cache) if machines else None
    tuned = try_to_tune(head, TuningData(cache.features("train"), cluster=training_cluster, **options), lambda: False)
    assert tuned is not None
    return tuned


def the_same(tuned: TunedHead, expected: TunedHead, rtol: float = 0, atol: float = 0) -> None:
    assert tuned.setting == expected.setting
    np.testing.assert_allclose(tuned.estimator.coef_, expected.estimator.coef_, rtol=rtol, atol=atol)
    np.testing.assert_allclose(tuned.estimator.intercept_, expected.estimator.intercept_, rtol=rtol, atol=atol)
    np.testing.assert_allclose(tuned.probabilities, expected.probabilities, rtol=rtol, atol=atol)


@pytest.mark.parametrize("use", ["all", "mean", "clean"])
@pytest.mark.parametrize("head", TOGETHER)
def test_heads_are_those_of_one_machine(cache: FeatureCache, head: str, use: Any) -> None:
    alone = tuned_by(cache, head, use=use)
    together = tuned_by(cache, head, FakeMachines({"a": 2, "b": 3}), use=use)
    exact = 1e-3 if head == "linear" else 1e-6  # linear ends where the objective is within 1e-5 of its minimum
    the_same(together, alone, rtol=exact, atol=exact)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(workers=st.integers(1, 130), use=st.sampled_from(["all", "mean", "clean"]), seed=st.integers(0, 9))
def test_the_sums_do_not_depend_on_how_images_are_shared(
    cache: FeatureCache, workers: int, use: Any, seed: int
) -> None:
    """Also with more workers than images, and where a worker's images are all of one class."""
    train = cache.features("train")
    alone = TuningData(train, use, class_weight={"a": 2.0, "b": 1.0, "c": 0.5})
    both = TuningData(train, use, class_weight={"a": 2.0, "b": 1.0, "c": 0.5}, cluster=cluster_of(
        FakeMachines({"a": workers}), cache))  # fmt: skip
    x, problem = both.problem.x, alone.problem
    np.testing.assert_allclose(x.mean, problem.x.mean, rtol=1e-6, atol=1e-6)
    assert x.shape == problem.x.shape
    rng = np.random.default_rng(seed)
    rows = np.unique(rng.integers(0, x.shape[0], 17))
    np.testing.assert_allclose(x.take(rows), problem.x.take(rows), atol=1e-5)
    np.testing.assert_allclose(both.rows.squares, alone.rows.squares, rtol=1e-5)
    np.testing.assert_allclose(both.problem.class_weights(), problem.class_weights(), rtol=1e-12)
    problem_ids = np.array([0, 3, 5])
    theta = rng.normal(size=(3, 3, 9)).astype(np.float32)
    curved = [np.zeros((3, 3)), np.zeros((3, 3))]
    totals = problem.class_weights().sum(axis=1)
    result = both.rows.loss_and_gradient(theta, problem_ids, totals, curved[0])
    expected = loss_and_gradient(problem, theta, problem_ids, totals, curved[1])
    for array, same in zip((*result, curved[0]), (*expected, curved[1]), strict=True):
        np.testing.assert_allclose(array, same, rtol=1e-4, atol=1e-5)
    for sums, expected_sums in zip(both.statistics(), alone.statistics(), strict=True):
        for array, same in zip(sums, expected_sums, strict=True):
            np.testing.assert_allclose(array, same, rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("fatal", [1, 2, 4, 5, 9, 20])
def test_who_is_killed_changes_nothing(cache: FeatureCache, fatal: int) -> None:
    """At its start, at its first sums or later: the results are equal bit by bit."""
    for head in ("linear", "ridge"):
        undisturbed = tuned_by(cache, head, FakeMachines({"a": 1, "b": 1}))
        machines = FakeMachines({"a": 1, "b": 1}, lambda call: call == fatal)
        the_same(tuned_by(cache, head, machines), undisturbed)
        assert len(machines.hired) == (3 if machines.calls >= fatal else 2)


def test_what_a_lost_machine_had_another_one_takes(cache: FeatureCache) -> None:
    undisturbed = tuned_by(cache, "linear", FakeMachines({"a": 1, "b": 1}))
    machines = FakeMachines({"a": 1, "b": 1})

    def fatal(call: int) -> bool:
        if call == 12:
            del machines.rooms["b"]
            machines.hired.remove("b")
        return call == 12

    machines.fatal = fatal
    the_same(tuned_by(cache, "linear", machines), undisturbed)
    assert machines.hired == ["a"]  # it has both parts


def test_a_part_that_kills_its_workers_is_given_up(cache: FeatureCache) -> None:
    machines = FakeMachines({"a": 2}, lambda call: call > 6)
    with pytest.raises(ClusterError) as caught:
        tuned_by(cache, "linear", machines)
    assert str(caught.value) == (
        "3 workers died in a row over the same part of train, the last of: killed. They may need more memory: "
        "use more machines, or fewer workers a machine (--cpus-per-worker)."
    )


def test_deaths_of_long_ago_do_not_count(cache: FeatureCache) -> None:
    machines = FakeMachines({"a": 1}, lambda call: call % 9 == 0)
    the_same(tuned_by(cache, "linear", machines), tuned_by(cache, "linear", FakeMachines({"a": 1})))
    assert len(machines.hired) > 3


def test_a_member_that_sees_another_cache_or_none_says_so(cache: FeatureCache, tmp_path: Path) -> None:
    path = shutil.copy(cache.path, tmp_path / "cache.h5")
    training_cluster = cluster_of(FakeMachines({"a": 1}), FeatureCache.open(path))
    TuningData(FeatureCache.open(path).features("train"), cluster=training_cluster)
    (shard,) = training_cluster._shards
    x, y = clouds(40, 2)
    path.unlink()
    with pytest.raises(ClusterError, match=rf"cannot open {path}: {path} does not exist\..* under one path"):
        TrainingWorker().load(0, shard)
    cache_of(path, (x, y), (x[:4, 0], y[:4]))
    with pytest.raises(ClusterError, match=f"the cache {path} of .* differs from that of this machine. Give a path"):
        TrainingWorker().load(0, shard)


def test_each_member_looks_at_its_own_rows(cache: FeatureCache, tmp_path: Path) -> None:
    """The worker that reads a damaged row reports it; the others do not."""
    path = Path(shutil.copy(cache.path, tmp_path / "cache.h5"))
    training_cluster = cluster_of(FakeMachines({"a": 4}), FeatureCache.open(path))
    TuningData(FeatureCache.open(path).features("train"), cluster=training_cluster)
    region = cache.layout.layers["penultimate"]
    with path.open("r+b") as file:
        file.seek(region.offset + 70 * region.size_bytes // 150 + 5)
        file.write(b"\xff")
    damaged = []
    for number, shard in enumerate(training_cluster._shards):
        try:
            TrainingWorker().load(number, shard)
        except CacheDamagedError:
            damaged.append(shard.images)
    assert damaged == [slice(60, 90)]
    FeatureCache.open(path).features("train", check=False)
    with pytest.raises(CacheDamagedError):
        FeatureCache.open(path).features("train")


def test_this_machines_blas_leaves_the_cores_to_the_workers_until_it_is_closed(cache: FeatureCache) -> None:
    def threads() -> set[int]:
        return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}

    training_cluster = cluster_of(FakeMachines({"a": 1}), cache)
    with threadpool_limits(2, "blas"):  # tests have one
        assert threads() == {2}
        with closing(training_cluster):
            TuningData(cache.features("train"), cluster=training_cluster)
            assert threads() == {1}
        assert threads() == {2}


def test_rows_that_are_elsewhere_are_not_gone_through() -> None:
    matrix = coordinator._RemoteMatrix(
        TrainingCluster(Cluster(), "cache.h5", "penultimate"), [3, 5], np.zeros(2, np.float32)
    )
    with pytest.raises(AssertionError, match="sums over these rows are computed by the workers"):
        matrix.squares(np.ones(5))


def test_another_centre_gives_the_same_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.random.default_rng(0).normal(size=(40, 5)).astype(np.float32)
    for cached_bytes in (2**29, 0):
        monkeypatch.setattr("featcache.cache.lazy_arrays.MAX_CACHED_BYTES", cached_bytes)
        centered = CenteredMatrix(x, np.ones(40))
        centered.recentre(np.arange(5.0))
        np.testing.assert_allclose(np.concatenate([block for _, block in centered]), x - np.arange(5), atol=1e-6)
        np.testing.assert_allclose(centered.take(np.array([3, 7])), x[[3, 7]] - np.arange(5), atol=1e-6)
        np.testing.assert_allclose(centered.squares(np.ones(40)), ((x - np.arange(5)) ** 2).sum(axis=0), rtol=1e-5)
        assert centered.mean.dtype == np.float32


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"head": "sgd"}, "sgd is fitted on one machine: leave out the cluster. On several work auto, centroid, "),
        ({"head": "knn"}, "knn is fitted on one machine"),
        ({"head": "forest"}, "forest is fitted on one machine"),
        ({"head": "imagenet:ant,bee,cat"}, "imagenet:ant,bee,cat is fitted on one machine"),
        ({"head": "linear", "parameters": {"C": 1.0}}, "linear is fitted on one machine"),
        ({"device": "cuda"}, "leave out the device"),
    ],
)
def test_what_one_machine_alone_does_is_refused(cache: FeatureCache, options: dict[str, Any], message: str) -> None:
    with pytest.raises(HeadError) as caught:
        fit_head(cache, cluster=Cluster(), **options)
    assert message in str(caught.value)


# With Ray


@pytest.fixture(scope="module")
def machines() -> Iterator[Any]:
    with two_machines() as ray_machines:
        yield ray_machines


def alike(fit: HeadFit, expected: HeadFit, cache: FeatureCache) -> None:
    assert fit.name == expected.name
    val = cache.features("val")
    probabilities, expected_probabilities = (classify(head.estimator, val.clean(), 3)[1] for head in (fit, expected))
    np.testing.assert_allclose(probabilities, expected_probabilities, atol=1e-3)
    assert fit.accuracy.to_dict()["accuracy"] == expected.accuracy.to_dict()["accuracy"]


@pytest.mark.filterwarnings("ignore")
def test_a_cluster_fits_what_one_machine_does(machines: Any, cache: FeatureCache, tmp_path: Path) -> None:
    for head in ("linear", "ridge"):
        alike(fit_head(cache, head=head, cluster=Cluster()), fit_head(cache, head=head), cache)
    out = tmp_path / "head"
    result = json.loads(done("fit-head", cache.path, "-o", out, "--head", "auto", "--cluster", "auto",
                           "--budget", "2m", "--json"))  # fmt: skip
    assert {candidate["head"] for candidate in result["selection"]["entrants"]} == set(TOGETHER)
    assert result["selection"]["missed"] == []
    assert (out / "head.safetensors").exists()


@pytest.mark.filterwarnings("ignore")
def test_it_is_said_that_other_work_has_the_cluster(
    machines: Any, cache: FeatureCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("featcache.core.ray_cluster.STARTUP_WARNING_S", 0.5)
    notes, note = fully_booked()
    fit = fit_head(cache, head="ridge", cluster=Cluster(), on_note=note)
    alike(fit, fit_head(cache, head="ridge"), cache)
    assert notes == [str(fit.data), WAITING_MESSAGE]


@pytest.mark.filterwarnings("ignore")
def test_a_killed_worker_and_a_killed_machine_cost_only_their_part(
    machines: Any, cache: FeatureCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    undisturbed = fit_head(cache, head="linear", cluster=Cluster())
    call_all, passes = TrainingCluster.call_all, []

    def killing(self: TrainingCluster, method: str, *rest: Any, **more: Any) -> list[Any]:
        passes.append(method)
        if len(passes) == 6:
            os.kill(ray.get(self._pool.workers[0].actor.__ray_call__.remote(lambda _: os.getpid())), signal.SIGKILL)
        if len(passes) == 10:
            machines.remove_node(machines.worker_nodes.copy().pop(), allow_graceful=False)
        return call_all(self, method, *rest, **more)

    monkeypatch.setattr(TrainingCluster, "call_all", killing)
    fit = fit_head(cache, head="linear", cluster=Cluster())
    assert len(passes) > 10
    np.testing.assert_array_equal(fit.estimator.coef_, undisturbed.estimator.coef_)
    machines.add_node(num_cpus=1)


@pytest.mark.filterwarnings("ignore")
def test_errors_of_members_come_without_rays_account(
    machines: Any, cache: FeatureCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("featcache.heads.ray.coordinator.content_digest", lambda _: "another")
    result = featcache_cli("fit-head", cache.path, "--cluster", "auto")
    assert result.exit_code == 1
    assert f"the cache {cache.path} of " in result.stderr
    assert "differs from that of this machine. Give a path that is one file on all machines." in result.stderr
    assert "ray::" not in result.stderr
