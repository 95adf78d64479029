"""Which models a read key may have loaded: whatever lies in the directory, but no programs where they are forbidden."""

import pickle
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from healthd_yolo.family import YoloFamily
from tests.api.house import KEYS, READ, assert_error, open_house
from tests.api.talking import ask, asked, connected

JPEG = cv2.imencode(".jpg", np.zeros((48, 64, 3), np.uint8))[1].tobytes()


class Bomb:
    """Runs when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.write_text, (self.mark, "boom")


async def test_a_read_key_has_no_program_loaded_where_programs_are_forbidden(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    (tmp_path / "bomb.pt").write_bytes(pickle.dumps(Bomb(mark)))
    models = {"directory": str(tmp_path), "allow_pickle": False}
    async with open_house(family=YoloFamily(), models=models, auth={"keys": KEYS}, headers=READ) as house:
        listed = (await house.client.get("/api/v1/models")).json()
        assert [model["id"] for model in listed] == ["bomb.pt"], "it can be named"
        answer = await house.client.post("/api/v1/infer", params={"model": "bomb.pt"}, files={"file": ("a.jpg", JPEG)})
        assert "allow_pickle" in assert_error(answer, 502)["detail"]
        async with connected(house, "?model=bomb.pt", headers=READ) as client:
            said = await ask(client, asked(JPEG))
            assert (said["type"], said["status_code"]) == ("error", 502)
            assert "allow_pickle" in said["detail"]
        assert (await house.client.post("/api/v1/models/bomb.pt/load")).status_code == 403
        assert not mark.exists()
