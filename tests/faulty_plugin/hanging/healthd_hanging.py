"""A plugin whose import never ends, in a call that nothing can interrupt."""

import os
from pathlib import Path

if "HANGING_JOURNAL" in os.environ:
    Path(os.environ["HANGING_JOURNAL"]).write_text("importing\n", encoding="utf-8")
os.read(os.pipe()[0], 1)
