#!/usr/bin/env bash
# Installs, on Debian or Ubuntu, the system packages that the build needs and the machine lacks; says nothing when all are there.
set -euo pipefail
python=${PYTHON:-python3}

"$python" - <<'EOF' || exit 1
import sys
if sys.version_info < (3, 11):
    sys.exit(f"ortmod needs Python 3.11 or newer: this is {sys.version.split()[0]}; name another one: make PYTHON=python3.x ...")
EOF

missing=()
have() { command -v "$1" >/dev/null 2>&1; }
compiles() { echo "#include <$1>" | g++ -std=c++20 -x c++ -fsyntax-only - >/dev/null 2>&1; }
have g++ || missing+=(g++)
have cmake || missing+=(cmake)
have ninja || missing+=(ninja-build)
have protoc || missing+=(protobuf-compiler)
{ have g++ && compiles google/protobuf/message.h; } || missing+=(libprotobuf-dev)
case $(uname -m) in
  x86_64) { have g++ && compiles xbyak/xbyak.h; } || missing+=(libxbyak-dev) ;;  # without it, pointwise programs are interpreted
esac
"$python" -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv)
"$python" -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))' || missing+=(python3-dev)

if [ ${#missing[@]} -gt 0 ]; then
  echo "installing: ${missing[*]}"
  if ! have apt-get; then
    echo "no apt-get here: install these by hand (names are Debian's): ${missing[*]}" >&2
    exit 1
  fi
  sudo=""
  if [ "$(id -u)" -ne 0 ]; then
    have sudo || { echo "neither root nor sudo: ask for apt-get install ${missing[*]}" >&2; exit 1; }
    sudo=sudo
  fi
  $sudo apt-get -qq update
  $sudo env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "${missing[@]}" >/dev/null
fi

compiles span || { echo "g++ cannot compile C++20 (g++ 11 or newer is needed): $(g++ --version | head -n 1)" >&2; exit 1; }
