"""Files from the network: fetched once into the cache folder, whole and checked, or not at all."""

import hashlib
import os
import urllib.error
import urllib.request
import uuid
from http.client import HTTPException, IncompleteRead
from pathlib import Path
from typing import BinaryIO

from jaxft.errors import UserError

TIMEOUT_SECONDS = 30
CHUNK_BYTES = 1 << 20


def cache_folder() -> Path:
    """Where downloads and decoded images are kept: $JAXFT_CACHE, else $XDG_CACHE_HOME/jaxft, else ~/.cache/jaxft."""
    if chosen := os.environ.get("JAXFT_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jaxft"


def fetch(url: str, target: Path, *, sha256: str = "", sha1: str = "", hint: str = "") -> Path:
    """The file at `url`, as `target`; fetched only where `target` is not there. Checksums may be prefixes, in hex.

    Raises:
        UserError: no network, no such file, a broken transfer or a wrong checksum; it says what to fetch, where to put
            it, and ends with `hint`.
    """
    expected = {name: digest.lower() for name, digest in (("sha256", sha256), ("sha1", sha1)) if digest}
    if target.exists():
        # It may have been put there by hand.
        for name, digest in expected.items():
            with target.open("rb") as file:
                found = hashlib.file_digest(file, name).hexdigest()
            if not found.startswith(digest):
                raise UserError(
                    f"{target}: its {name} is {found}, not {digest}. Delete it and run again. {hint}".rstrip()
                )
        return target
    scratch = target.with_name(f".{target.name}-{uuid.uuid4().hex}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with scratch.open("wb") as file:
            digests = download(url, file)
        for name, digest in expected.items():
            if not digests[name].startswith(digest):
                raise UserError(
                    f"{url}: its {name} is {digests[name]}, not {digest}. The file is damaged or another one; it was "
                    f"not kept. {hint}".rstrip()
                )
        scratch.replace(target)
    except (OSError, HTTPException) as error:
        raise UserError(
            f"{url} cannot be fetched ({explain(error)}). Fetch it where there is a network and put it at {target}. "
            f"{hint}".rstrip()
        ) from None
    finally:
        if scratch.parent.is_dir():
            scratch.unlink(missing_ok=True)
    return target


def download(url: str, file: BinaryIO) -> dict[str, str]:
    """Copy what is at `url` into an open file; its checksums by name.

    Raises:
        OSError, HTTPException: the transfer failed or stopped short.
    """
    digests = {"sha256": hashlib.sha256(), "sha1": hashlib.sha1(usedforsecurity=False)}
    request = urllib.request.Request(url, headers={"User-Agent": "jaxft"})
    with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response:
        expected, received = response.headers.get("Content-Length"), 0
        while chunk := response.read(CHUNK_BYTES):
            file.write(chunk)
            received += len(chunk)
            for digest in digests.values():
                digest.update(chunk)
    if expected is not None and received != int(expected):
        raise IncompleteRead(b"", int(expected) - received)
    return {name: digest.hexdigest() for name, digest in digests.items()}


def explain(error: OSError | HTTPException) -> str:
    """What went wrong, in a few words."""
    if isinstance(error, IncompleteRead):
        return f"the transfer stopped {error.expected} bytes short"
    if isinstance(error, urllib.error.HTTPError):
        return f"the server answered {error.code} {error.reason}"
    if isinstance(error, urllib.error.URLError):
        return getattr(error.reason, "strerror", None) or str(error.reason)
    return str(error) or type(error).__name__
