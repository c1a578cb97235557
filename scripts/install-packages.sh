#!/usr/bin/env bash
# Installs the Debian packages that the demo and the tests use; what is there already is left alone.
#
#   sudo scripts/install-packages.sh [interop]
#
# With `interop` also what the tests against foreign programs use; scripts/install-interop.sh calls
# this and then installs the rest. Without root it only says what is missing. Exit status: 0 everything
# is there, 77 something is missing and cannot be installed from here (the last line of standard output
# says why), 1 apt-get failed.
set -euo pipefail

PATH="$PATH:/usr/sbin:/sbin"

# command:package, and what it is for
needs=(
    "c++:g++"              # builds the fuzzer's own library
    "ip:iproute2"          # network namespaces
    "nft:nftables"         # NATs
    "iptables:iptables"    # queues packets to delay them
    "conntrack:conntrack"  # makes NATs forget
    "clang-14:clang-14"    # makes the relay's eBPF program
    "llvm-strip-14:llvm-14"
    "turnserver:coturn"    # the TURN server of others, to compare with
)
if [[ ${1:-} == interop ]]; then
    needs+=(
        "chromium:chromium"       # WebRTC of a browser
        "node:nodejs"             # runs werift, node-datachannel and what drives the browser
        "npm:npm"                 # installs them
        "openssl:openssl"         # DTLS of others
        "python3:python3"         # runs aioice and aiortc
    )
fi

missing=()
# Debian's python3 cannot make virtual environments without another package.
if [[ ${1:-} == interop ]] && ! python3 -c 'import ensurepip' 2>/dev/null; then
    missing+=(python3-venv)
fi
for need in "${needs[@]}"; do
    command -v "${need%%:*}" >/dev/null || missing+=("${need##*:}")
done

if [[ ${#missing[@]} -eq 0 ]]; then
    echo "all packages are installed"
    exit 0
fi
if ! command -v apt-get >/dev/null; then
    echo "there is no apt-get here; install ${missing[*]} with your own package manager"
    exit 77
fi
if [[ $(id -u) -ne 0 ]]; then
    echo "not root; run: sudo apt-get install ${missing[*]}"
    exit 77
fi

# Packages must not start their servers: the tests start what they need themselves.
policy=/usr/sbin/policy-rc.d
if [[ ! -e $policy ]]; then
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod +x "$policy"
    trap 'rm -f "$policy"' EXIT
fi

export DEBIAN_FRONTEND=noninteractive
{
    apt-get update
    apt-get install --yes --no-install-recommends "${missing[@]}"
} >&2
echo "installed ${missing[*]}"
