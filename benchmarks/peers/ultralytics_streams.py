"""Many cameras and one model: the multi-stream loader of ultralytics, as its manual has it.

python ultralytics_streams.py yolo11n-pose.pt list.streams VID_STRIDE [--all-cores]

Says the source of each prediction, one a line.
"""

import os
import sys

from ultralytics import YOLO

model = YOLO(sys.argv[1])
if "--all-cores" in sys.argv:
    import torch

    torch.set_num_threads(len(os.sched_getaffinity(0)))

for result in model.predict(source=sys.argv[2], stream=True, vid_stride=int(sys.argv[3]), verbose=False):
    print("predicted", result.path, flush=True)
