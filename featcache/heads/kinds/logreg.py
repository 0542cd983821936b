"""logreg: logistic regression of scikit-learn."""

from featcache.heads.registry import HeadSpec, register

register(
    HeadSpec("logreg", estimator="sklearn.linear_model.LogisticRegression", defaults={"max_iter": 1000}, linear=True)
)
