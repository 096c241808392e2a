# shellcheck shell=bash
# Sourced by install/demo, tests/run and bench/add_del: brings a fresh Debian 12 to where they can run.
# Works without a network once everything is there. Expects ROOT to be the top of the checkout.

VENV="$ROOT/.venv"
PYTHON=/usr/bin/python3 # Debian's own: a pyenv shim may come first in PATH

fail() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

require_root() {
    ((EUID == 0)) || fail "network namespaces need root; run: sudo $0"
}

# require_packages PACKAGE...: install those Debian packages that are missing.
require_packages() {
    local -a missing=()
    local package
    command -v dpkg-query >/dev/null || fail "this machine is no Debian (no dpkg-query); Debian 12 is what is supported"
    for package in "$@"; do
        [[ "$(dpkg-query --show --showformat='${db:Status-Status}' "$package" 2>/dev/null)" == installed ]] ||
            missing+=("$package")
    done
    ((${#missing[@]})) || return 0
    printf 'installing Debian packages: %s\n' "${missing[*]}"
    apt_quietly update || fail "apt-get update failed; check the network and /etc/apt/sources.list, then run this again"
    apt_quietly install --yes --no-install-recommends "${missing[@]}" ||
        fail "apt-get could not install ${missing[*]}; check the network and /etc/apt/sources.list, then run this again"
}

# Run apt-get; show its last words only if it fails.
apt_quietly() {
    local said
    said="$(DEBIAN_FRONTEND=noninteractive apt-get --quiet -o DPkg::Lock::Timeout=120 "$@" 2>&1 </dev/null)" && return
    tail -n 5 <<<"$said" >&2
    return 1
}

# require_venv SPEC: make or update .venv with the project (SPEC is "." or ".[EXTRA]") when pyproject.toml has changed.
require_venv() {
    local stamp="$VENV/.installed${1//[^a-z]/}"
    (
        flock 9 # two commands may be started at once
        venv_fits || make_venv
        project_installed "$stamp" || install_project "$1" "$stamp"
    ) 9<"$ROOT"
}

venv_fits() {
    [[ -x "$VENV/bin/python" ]] && grep -qx 'home = /usr/bin' "$VENV/pyvenv.cfg" &&
        grep -q "^command = .* $VENV\$" "$VENV/pyvenv.cfg" && "$VENV/bin/python" -c "import pip" 2>/dev/null
}

make_venv() {
    "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || fail "$PYTHON is too old: Python 3.11 is needed"
    printf 'making the virtual environment %s\n' "$VENV"
    "$PYTHON" -m venv --clear "$VENV" || fail "$PYTHON -m venv failed; is there room in $ROOT?"
}

project_installed() {
    [[ "$(cat "$1" 2>/dev/null)" == "$(sha256sum <"$ROOT/pyproject.toml")" ]]
}

install_project() {
    local project
    project="$(sha256sum <"$ROOT/pyproject.toml")"
    printf 'installing the project and its Python packages into %s\n' "$VENV"
    (cd "$ROOT" && "$VENV/bin/python" -m pip install --quiet --editable "$1") ||
        fail "pip failed; check the connection to PyPI (or PIP_INDEX_URL), then run this again"
    printf '%s\n' "$project" | tee "$VENV/.installed" >"$2" # every extra comes with the project itself
}
