"""What all metrics are made of. Their laws stand in test_metrics.py."""

import signal
from typing import Any

import pytest

from tinyseq.metrics import Accuracy
from tinyseq.metrics.metric import Metric, ratio


def test_sums_are_added_to_all_or_to_none() -> None:
    metric = Accuracy()
    metric.add(right=1, total=2)
    with pytest.raises(TypeError):
        metric.add(right=1, total="a")
    assert metric.sums() == {"right": 1, "total": 2}

    class Interrupting:
        def __radd__(self, other: Any) -> Any:
            signal.raise_signal(signal.SIGINT)
            return other + 1

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            metric.add(right=1, total=Interrupting())
    finally:
        signal.signal(signal.SIGINT, before)
    assert metric.sums() == {"right": 1, "total": 2}


def test_a_share_of_nothing_is_no_number() -> None:
    metric = Accuracy()
    with pytest.raises(ValueError, match=r"^Accuracy.compute: nothing is counted \(total = 0\).* update\(...\)"):
        ratio(metric, "right", "total")
    with pytest.raises(NotImplementedError):
        Metric().compute()


def test_an_error_of_an_update_names_the_class_and_what_was_given() -> None:
    with pytest.raises(ValueError, match=r"^Accuracy.update\(predictions=\[1\], targets=\[1, 2\]\): expected"):
        Accuracy().update([1], [1, 2])
    with pytest.raises(TypeError, match=r"^Accuracy.update\(.*\btarget\b"):
        Accuracy().update([1], target=[1])      # type: ignore[call-arg]
