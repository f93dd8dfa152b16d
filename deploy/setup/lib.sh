# Shared by the setup scripts; sourced, never run. Sets the rules they all follow:
# say on standard error what is done to the machine, and name the remedy when it fails.
# shellcheck shell=bash
set -euo pipefail
umask 022 # what root places here is read by service users

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
checkout=$(cd "$here/../.." && pwd)
build=$checkout/.build

say() { printf 'setup: %s\n' "$*" >&2; }

# die WHAT REMEDY
die() {
    printf 'setup: error: %s\nsetup: remedy: %s\n' "$1" "$2" >&2
    exit 1
}

need_root() {
    [ "$(id -u)" -eq 0 ] || die "$1 needs root" "run it again as root, or with sudo"
}

# hash_of FILE...: one word that changes when any of them does, wherever they are.
hash_of() { sha256sum "$@" | cut -d ' ' -f 1 | sha256sum | cut -d ' ' -f 1; }

# What a usable interpreter must do. ensurepip is missing where a distribution
# splits off its venv package. Prints the real program: a shim on PATH chooses by
# directory, and a venv's python is only as good as the one behind it.
probe='
import ctypes, ensurepip, os, sqlite3, ssl, sys, venv
least, below = (tuple(map(int, each.split("."))) for each in sys.argv[1:3])
if not least <= sys.version_info[:2] < below:
    sys.exit(1)
print(os.path.realpath(getattr(sys, "_base_executable", sys.executable)))
'

# Seconds that a program may take to say its version; on a busy machine it takes a few.
patience=${SETUP_PATIENCE:-20}

# in_time PROGRAM...: run it, but not for longer. Nobody waits for what it leaves behind.
in_time() { timeout --kill-after=1 "$patience" "$@" </dev/null 2>/dev/null 8>&- 9>&-; } # nor with our locks

# runs PROGRAM MINIMUM [BELOW]: print the interpreter behind PROGRAM, or fail if it does not
# really run: a pyenv shim exists on PATH for versions that it then refuses to start, and
# anything may be called python3.
runs() {
    local said found
    # Into a file: through a pipe we would wait for whatever the program leaves behind.
    said=$(mktemp)
    (cd / && in_time "$1" -I -c "$probe" "$2" "${3:-4}") >"$said" || :
    IFS= read -r found <"$said" || :
    rm -f "$said"
    [ -x "$found" ] && printf '%s\n' "$found"
}

# What is installed is unpacked, and nothing of it is run: a source distribution's setup.py
# would be, by root.
pip_rules=(--require-hashes --only-binary :all:)

# The build tools (pip, hatchling) live in a venv of their own, so that neither
# the developers' nor the production venv needs them.
# tools_with PYTHON: print the folder of the tools venv, made if it is not there.
tools_with() {
    local venv=$build/tools stamp
    stamp="$1 $(hash_of "$here/build.lock")"
    if [ "$(cat "$venv/.stamp" 2>/dev/null)" != "$stamp" ]; then
        say "build tools (pip, hatchling) into .build/tools"
        rm -rf "$venv"
        "$1" -I -m venv "$venv" >&2
        quiet "$venv/bin/python" -P -m pip install "${pip_rules[@]}" -r "$here/build.lock"
        printf '%s' "$stamp" >"$venv/.stamp"
    fi
    printf '%s' "$venv"
}

# quiet COMMAND...: its output only if it fails.
quiet() {
    local log
    log=$(mktemp)
    if ! "$@" >"$log" 2>&1; then
        cat "$log" >&2
        rm -f "$log"
        die "failed: $*" "its output is above; for pip, see 'pip config list' for the index and the certificates in use"
    fi
    rm -f "$log"
}

# as_service USER COMMAND...: as a service will run it, without HOME and PYTHON*.
as_service() {
    local user=$1
    shift
    (cd / && env -i PATH=/usr/bin:/bin LANG=C.UTF-8 \
        setpriv --reuid "$user" --regid "$user" --clear-groups --no-new-privs -- "$@")
}

# One setup at a time in a folder: two suites may start together.
# only_one FOLDER
only_one() {
    mkdir -p "$1"
    exec 9>"$1/.lock"
    flock 9
}
