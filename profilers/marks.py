"""Where a board's lock and lease lie: one place for the whole machine, whoever asks and whatever he calls it."""

import os
import stat
import tempfile


def place(name: str, folder: str = "") -> str:
    """Return the path of a mark: in `folder`, else where `QAEDGE_LOCKS` says, else in a folder that is everybody's.

    Not where TMPDIR says: users may each have their own, and would not meet.
    """
    chosen = folder or os.environ.get("QAEDGE_LOCKS", "")
    for common in ("/run/lock", "/tmp"):
        if not chosen and _is_common(common):
            chosen = common
    return os.path.join(chosen or tempfile.gettempdir(), name)


def _is_common(folder: str) -> bool:
    try:
        mode = os.stat(folder).st_mode
    except OSError:
        return False
    everybody = stat.S_IWOTH | stat.S_ISVTX  # where others' files cannot be taken away
    return stat.S_ISDIR(mode) and mode & everybody == everybody and os.access(folder, os.W_OK)
