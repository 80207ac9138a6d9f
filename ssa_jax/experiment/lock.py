"""One process at a time in a folder, or in a part: a lock file that names its process and host."""

import json
import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from input_pipeline.files import LOCK, UNFINISHED, process_runs
from ssa_jax.training.distributed import decided, is_main_process

BEAT_SECONDS = 30.0  # between two signs of life, the lock file's time
SILENT_SECONDS = 600.0  # without one after which the lock of another host is taken over


@contextmanager
def in_use(folder: Path, part: str = "", *, beside: str = "") -> Iterator[None]:
    """Hold the lock of a folder; with several processes, the main one holds it.

    The lock of a process of this host that has ended is taken over at once, that of another host
    (or container) once it has shown no sign of life for ten minutes. Folders that were made for the
    lock alone are removed at the end.

    Args:
        folder: made if it does not exist.
        part: end of the lock file's name where several processes may use the folder.
        beside: pattern of the parts that others may use meanwhile; '' for none.

    Raises:
        OSError: another process holds the lock or that of another part, or it cannot be written.
    """
    if not is_main_process():
        decided(str)  # whether the main process takes the lock
        yield
        return
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    path, stop = folder / f"{LOCK}{part}", threading.Event()

    def take() -> str:
        own = _take(path)
        try:
            _refuse_others(path, beside)
        except BaseException:
            _release(path, own)
            raise
        return own

    try:
        own = decided(take)
        beats = threading.Thread(target=_beat, args=(path, stop), daemon=True)
        beats.start()
        try:
            yield
        finally:
            stop.set()
            beats.join()
            _release(path, own)
    finally:
        with suppress(OSError):  # only empty folders are removed
            for place in made:
                place.rmdir()


def _take(path: Path) -> str:
    """Write the lock file, and return what it holds."""
    own = json.dumps(
        {
            "host": socket.gethostname(),
            "process": os.getpid(),
            "processes": _process_space(),
            "since": time.strftime("%Y-%m-%d %H:%M:%S"),
            "key": secrets.token_hex(8),
        }
    )
    for _ in range(3):
        try:
            with path.open("x", encoding="utf-8") as file:
                file.write(own)
            return own
        except FileExistsError:
            _remove_dead(path)
    raise BlockingIOError(_refusal(path, _holder(path)))


def _refuse_others(own: Path, beside: str) -> None:
    """Refuse the locks of other parts of a folder, but for those of processes that have ended.

    As each process writes its own lock before it looks, of two at once one sees the other.
    """
    allowed = set(own.parent.glob(f"{LOCK}{beside}")) if beside else set()
    for path in sorted(own.parent.glob(f"{LOCK}*")):
        if path != own and path not in allowed and UNFINISHED not in path.name:
            _remove_dead(path)


def _remove_dead(path: Path) -> None:
    """Remove the lock of a process that has ended; refuse that of one that runs."""
    aside = path.with_name(f"{path.name}.{secrets.token_hex(8)}{UNFINISHED}")
    try:
        aside.touch()  # its time is by the clock of the disk
        text, silent = path.read_bytes(), aside.stat().st_mtime - path.stat().st_mtime
        holder = _holder(path)
        place = holder.get("host"), holder.get("processes")
        if place == (socket.gethostname(), _process_space()):
            dead = not process_runs(str(holder.get("process")))
        else:
            dead = silent > SILENT_SECONDS
        if not dead:
            raise BlockingIOError(_refusal(path, holder))
        os.replace(path, aside)
        if aside.read_bytes() != text and not path.exists():
            os.replace(aside, path)  # another process was faster: that lock is not dead
            return
        print(f"{path}: left by a process that has ended, taken over", file=sys.stderr, flush=True)
    except FileNotFoundError:
        return  # released in the meantime
    finally:
        aside.unlink(missing_ok=True)


def _holder(path: Path) -> dict[str, Any]:
    """Read who holds a lock; a damaged lock file names nobody."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _refusal(path: Path, holder: dict[str, Any]) -> str:
    host, process, since = (holder.get(name, "?") for name in ("host", "process", "since"))
    return (
        f"{path.parent}: in use by process {process} on host {host} since {since}; wait for it, or "
        f"remove {path} if that process is gone"
    )


def _release(path: Path, own: str) -> None:
    """Remove the lock file if it is ours still."""
    with suppress(OSError):
        if path.read_text(encoding="utf-8") == own:
            path.unlink()


def _beat(path: Path, stop: threading.Event) -> None:
    """Show signs of life until the event."""
    while not stop.wait(BEAT_SECONDS):
        with suppress(OSError):
            os.utime(path)


def _process_space() -> str:
    """Return the name of the space that process numbers belong to: containers have their own."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""
