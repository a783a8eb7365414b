from __future__ import annotations

import difflib
import errno
import os
import sys
from collections.abc import Callable, Iterable


class UserError(Exception):
    """A mistake that the person at the keyboard can mend.

    The message is one line: what was given, what was expected, what to do. Recipes print it without a traceback
    and exit with code 2.
    """


def nearest(name: str, candidates: Iterable[str]) -> str:
    """Return `; did you mean X?` for the candidate closest to `name`, or an empty string."""
    match = difflib.get_close_matches(name, list(candidates), n=1, cutoff=0.6)
    return f"; did you mean {match[0]}?" if match else ""


def run_recipe(main: Callable[[], None]) -> None:
    """Call a recipe's `main` and turn a `UserError` into one line on stderr and exit code 2.

    A full disk is a user's matter too, whichever library meets it first.
    """
    folder = os.path.dirname(os.path.abspath(sys.argv[0]))  # recipes/evaluate.py would hide the package evaluate
    sys.path[:] = [path for path in sys.path if os.path.abspath(path) != folder]
    try:
        main()
    except UserError as error:
        sys.exit(_report(str(error)))
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        if not _is_disk_full(error):
            raise
        place = getattr(error, "filename", None) or "while writing"
        sys.exit(_report(f"no space left on the disk ({place}); free some space, then go on with --resume"))


def _is_disk_full(error: BaseException | None) -> bool:
    """Look through an error and its causes; writers outside Python tell it in words alone."""
    while error is not None:
        if getattr(error, "errno", None) == errno.ENOSPC or os.strerror(errno.ENOSPC) in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def _report(message: str) -> int:
    if "tqdm" in sys.modules:  # a bar that closes later would stand below the message
        for bar in list(sys.modules["tqdm"].tqdm._instances):
            bar.close()
    one_line = " ".join(message.split())
    sys.stderr.write(f"error: {one_line}\n")
    return 2
