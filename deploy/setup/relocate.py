"""Copy the interpreter that runs this to a folder of root's, and print the copy's path.

Service users cannot run an interpreter under a private home, and a venv only
points to it. The copy leaves out what is not needed to run (tests, GUI, other
people's site-packages). Standard library only: it runs before anything is
installed.
"""

import os
import shutil
import sys
import sysconfig
from pathlib import Path

_NOT_NEEDED = shutil.ignore_patterns(
    "__pycache__",
    "*.a",
    "test",
    "tests",
    "idlelib",
    "tkinter",
    "turtledemo",
    "site-packages",
)


def main(target: Path) -> Path:
    """Copy to `target`, which must not exist, and return the copy's program."""
    prefix = Path(sys.base_prefix)
    program = Path(os.path.realpath(sys.executable))
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    copied = target / "bin" / version
    copied.parent.mkdir(parents=True)
    shutil.copytree(prefix / "lib" / version, target / "lib" / version, ignore=_NOT_NEEDED)
    (target / "lib" / version / "site-packages").mkdir()
    for library in (prefix / "lib").glob("libpython*.so*"):
        shutil.copy2(library, target / "lib" / library.name, follow_symlinks=False)
    shutil.copy2(program, copied)
    _find_library_beside(copied, prefix)
    (copied.parent / "python3").symlink_to(version)
    _open_to_everybody(target)
    return copied


def _find_library_beside(program: Path, prefix: Path) -> None:
    """Let the program look for libpython in its own prefix.

    A shared build (pyenv's default on some machines) carries the absolute path
    of the old prefix, which a service user may not search. The new path is
    shorter than any prefix of a home folder, so it is written over the old one
    in place; `place` runs the result as a service user.
    """
    if not sysconfig.get_config_var("Py_ENABLE_SHARED"):
        return
    old, new = os.fsencode(prefix / "lib") + b"\0", b"$ORIGIN/../lib\0"
    content = program.read_bytes()
    if old in content and len(new) <= len(old):
        program.write_bytes(content.replace(old, new.ljust(len(old), b"\0")))


def _open_to_everybody(folder: Path) -> None:
    """Root owns all of it, everybody may read, nobody else may write."""
    for path in (folder, *folder.rglob("*")):
        os.chown(path, 0, 0, follow_symlinks=False)
        if not path.is_symlink():
            executable = path.is_dir() or path.stat().st_mode & 0o100
            path.chmod(0o755 if executable else 0o644)


if __name__ == "__main__":
    sys.stdout.write(f"{main(Path(sys.argv[1]))}\n")
