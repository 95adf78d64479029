"""MJPEG as it stands in many a tutorial: FastAPI, uvicorn with its defaults, a blocking generator for each viewer."""

import sys
import time
from collections.abc import Iterator

import cv2
import numpy as np
import uvicorn
from fastapi import FastAPI
from fastapi.responses import StreamingResponse

app = FastAPI()
PICTURES = np.load(sys.argv[1]) if len(sys.argv) > 1 else np.zeros((1, 720, 1280, 3), np.uint8)
FPS = 15


def frames() -> Iterator[bytes]:
    """Encode and give picture after picture, for ever."""
    due = time.monotonic()
    number = 0
    while True:
        due = max(due + 1 / FPS, time.monotonic() - 1 / FPS)
        time.sleep(max(0.0, due - time.monotonic()))
        number += 1
        _, jpeg = cv2.imencode(".jpg", PICTURES[number % len(PICTURES)], [cv2.IMWRITE_JPEG_QUALITY, 75])
        head = b"--frame\r\nContent-Type: image/jpeg\r\nX-Frame-Id: %d\r\n\r\n" % number
        yield head + jpeg.tobytes() + b"\r\n"


@app.get("/stream")
def stream() -> StreamingResponse:
    """MJPEG."""
    return StreamingResponse(frames(), media_type="multipart/x-mixed-replace; boundary=frame")


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=0, access_log=False)
