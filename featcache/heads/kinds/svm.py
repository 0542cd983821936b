"""svm: a support vector machine of scikit-learn, with an RBF kernel."""

from featcache.heads.registry import HeadSpec, register

register(HeadSpec("svm", estimator="sklearn.svm.SVC"))
