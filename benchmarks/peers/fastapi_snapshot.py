"""A snapshot route as it stands in many a project: FastAPI, a `def` route, the JPEG from a cache in memory.

python fastapi_snapshot.py picture.jpg
"""

import sys
from pathlib import Path

import uvicorn
from fastapi import FastAPI, Response

app = FastAPI()
cache = {"room": Path(sys.argv[1]).read_bytes()}


@app.get("/cameras/{name}/snapshot")
def snapshot(name: str) -> Response:
    """Answer with the picture of a camera."""
    return Response(cache[name], media_type="image/jpeg", headers={"Cache-Control": "no-cache"})


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=0, access_log=False)
