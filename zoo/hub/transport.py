"""One bounded GET from a hub. Every byte that is read is asked for, and counted.

The session, its proxies and certificates, and the token are those of huggingface_hub. Redirects are
followed here, because a token must not follow one to another host, nor anything to a file.
"""

from __future__ import annotations

import json
import logging
import os
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar
from urllib.parse import urljoin, urlsplit

from zoo.errors import InvalidCheckpoint, NotFound, StoreError, ZooError

MOST_REDIRECTS = 8
LARGEST_ANSWER = 8_000_000
"""Bytes of one answer of the API. A page of a listing has 300 kB."""
MOST_VALUES = 400_000
"""In one answer, counted by its commas: parsed, a value takes up to 350 bytes."""
BLOCK = 1 << 20
"""Bytes that one compressed block may unfold to at a time."""
RETRIES = 5
PAUSE = 1.0
"""Seconds before the first retry, doubled for each after."""
TIMEOUT = 20.0
"""Seconds without any byte from the other side."""

T = TypeVar("T")

_log = logging.getLogger("zoo")


class Interrupted(StoreError):
    """The network or the other side failed in a way that another try may mend."""


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer whose body has not been read."""

    url: str
    headers: Mapping[str, str]
    start: int
    """The first byte of the body in the whole file."""
    answer: Any

    def chunks(self) -> Iterator[bytes]:
        """The body, in blocks of at most 1 MiB; whoever reads counts."""
        encoding = self.headers.get("content-encoding", "identity").lower()
        if encoding not in ("identity", "gzip"):
            raise InvalidCheckpoint(
                f"`{self.url}` came encoded as {encoding[:40]!a}:", "that was not asked for."
            )
        unfold = zlib.decompressobj(31) if encoding == "gzip" else None
        with _interruptions(self.url):
            for chunk in self.answer.iter_raw():
                yield from _unfolded(unfold, chunk, self.url) if unfold else (chunk,)

    def read(self, most: int) -> bytes:
        """The first `most` bytes of the body, or all there are; no more are read."""
        parts, left = [], most
        for chunk in self.chunks():
            parts.append(chunk[:left])
            left -= len(parts[-1])
            if left <= 0:
                break
        return b"".join(parts)


class Transport:
    """GET requests to one hub."""

    def __init__(self, endpoint: str | None = None) -> None:
        """
        Args:
            endpoint: `HF_ENDPOINT` as it is now, by default.
        """
        from huggingface_hub import constants

        found = endpoint or os.environ.get("HF_ENDPOINT") or constants.ENDPOINT
        self.endpoint = found.rstrip("/")

    def json(self, url: str) -> tuple[Any, str | None]:
        """An answer of the API, and the address of the page that follows it.

        Raises:
            NotFound, StoreError, InvalidCheckpoint
        """
        data, reply = self.retried(url, lambda found: (found.read(LARGEST_ANSWER + 1), found))
        if len(data) > LARGEST_ANSWER or data.count(b",") > MOST_VALUES:
            raise InvalidCheckpoint(
                f"`{url}` answered with over {LARGEST_ANSWER // 10**6} MB of JSON, or over "
                f"{MOST_VALUES:,} values:",
                "no model is described at such length.",
                url=url,
            )
        try:
            found = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise InvalidCheckpoint(
                f"`{url}` did not answer with JSON:",
                "it is no hub, or something between here and there answers for it.",
                "Check HF_ENDPOINT and the proxy.",
                url=url,
            ) from error
        following = _next(reply.headers.get("link", ""))
        if following is None:
            return found, None
        following = urljoin(url, following)
        if _origin(following) != _origin(url):
            raise InvalidCheckpoint(
                f"`{url}` continues on another host:", "a listing stays where it began.", url=url
            )
        return found, following

    def retried(
        self,
        url: str,
        read: Callable[[Reply], T],
        *,
        start: int = 0,
        stop: int | None = None,
        commit: str | None = None,
    ) -> T:
        """What `read` makes of a reply; tried again when the connection or the hub fails."""
        for attempt in range(RETRIES):
            try:
                with self.get(url, start=start, stop=stop, commit=commit) as reply:
                    return read(reply)
            except Interrupted as error:
                if attempt == RETRIES - 1:
                    raise
                pause(attempt, error)
        raise AssertionError

    def part(self, url: str, start: int, stop: int, commit: str) -> bytes:
        """Bytes `start` to `stop` of a file, or fewer if it ends before; where the other side
        ignores ranges, what comes before is read and thrown away, if it is little."""

        def read(reply: Reply) -> bytes:
            data = reply.read(stop - reply.start)
            return data[start - reply.start :]

        return self.retried(url, read, start=start, stop=stop, commit=commit)

    @contextmanager
    def get(
        self, url: str, *, start: int = 0, stop: int | None = None, commit: str | None = None
    ) -> Iterator[Reply]:
        """An open answer.

        Args:
            start: first byte that is wanted.
            stop: the byte after the last; the end of the file by default.
            commit: what the answer must be of, if it says so.
        Raises:
            Interrupted: worth another try.
            NotFound, StoreError, InvalidCheckpoint
        """
        from huggingface_hub import get_session

        headers = _headers()
        if start or stop is not None:
            headers["range"] = f"bytes={start}-{stop - 1 if stop is not None else ''}"
        session: Any = get_session()
        asked = url
        for _ in range(MOST_REDIRECTS + 1):
            with _interruptions(url):
                request = session.build_request("GET", url, headers=headers, timeout=TIMEOUT)
                answer = session.send(request, stream=True, follow_redirects=False)
            try:
                if answer.status_code in (301, 302, 303, 307, 308):
                    _check_commit(answer, commit, url)
                    target = _target(url, answer.headers.get("location", ""))
                    if _origin(target) != _origin(url):
                        headers = {k: v for k, v in headers.items() if k != "authorization"}
                    url = target
                    continue
                _check_status(answer, url, self.endpoint)
                _check_commit(answer, commit, url)
                yield Reply(url, answer.headers, _first_byte(answer, start, url), answer)
                return
            finally:
                answer.close()
        raise InvalidCheckpoint(
            f"`{asked}` is redirected over {MOST_REDIRECTS} times:", "it leads nowhere.", url=asked
        )


def _headers() -> dict[str, str]:
    """Who asks. The library's own `build_hf_headers` asks the hub a question before it answers."""
    from huggingface_hub import __version__, constants, get_token

    headers = {"accept-encoding": "identity", "user-agent": f"zoo; huggingface_hub/{__version__}"}
    token = None if constants.HF_HUB_DISABLE_IMPLICIT_TOKEN else get_token()
    return headers | ({"authorization": f"Bearer {token}"} if token else {})


def pause(attempt: int, error: ZooError) -> None:
    """Wait before another try, longer each time."""
    _log.info("%s Trying again.", error)
    time.sleep(PAUSE * 2**attempt)


@contextmanager
def _interruptions(url: str) -> Iterator[None]:
    """The client's errors in our words. Which client it is depends on huggingface_hub's version:
    all of them derive their errors from a `RequestError` or an `HTTPError`."""
    try:
        yield
    except ZooError:
        raise
    except zlib.error as error:
        raise Interrupted(f"`{url}` came damaged:", f"{error}.", url=url) from error
    except Exception as error:
        kinds = {kind.__name__ for kind in type(error).__mro__}
        if "OfflineModeIsEnabled" in kinds:
            raise StoreError(
                f"`{url}` was not asked:",
                "HF_HUB_OFFLINE forbids it.",
                "Unset it, or give the model's directory.",
                url=url,
            ) from error
        if not kinds & {"RequestError", "HTTPError", "StreamError", "InvalidURL", "OSError"}:
            raise
        raise Interrupted(
            f"`{url}` cannot be read:",
            f"{_short(str(error)) or type(error).__name__}.",
            "Try again: what has arrived is kept.",
            url=url,
        ) from error


def _unfolded(unfold: Any, chunk: bytes, url: str) -> Iterator[bytes]:
    while chunk:
        made = unfold.decompress(chunk, BLOCK)
        chunk = unfold.unconsumed_tail
        if made:
            yield made
        elif not chunk:
            return


def _check_status(answer: Any, url: str, endpoint: str) -> None:
    status, code = answer.status_code, answer.headers.get("x-error-code", "")
    if status in (200, 206):
        return
    if code == "RevisionNotFound":
        _nowhere(url, "there is no such revision.", "Look at the branches on its page.", code)
    if code == "EntryNotFound":
        _nowhere(url, "there is no such file.", "It was listed; try again.", code)
    if code == "GatedRepo":
        _nowhere(
            url,
            "access to the model is gated.",
            "Ask for it on the model's page, and say who you are: `hf auth login`.",
            code,
        )
    if status in (401, 403, 404):
        _nowhere(
            url,
            f"there is no such model at {endpoint}, or it is private and your token does not "
            f"open it (status {status}).",
            "Check the name; `hf auth login` if it is private.",
            code,
        )
    if status == 416:
        raise InvalidCheckpoint(
            f"`{url}` is shorter than the hub says:", "the range asked for is not there.", url=url
        )
    kind = Interrupted if status == 429 or status >= 500 else StoreError
    raise kind(
        f"`{url}` answered with status {status}:",
        "the hub is busy or broken." if kind is Interrupted else "the request was refused.",
        "Try again later: what has arrived is kept.",
        url=url,
        status=status,
    )


def _nowhere(url: str, why: str, how: str, code: str) -> NoReturn:
    raise NotFound(f"`{url}` cannot be had:", why, how, url=url, code=code)


def _check_commit(answer: Any, commit: str | None, url: str) -> None:
    said = answer.headers.get("x-repo-commit")
    if commit is not None and said is not None and said != commit:
        raise InvalidCheckpoint(
            f"`{url}` is of commit {_short(said)}, and {commit} was asked for:",
            "the model changed while it was read.",
            "Try again.",
            url=url,
        )


def _first_byte(answer: Any, start: int, url: str) -> int:
    """Where the body begins: at `start`, or at 0 where ranges are ignored."""
    if answer.status_code == 200:
        return 0
    said = answer.headers.get("content-range", "")
    first = said.removeprefix("bytes ").partition("-")[0]
    if not first.isdecimal() or int(first[:20]) != start:
        raise Interrupted(
            f"`{url}` answered with the range {_short(said)}:",
            f"byte {start} was asked for.",
            "Try again.",
            url=url,
        )
    return start


def _target(url: str, location: str) -> str:
    try:
        target = urljoin(url, location)
        here, there = urlsplit(url).scheme, urlsplit(target).scheme
    except ValueError:
        target = here = there = ""
    if not location or there not in ("http", "https") or (here, there) == ("https", "http"):
        raise InvalidCheckpoint(
            f"`{url}` redirects to `{_short(location)}`:",
            "only http and https are followed, and never from https to http.",
            url=url,
        )
    return target


def _origin(url: str) -> tuple[str, str, int | None]:
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError:
        port = -1
    return parts.scheme, parts.hostname or "", port or {"http": 80, "https": 443}.get(parts.scheme)


def _next(link: str) -> str | None:
    """The target of a `Link` header's `rel="next"`."""
    for one in link.split(","):
        target, _, about = one.partition(";")
        if 'rel="next"' in about:
            return target.strip().strip("<>")
    return None


def _short(text: str) -> str:
    """Text of strangers, for a message: one line, no control characters."""
    text = ascii(text)[1:-1]
    return text if len(text) <= 120 else text[:117] + "..."
