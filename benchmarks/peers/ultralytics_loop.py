"""One camera and one model, as the first page of the manual has it.

python ultralytics_loop.py yolo11n-pose.pt clip.mp4 [--all-cores]

Says `predicted` after the first prediction. With `--measure` it then waits for lines with a number of seconds on
standard input, predicts for so long on the frames it has read, and says how many milliseconds one took.
"""

import os
import sys
import time

import cv2
from ultralytics import YOLO

model = YOLO(sys.argv[1])
capture = cv2.VideoCapture(sys.argv[2])
if "--all-cores" in sys.argv:
    import torch

    torch.set_num_threads(len(os.sched_getaffinity(0)))

ok, frame = capture.read()
model.predict(frame, verbose=False)
print("predicted", flush=True)

if "--measure" not in sys.argv:
    while True:
        ok, frame = capture.read()
        if not ok:
            capture.set(cv2.CAP_PROP_POS_FRAMES, 0)
            continue
        model.predict(frame, verbose=False)

frames = [frame, *(capture.read()[1] for _ in range(19))]
for line in sys.stdin:
    begun, count = time.perf_counter(), 0
    while time.perf_counter() - begun < float(line):
        model.predict(frames[count % len(frames)], verbose=False)
        count += 1
    print(1000 * (time.perf_counter() - begun) / count, flush=True)
