from __future__ import annotations

import difflib
import errno
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

REMEDY = "remedy"
"""Attribute of an exception that tells how to go on, where that depends on where it was met."""
_OUT_OF_MEMORY = re.compile(r"OutOfMemoryError:|DefaultCPUAllocator: |bad_alloc|Cannot allocate memory|malloc of size")


class UserError(Exception):
    """A mistake that a user can fix.

    The message is one line: what was given, what was expected, what to do. Recipes print it without a traceback
    and exit with code 2.

    Args:
        message: That line.
        details: Lines that a recipe prints before it, such as every place where a fault was found.
    """

    def __init__(self, message: str, details: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.details = tuple(details)


class Terminated(KeyboardInterrupt):
    """SIGTERM, which ends a recipe as Ctrl-C does."""


def nearest(name: str, candidates: Iterable[str]) -> str:
    """Return `; did you mean X?` for the candidate closest to `name`, or an empty string.

    A candidate that differs by a blank or case alone is quoted, so that the difference shows.
    """
    known = list(candidates)
    alike = [candidate for candidate in known if fold_name(candidate) == fold_name(name)]
    if alike:
        return f"; did you mean {alike[0]!r}?"
    match = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"; did you mean {match[0]}?" if match else ""


def fold_name(name: str) -> str:
    """Return a name without its case and surrounding blanks."""
    return name.strip().casefold()


def run_recipe(main: Callable[[], None]) -> None:
    """Call a recipe's `main` and turn what a user can fix into one line on stderr and exit code 2.

    That is a `UserError`, and what the system, the memory or a broken file refuses, whichever library meets it first;
    with STARTUP_LLM_TRACEBACK=1 the latter keep their traceback. Anything else is a fault of this package: it shows
    its traceback, and says so. SIGTERM ends a recipe as Ctrl-C does, so that it leaves no lock and no temporary file.
    """
    folder = os.path.dirname(os.path.abspath(sys.argv[0]))  # recipes/evaluate.py would hide the package evaluate
    sys.path[:] = [path for path in sys.path if os.path.abspath(path) != folder]
    try:
        with _interrupt_at_sigterm():
            main()
    except UserError as error:
        sys.exit(_report(str(error), error.details))
    except KeyboardInterrupt as error:
        if os.environ.get("RANK", "0") == "0":
            _report("; ".join(["stopped by a signal", *filter(None, [getattr(error, REMEDY, None)])]))
        sys.exit(143 if isinstance(error, Terminated) else 130)
    except Exception as error:
        message = None if os.environ.get("STARTUP_LLM_TRACEBACK") == "1" else explain(error)
        if message is None:
            if hasattr(error, "add_note"):  # Python 3.11 and later
                error.add_note("This is a fault of startup-llm: report it as a bug, with the text above.")
            raise
        remedy = getattr(error, REMEDY, None)
        sys.exit(_report(f"{message}; {remedy}" if remedy else message))


def explain(error: BaseException) -> str | None:
    """Return in one line what the system, the memory or a broken file refused; None for any other error."""
    chain = [error]
    while (link := chain[-1].__cause__ or chain[-1].__context__) is not None and link not in chain:
        chain.append(link)
    full = os.strerror(errno.ENOSPC)
    for cause in chain:  # writers outside Python say it in words alone
        if getattr(cause, "errno", None) == errno.ENOSPC or full in str(cause):
            place = getattr(cause, "filename", None) or "while writing"
            return f"no space left on the disk ({place}); free some space"
        if isinstance(cause, MemoryError) or _OUT_OF_MEMORY.search(f"{type(cause).__name__}: {cause}"):
            return "the memory is used up; take fewer rows, shorter texts, smaller batches or a smaller model"
    if isinstance(error, BrokenPipeError):
        return "what read the output has ended before it was complete"
    if isinstance(error, OSError):
        place = f"{error.filename}: " if error.filename is not None else ""
        return f"{place}{explain_os_error(error)}"
    if isinstance(error, RecursionError):
        return "something that was read is nested too deeply; look for very many brackets in your files"
    if isinstance(error, UnicodeDecodeError):
        byte = error.object[error.start] if error.start < len(error.object) else 0
        return f"a file is not {error.encoding} text (byte 0x{byte:02x} at {error.start:,}); save it as UTF-8"
    if isinstance(error, UnicodeEncodeError):
        letter = ascii(error.object[error.start : error.start + 1])
        return f"{letter} cannot be written as {error.encoding}; remove it, or set PYTHONIOENCODING=utf-8"
    if isinstance(error, EOFError) or type(error).__name__ in ("BadZipFile", "LZMAError") or _is_zlib_error(error):
        return f"a compressed file is broken or cut short ({' '.join(str(error).split())[:200]}); copy it again"
    return None


def explain_os_error(error: BaseException) -> str:
    """Return what an error of the file system means, and what to do."""
    code = getattr(error, "errno", None)
    advice = {
        errno.ENOENT: "there is no such file; check its name",
        errno.EACCES: "permission denied; give yourself the right, or use another folder",
        errno.EPERM: "the system does not permit it; use another folder",
        errno.ELOOP: "a symbolic link leads back to itself; remove it, or name the file itself",
        errno.ENAMETOOLONG: "the name is too long; use a shorter one",
        errno.ENOTDIR: "a part of the path is a file, not a folder; check the path",
        errno.EISDIR: "it is a folder, expected a file",
        errno.EROFS: "the file system can only be read; use another folder",
        errno.ENOSPC: "no space is left on the disk; free some",
        errno.EDQUOT: "your quota of the disk is used up; free some space",
        errno.EFBIG: "the file would be larger than is allowed here; raise the limit (ulimit -f)",
        errno.EMFILE: "too many files are open; raise the limit (ulimit -n)",
        errno.ENFILE: "too many files are open on this machine; close some programs",
        errno.ENXIO: "nothing is at the other end of it; name a plain file",
        errno.ESTALE: "the network file system lost it; try again",
        errno.EIO: "the disk fails to read or write it; check the disk",
    }
    if code in advice:
        return advice[code]
    text = getattr(error, "strerror", None) or str(error)
    return " ".join(str(text).split())[:300] or type(error).__name__


@contextmanager
def _interrupt_at_sigterm() -> Iterator[None]:
    """Let SIGTERM raise `Terminated` in this process; forked workers end by it as they do elsewhere."""
    process = os.getpid()

    def interrupt(number: int, _: object) -> None:
        if os.getpid() == process:
            raise Terminated
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _is_zlib_error(error: BaseException) -> bool:
    return type(error).__module__ == "zlib" and type(error).__name__ == "error"


def _report(message: str, details: Iterable[str] = ()) -> int:
    if "tqdm" in sys.modules:  # a bar that closes later would stand below the message
        for bar in list(sys.modules["tqdm"].tqdm._instances):
            bar.close()
    for detail in details:
        sys.stderr.write(f"  {' '.join(detail.split())}\n")
    sys.stderr.write(f"error: {' '.join(message.split())}\n")
    return 2
