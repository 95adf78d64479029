"""Detection as it stands in many a tutorial: FastAPI, ultralytics, the model loaded once, a `def` route.

python fastapi_detect.py yolo11n.pt
"""

import sys

import cv2
import numpy as np
import uvicorn
from fastapi import FastAPI, File, Form, UploadFile
from ultralytics import YOLO

app = FastAPI()
model = YOLO(sys.argv[1] if len(sys.argv) > 1 else "yolo11n.pt")


@app.post("/detect")
def detect(file: UploadFile = File(...), confidence: float = Form(0.25)) -> dict[str, object]:  # noqa: FAST002, B008  as the tutorials write it
    """Predict on one picture."""
    image = cv2.imdecode(np.frombuffer(file.file.read(), np.uint8), cv2.IMREAD_COLOR)
    result = model(image, conf=confidence, verbose=False)[0]
    detections = [
        {
            "label": result.names[int(box.cls)],
            "confidence": float(box.conf),
            "bbox": dict(zip(("x1", "y1", "x2", "y2"), box.xyxy[0].tolist(), strict=True)),
        }
        for box in result.boxes
    ]
    return {"count": len(detections), "detections": detections}


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=0, access_log=False)
