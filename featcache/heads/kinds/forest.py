"""forest: a random forest of scikit-learn."""

from featcache.heads.registry import HeadSpec, register

register(
    HeadSpec("forest", estimator="sklearn.ensemble.RandomForestClassifier", defaults={"n_jobs": -1, "random_state": 0})
)
