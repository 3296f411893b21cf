"""The learning rate by hand."""

import pytest

from hpcjobs.chexnet.train.rates import Plateau, peak, warmed


@pytest.mark.parametrize(("scaling", "rate"), [("none", 0.001), ("linear", 0.016), ("sqrt", 0.004)])
def test_the_rate_scales_with_the_global_batch(scaling: str, rate: float):
    lr = {"base": 0.001, "scaling": scaling, "reference_batch": 64}
    assert peak(lr, 1024) == pytest.approx(rate)
    assert peak(lr, 64) == pytest.approx(0.001)


def test_the_warm_up_is_a_line_that_ends_at_the_rate():
    assert [warmed(8.0, step, 4) for step in range(6)] == [2.0, 4.0, 6.0, 8.0, 8.0, 8.0]
    assert warmed(8.0, 0, 0) == 8.0


def test_the_rate_falls_when_an_epoch_brings_nothing():
    rule = Plateau(factor=0.1, patience=1)
    scales = []
    for loss in (0.5, 0.4, 0.4, 0.3, 0.35, 0.36):
        rule.update(loss)
        scales.append(rule.scale)
    assert scales == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.001])


def test_patience_waits():
    rule = Plateau(factor=0.1, patience=2, best=0.3)
    rule.update(0.4)
    assert rule.scale == 1
    rule.update(0.4)
    assert rule.scale == pytest.approx(0.1)
