"""What is shipped to a target at the start of a session: the agent's files, and the line that takes them in."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

#: Reads the agent's files from its input into a private folder and runs them under the guard.
#: Standard library only, no quotes that a shell would see, and never a word that depends on a file.
BOOTSTRAP = """
import sys
sys.path[:] = [p for p in sys.path if p]
sys.dont_write_bytecode = True
import json, os, re, shutil, struct, tempfile
def read(n):
    data = b""
    while len(data) < n:
        more = os.read(0, n - len(data))
        if not more:
            sys.exit(1)
        data += more
    return data
os.umask(63)
length, kind = struct.unpack(">IB", read(5))
if kind != 74 or length > 1 << 20:
    sys.exit(1)
files = json.loads(read(length).decode())["files"]
where = tempfile.gettempdir()
owner = os.stat(where)
if owner.st_uid not in (0, os.getuid()) or owner.st_mode & 0o1002 == 2:
    sys.exit(where + " belongs to somebody else, or lets anybody replace what lies there: set TMPDIR")
folder = tempfile.mkdtemp(prefix="qaedge-")
try:
    for name, text in files.items():
        if not re.fullmatch("[a-z_]+[.]py", name):
            sys.exit(1)
        try:
            with open(os.path.join(folder, name), "wb") as file:
                file.write(text.encode())
        except OSError as error:
            size = sum(map(len, files.values()))
            sys.exit("%s in %s, %d bytes needed" % (error.strerror, folder, size))
    sys.path.insert(0, folder)
    import agent, guard
    status = guard.run(agent.main, folder)
finally:
    shutil.rmtree(folder, ignore_errors=True)
sys.exit(status)
"""


def profilers_folder() -> Path:
    """Return the folder with the agent's files: in the package, or beside it in a checkout."""
    package = Path(str(files("qaedge")))
    inside = package / "profilers"
    return inside if inside.is_dir() else package.parent / "profilers"


def agent_files(folder: Path | None = None) -> dict[str, str]:
    """Return name and text of each of the agent's files; `folder` holds others than the package's."""
    return {path.name: path.read_text("utf-8") for path in sorted((folder or profilers_folder()).glob("*.py"))}
