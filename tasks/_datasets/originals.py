"""The original files of a set: found in a folder of the user's or downloaded, and checked before they are read."""

import hashlib
import http.client
import os
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tasks._datasets.progress import bar

_CHUNK = 1 << 20


@dataclass(frozen=True)
class Original:
    """An original file.

    Attributes:
        name: Its name, or path in the folder of originals.
        sha256: Its checksum; empty where none is known, and what was made of it is checked instead.
        url: Where it can be downloaded; empty where it can not.
    """

    name: str
    sha256: str = ""
    url: str = ""


def found(source: Path, folders: Sequence[str], files: Sequence[Original]) -> list[Path] | None:
    """The paths of files that all lie in `source`, or all in one of its subfolders that are named; None if not."""
    for folder in (source, *(source / name for name in folders)):
        paths = [folder / file.name for file in files]
        if all(path.is_file() for path in paths):
            return paths
    return None


def check(path: Path, file: Original) -> None:
    """Compare a file with its checksum.

    Raises:
        ValueError: It differs.
    """
    if file.sha256:
        digest = hashlib.sha256()
        with path.open("rb") as opened, bar(f"checking {path.name}", path.stat().st_size, "B") as moving:
            while chunk := opened.read(_CHUNK):
                digest.update(chunk)
                moving.update(len(chunk))
        if digest.hexdigest() != file.sha256:
            raise ValueError(
                f"wrong checksum: {path} has SHA-256 {digest.hexdigest()}, not {file.sha256}; it is damaged, cut short "
                "or another file of that name: fetch it again"
            )


def download(file: Original, folder: Path) -> Path:
    """A file of a folder, downloaded unless it is there; a part that an earlier call left is gone on with.

    Raises:
        ValueError: It can not be downloaded, or what came is not what was expected.
        OSError: It can not be written.
    """
    path = folder / file.name
    if path.exists():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    try:
        _fetch(file.url, part)
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
        why = getattr(error, "reason", None) or error
        raise ValueError(
            f"{file.url} can not be downloaded: {why}; run the command again to go on, or fetch it by other means and "
            "name its folder by --source"
        ) from None
    try:
        check(part, file)
    except ValueError:
        part.unlink()
        raise
    return part.rename(path)


def _fetch(url: str, part: Path) -> None:
    """Download what `part` does not have yet."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=60)
    except urllib.error.HTTPError as error:
        if have and error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:  # it has all there is
            return
        raise
    with response:
        if response.status != http.client.PARTIAL_CONTENT:  # the server begins at the beginning
            have = 0
        length = response.headers.get("Content-Length")
        total = have + int(length) if length else None
        with part.open("ab" if have else "wb") as file, bar(f"downloading {part.stem}", total, "B", have) as moving:
            while chunk := response.read(_CHUNK):
                file.write(chunk)
                moving.update(len(chunk))
            file.flush()
            os.fsync(file.fileno())
        if total is not None and part.stat().st_size < total:
            raise ConnectionError("the connection was lost")
