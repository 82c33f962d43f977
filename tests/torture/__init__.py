"""Attacks on `train.py`, which is taken as a black box: `python -m tests.torture`, whose head says more."""
