"""What a changed setting takes is said of each, and in the documents; a changed file is noticed once it is whole."""

import os
import re
from pathlib import Path

from healthd.config_watch import FileWatch
from healthd.settings import CameraSettings, Settings
from healthd.settings_changes import (
    CAMERA_EFFECTS,
    SECTION_EFFECTS,
    THRESHOLDS,
    ConfigFile,
    camera_difference,
    effect_of,
    in_effect,
    section_differences,
)
from healthd.settings_tree import known_keys

ROOT = Path(__file__).parent.parent
KEYS = sorted({re.sub(r"\[\].*", "", key) for key in known_keys(Settings)})


def split(key: str) -> tuple[str, str]:
    section, name = key.replace("cameras.NAME.", "cameras.").split(".")
    return section, name


def test_of_every_setting_it_is_said_what_a_change_takes() -> None:
    said = {f"{section}.{key}" for section, effects in SECTION_EFFECTS.items() for key in effects}
    said |= {f"cameras.NAME.{key}" for key in CAMERA_EFFECTS}
    assert said == set(KEYS), "say in SECTION_EFFECTS or CAMERA_EFFECTS what a change of it takes"


def test_the_documents_say_of_every_setting_what_a_change_takes() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    section = re.split(r"^## Change without a restart$", page, flags=re.MULTILINE)[1].split("\n## ")[0]
    told: dict[str, set[str]] = {"hot": set(), "camera": set(), "daemon": set()}
    words = {"at once": "hot", "restarts the camera": "camera", "with the next start": "daemon"}
    for line in section.splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) == 4 and cells[1] in words:
            told[words[cells[1]]] |= set(re.findall(r"`([^`]+)`", cells[2]))
    for effect, keys in told.items():
        assert keys == {key for key in KEYS if effect_of(*split(key)) == effect}, effect


def test_what_is_unknown_takes_the_most() -> None:
    assert effect_of("server", "new") == "daemon"
    assert effect_of("new", "new") == "daemon"
    assert effect_of("cameras", "new") == "camera"


def test_thresholds_alone_leave_a_camera_open() -> None:
    gym = CameraSettings(plugin="made", options={"confidence": 0.3, "model": "a.onnx"})
    for key in THRESHOLDS:
        changed = gym.model_copy(update={"options": {**gym.options, key: 1}})
        assert not camera_difference(gym, changed).restart
    assert camera_difference(gym, gym.model_copy(update={"options": {"confidence": 0.3}})).restart
    assert not camera_difference(gym, gym.model_copy(update={"predict_fps": 3.0})).restart
    assert camera_difference(gym, gym.model_copy(update={"stale_after_seconds": 3.0})).restart
    assert not camera_difference(gym, gym.model_copy()).keys


def test_to_a_plugin_one_is_not_true_and_to_healthd_five_is_five() -> None:
    one = CameraSettings(plugin="made", stale_after_seconds=5, options={"a": 1})
    assert camera_difference(one, CameraSettings(plugin="made", options={"a": True})).options == {"a"}
    assert not camera_difference(one, CameraSettings(plugin="made", stale_after_seconds=5.0, options={"a": 1})).keys


def test_what_takes_a_restart_stays_in_effect_as_it_was() -> None:
    started = Settings.model_validate({"server": {"port": 1}, "streams": {"max_viewers": 1}})
    wanted = Settings.model_validate({"server": {"port": 2}, "streams": {"max_viewers": 2}})
    found = in_effect(started, wanted)
    assert (found.server.port, found.streams.max_viewers) == (1, 2)
    assert section_differences(started, wanted, "daemon") == ["server.port"]
    assert section_differences(started, wanted, "hot") == ["streams.max_viewers"]


# -- the file ----------------------------------------------------------------------------------------------------------


def watch(path: Path) -> tuple[ConfigFile, FileWatch]:
    file = ConfigFile(path, Settings)
    file.load()
    return file, FileWatch(file)


def test_a_change_counts_once_the_file_stays_as_it_is_and_until_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text("a = 1")
    file, watching = watch(path)
    assert [watching.look(), watching.look()] == [None, None]
    with path.open("w") as writing:  # truncated first, then written in pieces
        writing.flush()
        assert watching.look() is None
        writing.write("a = ")
        writing.flush()
        assert watching.look() is None
        writing.write("22")
    assert watching.look() is None
    assert [watching.look(), watching.look()] == ["changed", "changed"]
    file.load()
    assert watching.look() is None


def test_a_file_that_an_editor_renames_over_the_old_one_is_a_change(tmp_path: Path) -> None:
    path, other = tmp_path / "config.toml", tmp_path / "config.toml~"
    path.write_text("a = 1")
    _, watching = watch(path)
    other.write_text("a = 2")
    stamp = path.stat()
    os.utime(other, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    other.replace(path)
    assert [watching.look(), watching.look()] == [None, "changed"]


def test_a_config_map_that_kubernetes_swaps_is_a_change(tmp_path: Path) -> None:
    """As the kubelet does it: `config.toml` -> `..data/config.toml`, and `..data` is a link that is renamed over."""
    for number in (1, 2):
        (tmp_path / f"..{number}").mkdir()
        (tmp_path / f"..{number}" / "config.toml").write_text(f"a = {number}")
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / "config.toml").symlink_to("..data/config.toml")
    _, watching = watch(tmp_path / "config.toml")
    assert watching.look() is None
    (tmp_path / "..data_tmp").symlink_to("..2")
    (tmp_path / "..data_tmp").replace(tmp_path / "..data")
    (tmp_path / "..1" / "config.toml").unlink()
    assert [watching.look(), watching.look()] == [None, "changed"]


def test_a_file_that_vanishes_is_told_once_and_its_return_is_a_change(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text("a = 1")
    _, watching = watch(path)
    path.unlink()
    assert [watching.look(), watching.look(), watching.look()] == [None, "gone", None]
    path.write_text("a = 2")
    assert [watching.look(), watching.look()] == [None, "changed"]


def test_what_is_written_while_the_file_is_read_is_a_change(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text("a = 1")

    def read() -> Settings:
        path.write_text("a = 1234")
        return Settings()

    file = ConfigFile(path, read)
    file.load()
    watching = FileWatch(file)
    assert "changed" in {watching.look(), watching.look()}
