# Sourced by the scripts beside it. `prepare EXTRA` makes the virtual environment and installs
# ".[EXTRA]" where pyproject.toml is newer than the last time. AGENTGW_VENV says where (.venv),
# AGENTGW_PYTHON from which interpreter (the first of 3.11 or newer found).
venv=${AGENTGW_VENV:-.venv}
case $venv in /*) ;; *) venv=$PWD/$venv ;; esac
# Hundreds of processes read the same code: it is compiled once.
unset PYTHONDONTWRITEBYTECODE

find_python() {
    for python in ${AGENTGW_PYTHON:-python3 python3.14 python3.13 python3.12 python3.11}; do
        "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue
        "$python" -c 'import ensurepip, venv' 2>/dev/null && echo "$python" && return
        echo "$python cannot make virtual environments (Debian, Ubuntu: apt install python3-venv)" >&2
    done
    echo "agentgw needs Python 3.11 or newer with its venv module; python3 here is" \
        "$(python3 --version 2>&1 || true). Install one, or name it in AGENTGW_PYTHON." >&2
    return 1
}

prepare() {
    for stamp in "$venv/.installed-dev" "$venv/.installed-$1"; do
        [ -e "$stamp" ] && [ -z "$(find pyproject.toml -newer "$stamp")" ] && return
    done
    python=$(find_python) || exit 1
    echo "installing agentgw[$1] into $venv (once; a minute or so)" >&2
    "$venv/bin/python" -m pip --version >/dev/null 2>&1 || "$python" -m venv "$venv"
    PIP_USER=0 "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -e ".[$1]"
    touch "$venv/.installed-$1"
}
