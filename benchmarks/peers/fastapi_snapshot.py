"""Snapshot routes as they stand in many a project: FastAPI, `def` routes, the JPEG from a cache or encoded each time.

python fastapi_snapshot.py picture.jpg quality
"""

import sys
from pathlib import Path

import cv2
import numpy as np
import uvicorn
from fastapi import FastAPI, Response

app = FastAPI()
cache = {"room": Path(sys.argv[1]).read_bytes()}
frames = {name: cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR) for name, jpeg in cache.items()}


@app.get("/cameras/{name}/snapshot")
def snapshot(name: str) -> Response:
    """Answer with the picture of a camera."""
    return Response(cache[name], media_type="image/jpeg", headers={"Cache-Control": "no-cache"})


@app.get("/cameras/{name}/encoded")
def encoded(name: str) -> Response:
    """Answer with the frame of a camera, encoded for this one request."""
    _, jpeg = cv2.imencode(".jpg", frames[name], [cv2.IMWRITE_JPEG_QUALITY, int(sys.argv[2])])
    return Response(jpeg.tobytes(), media_type="image/jpeg", headers={"Cache-Control": "no-cache"})


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=0, access_log=False)
