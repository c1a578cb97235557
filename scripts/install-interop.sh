#!/usr/bin/env bash
# Installs the foreign programs that Tombolo is tested against: browsers and ICE agents of others.
#
#   sudo scripts/install-interop.sh [FOLDER]
#
# Debian's packages go into the system; what comes from PyPI and npm goes into FOLDER (default:
# interop in cargo's target folder). What is there already is left alone. Exit status: 0 everything is
# there, 77 something is missing and cannot be installed from here (the last line of standard output
# says why).
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
folder=${1:-${CARGO_TARGET_DIR:-target}/interop}
pinned=crates/tombolo/tests/interop

bash scripts/install-packages.sh interop || exit $?

give_up() {
    echo "$1"
    exit 77
}

mkdir -p "$folder"
# A stamp says what was installed, so that a changed pin is installed anew.
stamp=$(cat "$pinned/package-lock.json" "$pinned/requirements.txt" | sha256sum)
if [[ $(cat "$folder/stamp" 2>/dev/null) == "$stamp" ]]; then
    echo "all foreign programs are installed"
    exit 0
fi
cp "$pinned/package.json" "$pinned/package-lock.json" "$folder"
npm ci --prefix "$folder" --no-audit --no-fund >&2 || give_up "npm cannot install its packages"
python3 -m venv "$folder/venv" >&2 || give_up "python3 cannot make a virtual environment"
"$folder/venv/bin/pip" install --quiet --requirement "$pinned/requirements.txt" >&2 ||
    give_up "pip cannot install its packages"
echo "$stamp" >"$folder/stamp"
echo "installed the foreign programs in $folder"
