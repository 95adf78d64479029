"""A request names what is configured or lies in the models directory, and nothing else of this machine."""

import os
from pathlib import Path

import pytest

from healthd.errors import UnknownModelError
from healthd.models.catalog import Catalog, public_id, without_paths
from healthd.models.model import Model, ModelFamily, ModelOptions, ModelSpec


class Family(ModelFamily):
    def __init__(self, suffix: str) -> None:
        self.suffix = suffix

    def serves(self, model_id: str) -> bool:
        if self.suffix == "broken":
            raise RuntimeError("oops")
        return model_id.endswith(self.suffix)

    def load(self, spec: ModelSpec) -> Model:
        raise NotImplementedError


FAMILIES = {"aaa-broken": Family("broken"), "captions": Family(".cap"), "yolo": Family(".onnx")}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    models = tmp_path / "models"
    (models / "sub" / "deeper").mkdir(parents=True)
    for name in ("people.onnx", "sub/deeper/things.onnx", "words.cap", "notes.txt", ".hidden.onnx"):
        (models / name).touch()
    (tmp_path / "outside.onnx").touch()
    return models


def catalog(directory: Path, **options: object) -> Catalog:
    return Catalog(FAMILIES, directory=directory, **options)  # type: ignore[arg-type]


def test_what_lies_in_the_directory_and_a_family_serves_is_listed(directory: Path) -> None:
    entries = catalog(directory).entries()
    assert [(entry.model_id, entry.family) for entry in entries] == [
        ("people.onnx", "yolo"),
        ("sub/deeper/things.onnx", "yolo"),
        ("words.cap", "captions"),
    ]


def test_a_model_is_found_by_the_name_under_which_it_is_listed(directory: Path) -> None:
    entry = catalog(directory).find("sub/deeper/things.onnx")
    assert Path(entry.spec_id) == directory / "sub/deeper/things.onnx"


@pytest.mark.parametrize(
    "name",
    [
        "../outside.onnx",
        "sub/../../outside.onnx",
        "{directory}/people.onnx",
        "{directory}/../outside.onnx",
        "/etc/passwd",
        "~/x.onnx",
        "notes.txt",
        "",
        ".",
        "gone.onnx",
        "people.onnx\0",
        "x" * 5000 + ".onnx",
        "people.onnx/",
        "http://example.invalid/x.onnx",
    ],
)
def test_nothing_else_of_this_machine_can_be_named(directory: Path, name: str) -> None:
    models = catalog(directory)
    if name == "people.onnx/":  # the same file, spelt with a slash at its end: no file
        assert models.find("people.onnx")
        return
    with pytest.raises(UnknownModelError) as caught:
        models.find(name.format(directory=directory))
    assert str(directory) not in str(caught.value)


def test_a_file_whose_name_no_answer_can_tell_is_no_model(directory: Path) -> None:
    """JSON is UTF-8; names of files may be any bytes."""
    before = [entry.model_id for entry in catalog(directory).entries()]
    (directory / os.fsdecode(b"caf\xe9.onnx")).touch()
    assert [entry.model_id for entry in catalog(directory).entries()] == before
    with pytest.raises(UnknownModelError):
        catalog(directory).find(os.fsdecode(b"caf\xe9.onnx"))


def test_a_link_is_followed_inside_of_the_directory_and_not_out_of_it(directory: Path) -> None:
    (directory / "same.onnx").symlink_to("people.onnx")
    (directory / "out.onnx").symlink_to(directory.parent / "outside.onnx")
    (directory / "ring.onnx").symlink_to("ring.onnx")
    (directory / "up").symlink_to(directory.parent)
    models = catalog(directory)
    assert models.find("same.onnx")
    for name in ("out.onnx", "ring.onnx", "up/outside.onnx", "up/models/../outside.onnx"):
        with pytest.raises(UnknownModelError):
            models.find(name)
    listed = {entry.model_id for entry in models.entries()}
    assert listed == {"people.onnx", "same.onnx", "sub/deeper/things.onnx", "words.cap"}
    assert catalog(directory, default="out.onnx").find("out.onnx"), "what the configuration names may lie anywhere"


def test_the_nearest_names_are_told(directory: Path) -> None:
    with pytest.raises(UnknownModelError, match=r"unknown model `poeple.onnx`: there is `people.onnx`"):
        catalog(directory).find("poeple.onnx")
    with pytest.raises(UnknownModelError, match=r"there is none, neither configured nor in models\.directory"):
        catalog(directory / "nowhere").find("people.onnx")


def test_models_of_cameras_come_first_and_keep_no_path(directory: Path) -> None:
    outside = str(directory.parent / "outside.onnx")
    models = catalog(directory, cameras={"gym": outside, "hall": outside, "rack": "people.onnx"}, preload=["words.cap"])
    entries = models.entries()
    assert [(entry.model_id, entry.cameras, entry.pinned) for entry in entries[:3]] == [
        ("outside.onnx", ("gym", "hall"), False),
        ("people.onnx", ("rack",), False),
        ("words.cap", (), True),
    ]
    assert models.find("outside.onnx").spec_id == outside
    assert models.find(outside).model_id == "outside.onnx"
    assert models.find(None).model_id == "outside.onnx"
    assert [entry.model_id for entry in models.pinned] == ["words.cap"]


def test_the_default_is_the_one_configured_else_the_first_cameras(directory: Path) -> None:
    assert catalog(directory, cameras={"gym": "people.onnx"}, default="words.cap").find(None).model_id == "words.cap"
    with pytest.raises(UnknownModelError, match=r"say `model=`, or set models\.default"):
        catalog(directory).find(None)


def test_two_files_of_one_name_are_two_models(directory: Path) -> None:
    one, other = "/a/people.onnx", "/b/people.onnx"
    models = catalog(directory, cameras={"gym": one, "hall": other})
    assert [(entry.model_id, entry.spec_id) for entry in models.entries()[:2]] == [
        ("people.onnx", one),
        ("people.onnx~2", other),
    ]
    assert models.find("people.onnx").spec_id == one
    assert models.find("people.onnx~2").spec_id == models.find(other).spec_id == other


def test_the_default_is_never_replaced_by_a_camera_s_model_of_the_same_name(directory: Path) -> None:
    models = catalog(directory, default="/other/people.onnx", cameras={"gym": "people.onnx"})
    assert models.find(None).spec_id == "/other/people.onnx"
    assert models.find("people.onnx~2").cameras == ("gym",)


def test_a_text_about_a_model_names_no_path(directory: Path) -> None:
    link = directory.parent / "link"
    link.symlink_to(directory)
    for folder in (directory, link):
        real = (folder / "people.onnx").resolve()
        spec = ModelSpec(str(folder / "people.onnx"), real, folder, ModelOptions())
        told = without_paths(f"cannot read {real}, nor {folder}/people.onnx, nor {folder}/other.bin", spec)
        assert told == "cannot read people.onnx, nor people.onnx, nor other.bin"


def test_an_id_shows_no_secret() -> None:
    assert public_id("https://user:hunter2hunter2@hub.lan/people.onnx") == "https://***@hub.lan/people.onnx"
    assert public_id("/srv/models/people.onnx") == "people.onnx"
    assert public_id("sub/people.onnx") == "sub/people.onnx"
