"""How pictures get into a network of ultralytics, and what it says back to each.

Imports torch: import this module only after `ultralytics_model` has imported ultralytics.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from ultralytics.models.yolo.detect import DetectionPredictor
from ultralytics.models.yolo.pose import PosePredictor

from healthd.frames import Image
from healthd_yolo.letterbox import PAD_VALUE, Letterbox, Size

_BASES: dict[str, Any] = {"detect": DetectionPredictor, "pose": PosePredictor}


class Feed:
    """The buffer in which pictures go to the device. One per model and reused; called by one thread at a time.

    Where a GPU reads it, its memory is page-locked: the copy runs beside the processor. It is free again when an answer
    has come back, which is before the next call.
    """

    def __init__(self) -> None:
        self.wishes: Sequence[Mapping[str, Any]] = ()
        """Thresholds and classes for each picture of the call in hand, in the words of ultralytics."""
        self._memory: torch.Tensor | None = None
        self._size: Size = (0, 0)
        self._drawn: dict[int, Letterbox] = {}
        """By place in the batch: whose padding lies there."""

    def pixels(self, images: Sequence[Image], letterboxes: Sequence[Letterbox], device: torch.device) -> torch.Tensor:
        """Lay pictures into the buffer, all into inputs of one size; (n, height, width, 3) uint8 BGR, on the device.

        On a processor that is the buffer itself, valid until the next call.
        """
        size = letterboxes[0].input
        memory = self._room(len(images) * size[0] * size[1] * 3, pinned=device.type == "cuda")
        if size != self._size:
            self._size = size
            self._drawn.clear()
        batch = memory[: len(images) * size[0] * size[1] * 3].view(len(images), *size, 3)
        canvases: NDArray[np.uint8] = batch.numpy()
        for place, (image, letterbox) in enumerate(zip(images, letterboxes, strict=True)):
            if self._drawn.get(place) != letterbox:
                canvases[place] = PAD_VALUE
                self._drawn[place] = letterbox
            letterbox.draw(image, canvases[place : place + 1])
        return batch.to(device, non_blocking=True)

    def _room(self, wanted: int, *, pinned: bool) -> torch.Tensor:
        if self._memory is None or self._memory.numel() < wanted:
            self._memory = torch.empty(wanted, dtype=torch.uint8, pin_memory=pinned)
            self._drawn.clear()
        return self._memory


def predictor_class(task: str, feed: Feed) -> type[Any]:
    """Make the predictor of one model: its pictures go through the feed, and each has its own thresholds.

    What it computes is what ultralytics computes for a single picture, to the last bit at the input: each picture is
    letterboxed as if it were alone. Those of one call must come to one size, see `letterbox_of`.
    """
    base = _BASES[task]

    class Predictor(base):  # type: ignore[misc,valid-type]  # it is chosen at run time
        def preprocess(self, im: Any) -> torch.Tensor:
            if im[0].shape[2] != 3:  # a network for grey pictures: the loader has made them grey
                prepared: torch.Tensor = super().preprocess(im)
                return prepared
            pixels = feed.pixels(im, [letterbox_of(self, image.shape[:2]) for image in im], self.device)
            planes = pixels.permute(0, 3, 1, 2).contiguous().flip(1)  # in uint8: a quarter of the bytes
            return (planes.half() if self.model.fp16 else planes.float()).div_(255)

        def postprocess(self, preds: Any, img: torch.Tensor, orig_imgs: list[Image], **kwargs: Any) -> list[Any]:
            said = preds[0] if isinstance(preds, list | tuple) else preds
            results: list[Any] = []
            for place, (wish, image) in enumerate(zip(feed.wishes, orig_imgs, strict=True)):
                for name, value in wish.items():
                    setattr(self.args, name, value)
                results += super().postprocess(said[place : place + 1], img, [image], **kwargs)
            return results

    return Predictor


def letterbox_of(predictor: Any, size: Size) -> Letterbox:
    """Return how a picture of that size gets into the network; the rectangle alone where the network takes it."""
    network = predictor.model
    flexible = network.format == "pt" or bool(getattr(network, "dynamic", False))
    height, width = predictor.imgsz
    return Letterbox.fit(size, (int(height), int(width)), stride=int(network.stride) if flexible else None)
