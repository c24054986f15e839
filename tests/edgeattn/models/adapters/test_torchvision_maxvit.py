"""torchvision's MaxViT before and after its attention is swapped."""

import warnings

import pytest

from edgeattn.models.adapters import adapt_with_report
from tests.adapted import difference
from tests.random_weights import randomized
from tests.torchvision_ops import declare_torchvision_ops

declare_torchvision_ops()
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # the library's own deprecations
    maxvit = pytest.importorskip("torchvision.models.maxvit")


@pytest.mark.parametrize("size", [(24, 24), (48, 48)])
def test_the_logits_are_equal_in_windows_and_on_grids(size):
    # Maps of 6x6 and 3x3, 12x12 and 6x6; the original's grids are square.
    theirs = maxvit.MaxVit(
        input_size=size,
        stem_channels=8,
        partition_size=3,
        block_channels=[16, 32],
        block_layers=[1, 1],
        head_dim=8,
        stochastic_depth_prob=0.1,
        num_classes=5,
    )
    report = adapt_with_report(randomized(theirs).double())
    groups = [a.specs[0].head_groups[0] for a in report.adapted]
    assert [(g.num_heads, g.mode, g.window_size) for g in groups] == [
        (2, "block", (3, 3)),
        (2, "grid", (3, 3)),
        (4, "block", (3, 3)),
        (4, "grid", (3, 3)),
    ]
    assert report.left == ()
    assert difference(theirs, report.module, size) < 1e-10
