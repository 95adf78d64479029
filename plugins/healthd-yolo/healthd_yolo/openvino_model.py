"""The engine `openvino`: a YOLO network on OpenVINO, with its own letterbox and decoding and without torch."""

from collections.abc import Mapping
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from healthd.errors import ParameterError
from healthd.frames import Image
from healthd.models.model import InferenceParams, Model, Prediction
from healthd_yolo.decode import Rows, decode_anchors, decode_one_to_one, decode_rows
from healthd_yolo.envelope import check_image, detections
from healthd_yolo.labels import class_ids
from healthd_yolo.letterbox import Letterbox, Size, whole_strides
from healthd_yolo.model_options import ACTIVATIONS_PER_INPUT
from healthd_yolo.openvino_network import Network

_WARM_UP_SIZE = (720, 1280)


class OpenVinoYolo(Model):
    """One network. Lives from load to `close`; called by one thread at a time, not always the same."""

    def __init__(self, model_id: str, network: Network, *, image_size: int | None = None) -> None:
        self.model_id = model_id
        self.task = network.info.task
        self.labels: Mapping[int, str] = network.info.labels
        self._network = network
        self._target = _target_size(network, image_size, model_id)
        self._letterbox: Letterbox | None = None
        self._canvas: NDArray[np.uint8] = np.empty(0, dtype=np.uint8)

    @property
    def memory_bytes(self) -> int:
        """About what it holds: weights as read and as repacked for the processor, and one inference."""
        height, width = self._target
        return 2 * self._network.weights_bytes + ACTIVATIONS_PER_INPUT * height * width * 3 * 4

    def warm_up(self) -> None:
        """Predict once on black, in the shape most cameras have."""
        self.predict(np.zeros((*_WARM_UP_SIZE, 3), dtype=np.uint8), InferenceParams())

    def predict(self, image: Image, params: InferenceParams) -> Prediction:
        """Say what is in the image, (height, width, 3) uint8 BGR of any size.

        Raises:
            ModelError: it is no such image, or the network failed on it.
            SettingsError: `params` names a class that the network does not have.
        """
        begun = perf_counter()
        height, width = check_image(image)
        keep = class_ids(self.labels, params.classes)
        letterbox = self._lay_out((height, width))
        letterbox.draw(image, self._canvas)
        rows = self._decode(self._network.infer(self._canvas), params, keep)
        results = detections(
            rows, labels=self.labels, letterbox=letterbox, keypoint_shape=self._network.info.keypoint_shape
        )
        metadata = {
            "task": self.task,
            "width": width,
            "height": height,
            "engine": "openvino",
            "device": self._network.device,
            "precision": self._network.precision,
            "input_shape": list(letterbox.input),
            **({"discarded_not_finite": rows.discarded} if rows.discarded else {}),
        }
        return Prediction(
            model_id=self.model_id,
            inference_time_ms=(perf_counter() - begun) * 1e3,
            results=results,
            metadata=metadata,
        )

    def _lay_out(self, size: Size) -> Letterbox:
        """Return the letterbox for images of that size; the canvas is kept while the size stays the same."""
        if self._letterbox is None or self._letterbox.image != size:
            stride = None if self._network.input_size else self._network.info.stride
            self._letterbox = Letterbox.fit(size, self._target, stride=stride)
            self._canvas = self._letterbox.blank()
        return self._letterbox

    def _decode(self, output: NDArray[np.float32], params: InferenceParams, keep: frozenset[int] | None) -> Rows:
        classes = len(self.labels)
        match self._network.layout:
            case "anchors":
                return decode_anchors(output, classes=classes, params=params, keep=keep)
            case "one_to_one":
                return decode_one_to_one(output, classes=classes, params=params, keep=keep)
            case "rows":
                return decode_rows(output, params=params, keep=keep)


def _target_size(network: Network, wanted: int | None, model_id: str) -> Size:
    """Return the size that images are fitted into.

    Raises:
        ParameterError: `imgsz` asks a network of fixed size for another one.
    """
    fixed = network.input_size
    if fixed is None:
        sides = (wanted, wanted) if wanted is not None else network.info.image_size
        return whole_strides(sides[0], network.info.stride), whole_strides(sides[1], network.info.stride)
    if wanted is not None and (wanted, wanted) != fixed:
        raise ParameterError(
            f"imgsz: {model_id} was exported for {fixed[0]}x{fixed[1]} and nothing else; leave imgsz out,"
            f" or export it with dynamic=True or imgsz={wanted}"
        )
    return fixed
