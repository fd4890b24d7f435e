"""Released checkpoints by bare name: looked up, fetched, not kept when they do not load."""

from __future__ import annotations

import functools
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from ultralytics.nn.tasks import DetectionModel

from yoloprune.errors import CheckpointError
from yoloprune.fetch import CACHE_VARIABLE
from yoloprune.models.checkpoint import write_checkpoint
from yoloprune.models.door import load
from yoloprune.models.released import SHA256, URL_VARIABLE, find_checkpoint


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that the mirror serves; the working folder and the cache are empty."""
    folder = tmp_path / "served"
    folder.mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder))
    )
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    monkeypatch.setenv(URL_VARIABLE, f"http://127.0.0.1:{server.server_port}")
    yield folder
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_released_name_is_fetched_once_into_the_cache(served: Path, tmp_path: Path) -> None:
    write_checkpoint(DetectionModel("yolov8n.yaml", nc=2, verbose=False), served / "yolov8n.pt")
    model, source = load("yolov8n.pt")
    assert source.model == tmp_path / "cache/yolov8n.pt"
    assert len(model.names) == 2  # type: ignore[arg-type]
    (served / "yolov8n.pt").unlink()
    assert load("yolov8n.pt")[1] == source
    assert not list((tmp_path / "here").iterdir())


def test_names_that_stock_changes_are_changed_alike(served: Path) -> None:
    write_checkpoint(DetectionModel("yolov5n.yaml", nc=2, verbose=False), served / "yolov5nu.pt")
    assert load("yolov5n.pt")[1].model.name == "yolov5nu.pt"


def test_what_does_not_load_is_not_kept(served: Path, tmp_path: Path) -> None:
    (served / "yolov8n.pt").write_bytes(b"<html>login</html>" * 100)
    with pytest.raises(CheckpointError, match="a web page"):
        load("yolov8n.pt")
    assert not list((tmp_path / "cache").iterdir())


def test_a_file_of_the_users_is_never_removed(served: Path) -> None:
    Path("yolov8n.pt").write_bytes(b"<html>")
    with pytest.raises(CheckpointError, match="a web page"):
        load("yolov8n.pt")
    assert Path("yolov8n.pt").exists()


def test_what_cannot_be_had_says_what_to_put_where(
    served: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(CheckpointError, match=r"HTTP 404.*put it at .*cache.yolo11n.pt") as caught:
        find_checkpoint(Path("yolo11n.pt"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name", ["mine.pt", "sam_b.pt", "mobile_sam.pt", "runs/yolov8n.pt", "../yolov8n.pt"]
)
def test_other_names_are_never_fetched(name: str, served: Path) -> None:
    (served / "mine.pt").write_bytes(b"x")
    with pytest.raises(CheckpointError, match="no such file"):
        find_checkpoint(Path(name))


def test_digests_are_of_released_files() -> None:
    from ultralytics.utils.downloads import GITHUB_ASSETS_NAMES

    assert set(SHA256) <= set(GITHUB_ASSETS_NAMES)
    assert all(len(digest) == 64 and int(digest, 16) for digest in SHA256.values())
