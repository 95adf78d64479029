"""What models have seen: detections by model and class, for people who watch a model drift."""

import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from healthd.models.model import Prediction

OTHER = "other"
MOST_CLASSES = 1000
"""Classes of one model that are counted by name; a model may name more, its metric does not."""


class Tally:
    """Counts detections. Thread-safe; lives as long as the daemon, longer than any loaded model."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[str, Counter[str]] = {}

    def add(self, model_id: str, labels: Mapping[int, str], prediction: Prediction) -> None:
        """Count the detections of one prediction; a class that is not among the labels counts as `other`."""
        if not prediction.results:
            return
        seen = Counter(self._class(labels, result.class_id, result.class_name) for result in prediction.results)
        with self._lock:
            counts = self._counts.setdefault(model_id, Counter())
            for name, number in seen.items():
                counts[name if name in counts or len(counts) < MOST_CLASSES else OTHER] += number

    def items(self) -> Iterator[tuple[str, str, int]]:
        """Give model, class and number."""
        with self._lock:
            counts: Iterable[tuple[str, str, int]] = [
                (model_id, name, number)
                for model_id, classes in self._counts.items()
                for name, number in classes.items()
            ]
        yield from counts

    @staticmethod
    def _class(labels: Mapping[int, str], class_id: int, class_name: str) -> str:
        """Return the model's own name of a class; only a name it loaded with can become a label of a metric."""
        return class_name if labels.get(class_id) == class_name else OTHER
