"""Hyperparameter search: settings drawn from a space, judged on validation alone."""
