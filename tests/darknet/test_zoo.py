"""Look-up of cfgs and weights, and downloads from a real HTTP server on this machine."""

from __future__ import annotations

import hashlib
import http.server
import logging
import os
import re
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from yoloprune import fetch
from yoloprune.darknet import zoo
from yoloprune.errors import CfgError, WeightsError

BODY = bytes(range(256)) * 1000  # 256 000 bytes, each at a place that it cannot be mistaken for
NAME = "yolov4-tiny.weights"


@dataclass
class Site:
    """A server that does what the test says, and remembers the ``Range`` of every request."""

    body: bytes = BODY
    status: int = 0
    ranges: bool = True
    announces_length: bool = True
    cut_after: list[int] = field(default_factory=list)  # bytes to send before hanging up, in turn
    content_range: str = ""
    silent: bool = False
    finished: bool = False
    asked: list[str | None] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    url: str = ""

    def answer(self, request: http.server.BaseHTTPRequestHandler) -> None:
        asked = request.headers.get("Range")
        self.asked.append(asked)
        self.paths.append(request.path)
        if self.silent:
            request.rfile.read(1)  # until the client gives up
            return
        if self.status:
            request.send_error(self.status)
            return
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and self.ranges else 0
        if start and start >= len(self.body):
            request.send_error(416)
            return
        request.send_response(206 if start else 200)
        if start:
            span = f"bytes {start}-{len(self.body) - 1}/{len(self.body)}"
            request.send_header("Content-Range", self.content_range or span)
        if self.announces_length:
            request.send_header("Content-Length", str(len(self.body) - start))
        request.end_headers()
        end = start + self.cut_after.pop(0) if self.cut_after else len(self.body)
        for at in range(start, min(end, len(self.body)), 1 << 16):
            try:
                request.wfile.write(self.body[at : min(end, at + (1 << 16))])
            except ConnectionError:  # the client had enough
                return
        self.finished = True


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    made = Site()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            made.answer(self)

        def log_message(self, *_: object) -> None: ...

    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    made.url = f"http://127.0.0.1:{server.server_port}/{NAME}"
    yield made
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "cache" / NAME


@pytest.fixture
def part(target: Path) -> Path:
    target.parent.mkdir()
    return target.with_name(NAME + ".part")


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, an empty cache, and no network but what the test allows."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv(fetch.CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setenv(zoo.URL_VARIABLE, "http://127.0.0.1:1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return folder


def fails_in_one_line(url: str, target: Path, expected_bytes: int | None = len(BODY)) -> str:
    with pytest.raises(WeightsError) as caught:
        fetch.download(url, target, fetch.Limits(expected_bytes=expected_bytes, timeout_s=0.5))
    message = str(caught.value)
    assert "\n" not in message
    assert not target.exists()
    return message


# --- downloads ---------------------------------------------------------------------------


def test_a_published_digest_is_checked(site: Site, target: Path) -> None:
    right = hashlib.sha256(BODY).hexdigest()
    with pytest.raises(WeightsError, match="its sha256 is .*, published is 000000000000"):
        fetch.download(site.url, target, fetch.Limits(sha256="0" * 64))
    assert not list(target.parent.iterdir())
    assert fetch.download(site.url, target, fetch.Limits(sha256=right)) == target


@pytest.mark.parametrize("announces_length", [True, False])
def test_a_file_may_be_too_large(site: Site, target: Path, announces_length: bool) -> None:
    site.announces_length = announces_length
    with pytest.raises(WeightsError, match=f"{len(BODY) - 1}"):
        fetch.download(site.url, target, fetch.Limits(max_bytes=len(BODY) - 1))
    assert not list(target.parent.iterdir())


def test_a_download_has_a_deadline_and_keeps_what_came(site: Site, target: Path) -> None:
    with pytest.raises(WeightsError, match="not done after 0 s; .* bytes are kept"):
        fetch.download(site.url, target, fetch.Limits(deadline_s=0))
    assert 0 < target.with_name(NAME + ".part").stat().st_size < len(BODY)
    assert fetch.download(site.url, target) == target
    assert target.read_bytes() == BODY


@pytest.mark.parametrize("expected_bytes", [len(BODY), None])
@pytest.mark.parametrize("announces_length", [True, False])
def test_download(
    site: Site, target: Path, expected_bytes: int | None, announces_length: bool
) -> None:
    site.announces_length = announces_length
    assert fetch.download(site.url, target, fetch.Limits(expected_bytes=expected_bytes)) == target
    assert target.read_bytes() == BODY
    assert list(target.parent.iterdir()) == [target]
    assert site.asked == [None]


def test_goes_on_where_an_earlier_run_was_broken_off(site: Site, target: Path, part: Path) -> None:
    # A byte that differs shows whether the part was really kept and not fetched again.
    part.write_bytes(b"!" + BODY[1:100_000])
    fetch.download(site.url, target, fetch.Limits(expected_bytes=len(BODY)))
    assert site.asked == ["bytes=100000-"]
    assert target.read_bytes() == b"!" + BODY[1:]
    assert not part.exists()


def test_goes_on_by_itself_when_the_connection_is_lost(site: Site, target: Path) -> None:
    site.cut_after = [100_000, 50_000]
    fetch.download(site.url, target, fetch.Limits(expected_bytes=len(BODY)))
    assert site.asked == [None, "bytes=100000-", "bytes=150000-"]
    assert target.read_bytes() == BODY


def test_gives_up_after_some_lost_connections_and_keeps_the_part(
    site: Site, target: Path, part: Path
) -> None:
    site.cut_after = [1000] * 99
    message = fails_in_one_line(site.url, target)
    assert len(site.asked) == fetch.ATTEMPTS
    kept = 1000 * fetch.ATTEMPTS
    assert f"{kept} bytes are kept" in message
    assert part.read_bytes() == BODY[:kept]


def test_a_connection_that_brings_nothing_is_not_tried_again(site: Site, target: Path) -> None:
    site.cut_after = [0] * 99
    fails_in_one_line(site.url, target)
    assert len(site.asked) == 1


def test_starts_over_when_the_server_ignores_ranges(site: Site, target: Path, part: Path) -> None:
    site.ranges = False
    part.write_bytes(b"!" * 100_000)
    fetch.download(site.url, target, fetch.Limits(expected_bytes=len(BODY)))
    assert site.asked == ["bytes=100000-"]
    assert target.read_bytes() == BODY


def test_a_complete_part_needs_no_network(target: Path, part: Path) -> None:
    part.write_bytes(BODY)
    fetch.download("http://127.0.0.1:1/x", target, fetch.Limits(expected_bytes=len(BODY)))
    assert target.read_bytes() == BODY


@pytest.mark.parametrize("expected_bytes", [len(BODY), None])
def test_a_part_that_is_too_long_is_thrown_away(
    site: Site, target: Path, part: Path, expected_bytes: int | None
) -> None:
    part.write_bytes(BODY + b"!")
    fetch.download(site.url, target, fetch.Limits(expected_bytes=expected_bytes))
    assert target.read_bytes() == BODY


def test_a_range_that_was_not_asked_for_is_refused(site: Site, target: Path, part: Path) -> None:
    part.write_bytes(BODY[:100])
    site.content_range = f"bytes 99-{len(BODY) - 1}/{len(BODY)}"
    assert "bytes 99-" in fails_in_one_line(site.url, target)
    assert not part.exists()


@pytest.mark.parametrize("change", [-4, 4])
def test_another_size_is_refused_before_anything_is_written(
    site: Site, target: Path, change: int
) -> None:
    expected = len(BODY) + change
    message = fails_in_one_line(site.url, target, expected)
    assert f"has {len(BODY)} bytes" in message
    assert f"expected {expected}" in message
    assert list(target.parent.iterdir()) == []


def test_an_unannounced_body_that_is_too_long_is_refused(site: Site, target: Path) -> None:
    site.announces_length = False
    assert f"more than the {len(BODY) - 4} bytes" in fails_in_one_line(
        site.url, target, len(BODY) - 4
    )
    assert list(target.parent.iterdir()) == []


def test_a_body_without_end_is_not_read_on(site: Site, target: Path) -> None:
    site.announces_length = False
    site.body = BODY * 200  # more than the sockets' buffers hold
    fails_in_one_line(site.url, target)
    assert not site.finished


def test_an_unannounced_body_that_is_too_short_is_refused(site: Site, target: Path) -> None:
    site.announces_length = False
    message = fails_in_one_line(site.url, target, len(BODY) + 4)
    assert f"ended at byte {len(BODY)} of {len(BODY) + 4}" in message


@pytest.mark.parametrize("status", [403, 404, 500])
def test_an_http_error_says_what_to_put_where(site: Site, target: Path, status: int) -> None:
    site.status = status
    message = fails_in_one_line(site.url, target)
    assert message.startswith(f"{NAME}: ")
    assert f"HTTP {status}" in message
    assert site.url in message
    assert message.endswith(str(target))


def test_connection_refused_says_what_to_put_where(target: Path) -> None:
    with socket.socket() as unused:  # bound and never listening
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/{NAME}"
        message = fails_in_one_line(url, target)
    assert "refused" in message
    assert url in message
    assert message.endswith(str(target))


def test_a_silent_server_times_out(site: Site, target: Path) -> None:
    site.silent = True
    assert "timed out" in fails_in_one_line(site.url, target)


@pytest.mark.parametrize("url", ["file:///etc/hostname", "ftp://127.0.0.1/x", "http://[bad"])
def test_other_addresses_are_refused(url: str, target: Path) -> None:
    assert url in fails_in_one_line(url, target)


def test_a_folder_that_cannot_be_written(site: Site, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    message = fails_in_one_line(site.url, tmp_path / "file" / "cache" / NAME)
    assert "cannot be written" in message
    assert fetch.CACHE_VARIABLE in message


def test_progress_is_logged_in_tenths(
    site: Site, target: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(logging.INFO):
        fetch.download(site.url, target, fetch.Limits(expected_bytes=len(BODY)))
    lines = [m for m in caplog.messages if "%" in m]
    assert 1 <= len(lines) <= 10
    assert lines[-1] == f"{NAME}: {len(BODY)} of {len(BODY)} bytes (100 %)"
    assert capsys.readouterr() == ("", "")


# --- cfg look-up -------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["yolov4-tiny.cfg", "yolov4-tiny", "yoloprune-demo.cfg"])
def test_a_bare_name_finds_a_shipped_cfg_from_any_folder(
    elsewhere: Path, repo: Path, name: str
) -> None:
    found = zoo.find_cfg(name)
    assert found.read_bytes() == (repo / "cfg" / f"{name.removesuffix('.cfg')}.cfg").read_bytes()


def test_an_existing_file_wins_over_a_shipped_one(elsewhere: Path) -> None:
    (elsewhere / "yolov4-tiny.cfg").write_text("[net]\n")
    assert zoo.find_cfg("yolov4-tiny.cfg").read_text() == "[net]\n"


@pytest.mark.parametrize(
    "name", ["yolov9.cfg", "some/yolov4-tiny.cfg", "../cfg/yolov4-tiny.cfg", "", "..", "a\0b"]
)
def test_an_unknown_cfg_names_those_that_ship(elsewhere: Path, name: str) -> None:
    with pytest.raises(CfgError) as caught:
        zoo.find_cfg(name)
    if name and name != "..":
        assert str(caught.value).startswith(f"{name}: ")
        assert "yolov3-spp.cfg, yolov3-tiny.cfg, yolov3.cfg, yolov4-tiny-3l.cfg" in str(
            caught.value
        )


# --- weights look-up ---------------------------------------------------------------------


def test_weights_are_looked_for_in_this_order(
    elsewhere: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped = tmp_path / "shipped"
    monkeypatch.setattr(zoo, "_shipped_folder", lambda kind: shipped / kind)
    cfg = tmp_path / "nets" / "yolov4-tiny.cfg"
    places = [cfg.parent, elsewhere / "weights", shipped / "weights", tmp_path / "cache"]
    for place in reversed(places):  # the last choice first: each one found beats those before
        place.mkdir(parents=True)
        (place / NAME).write_bytes(b"x")
        assert zoo.find_weights(cfg) == place / NAME


def test_given_weights_win(elsewhere: Path) -> None:
    mine = elsewhere / "mine.weights"
    mine.write_bytes(b"x")
    (elsewhere / NAME).write_bytes(b"y")
    assert zoo.find_weights(elsewhere / "yolov4-tiny.cfg", "mine.weights") == Path(mine.name)
    assert zoo.find_weights(elsewhere / "yolov4-tiny.cfg", mine) == mine


def test_given_weights_that_are_missing_are_not_replaced_by_others(elsewhere: Path) -> None:
    (elsewhere / NAME).write_bytes(b"y")
    with pytest.raises(WeightsError, match=re.escape("runs/mine.weights: no such file")):
        zoo.find_weights(elsewhere / "yolov4-tiny.cfg", "runs/mine.weights")


def test_missing_weights_are_fetched_into_the_cache_once(
    elsewhere: Path, tmp_path: Path, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(zoo.URL_VARIABLE, site.url.removesuffix(NAME))
    cfg = zoo.find_cfg("yolov4-tiny.cfg")
    for _ in range(2):
        found = zoo.find_weights(cfg, None, len(BODY))
        assert found == tmp_path / "cache" / NAME
        assert found.read_bytes() == BODY
    assert site.paths == [f"/{NAME}"]


def test_without_a_network_one_line_says_which_file_goes_where(
    elsewhere: Path, tmp_path: Path
) -> None:
    with pytest.raises(WeightsError) as caught:
        zoo.find_weights(zoo.find_cfg("yolov4-tiny.cfg"), None, 24_251_276)
    message = str(caught.value)
    assert "\n" not in message
    assert f"http://127.0.0.1:1/{NAME}" in message
    place = Path(message.rsplit(" ", 1)[1])
    assert place == tmp_path / "cache" / NAME

    place.parent.mkdir(exist_ok=True)  # and doing what it says helps
    place.write_bytes(b"x")
    assert zoo.find_weights(zoo.find_cfg("yolov4-tiny.cfg")) == place


@pytest.mark.parametrize("cfg", ["net.cfg", None])
def test_weights_that_nobody_publishes(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch, cfg: str | None
) -> None:
    monkeypatch.delenv(zoo.URL_VARIABLE)
    path = zoo.find_cfg("yolov4-tiny-3l.cfg") if cfg is None else elsewhere / cfg
    with pytest.raises(WeightsError, match="no address of it is known") as caught:
        zoo.find_weights(path)
    place = re.search(r"Put the file at (\S+),", str(caught.value))
    assert place is not None
    Path(place[1]).parent.mkdir(exist_ok=True)
    Path(place[1]).write_bytes(b"x")
    assert zoo.find_weights(path) == Path(place[1])


def test_published_addresses_are_of_shipped_cfgs() -> None:
    for name, url in zoo.WEIGHTS_URLS.items():
        assert f"{name}.cfg" in zoo.shipped_cfg_names()
        assert url.startswith("https://")
        assert url.endswith(f"/{name}.weights")


@pytest.mark.skipif(os.name == "nt", reason="Windows has %LOCALAPPDATA% instead")
def test_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.delenv(fetch.CACHE_VARIABLE, raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert fetch.cache_folder() == Path("/home/someone/.cache/yoloprune")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert fetch.cache_folder() == tmp_path / "yoloprune"
    monkeypatch.setenv(fetch.CACHE_VARIABLE, "~/mine")
    assert fetch.cache_folder() == Path("/home/someone/mine")
