#!/bin/sh
# Make a virtual environment with pip, also where Debian's python3-venv is not installed.
# Usage: make_venv.sh PYTHON FOLDER
set -eu
python=$1
venv=$2

if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "mbv3c needs Python 3.11 or newer; $python is $("$python" --version 2>&1)." >&2
    echo "Name another one: make PYTHON=python3.12 compile" >&2
    exit 1
fi
if "$python" -m venv --clear "$venv" >/dev/null 2>&1; then
    exit 0
fi

# Debian and Ubuntu keep pip for new environments in python3-pip-whl, which comes with
# python3-venv. Fetch that one package without root and let its pip install itself.
if ! command -v apt-get >/dev/null; then
    echo "$python cannot make a virtual environment with pip; install your system's" >&2
    echo "package for Python's venv and ensurepip, then run make again." >&2
    exit 1
fi
echo "python3-venv is not installed; fetching pip from this system's package source"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
mkdir -p "$scratch/lists/partial" "$scratch/cache/archives/partial"
apt() {
    apt-get -q -o Dir::State::lists="$scratch/lists" -o Dir::Cache="$scratch/cache" \
        -o APT::Sandbox::User="$(id -un)" "$@" >"$scratch/log" 2>&1 || {
        cat "$scratch/log" >&2
        echo "fetching pip failed; install python3-venv, then run make again." >&2
        exit 1
    }
}
apt update
(cd "$scratch" && apt download python3-pip-whl)
dpkg-deb -x "$scratch"/python3-pip-whl_*.deb "$scratch/root"
"$python" -m venv --clear --without-pip "$venv"
wheel=$(ls "$scratch"/root/usr/share/python-wheels/pip-*.whl)
PYTHONPATH=$wheel "$venv/bin/python" -m pip install --quiet --no-index "$wheel"
