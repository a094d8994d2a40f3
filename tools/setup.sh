#!/bin/sh
# Makes .venv with everything that the demo and the tests need. Safe to run as often as you like: when nothing that it depends on has
# changed, it ends in a few milliseconds.
#
#   1. what pip cannot bring: a C compiler, and the headers of Python and GMP (one dependency of libp2p is built from source, and so
#      are our own kernels). As root on Debian or Ubuntu they are installed; otherwise the one command to type is printed.
#   2. the Python packages, at the versions of constraints.txt. Without an NVIDIA GPU torch is PyTorch's CPU build: the default
#      build for Linux brings gigabytes of CUDA libraries that nothing here would use.
#   3. our native library, built now so that no first run waits for the compiler.
#
# Variables: PYTHON (the interpreter to start from, default python3), VENV (default .venv), EXTRAS (default train,finetune,data,dev).
set -eu
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
VENV=${VENV:-.venv}
EXTRAS=${EXTRAS:-train,finetune,data,dev}
TORCH_CPU_INDEX=https://download.pytorch.org/whl/cpu # documented at pytorch.org/get-started

. tools/system.sh

stamp="$VENV/.setup"
want=$({ cat pyproject.toml constraints.txt tools/setup.sh; echo "$EXTRAS $(pwd)"; } | sha256sum | cut -c1-64)
build_native() { "$VENV/bin/python" -m assay.exact.native.build >/dev/null; }
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$want" ]; then
  build_native
  exit 0
fi

command -v "$PYTHON" >/dev/null || die "there is no '$PYTHON'. Install Python 3.11 or later, or name one: make setup PYTHON=/path/to/python3"
"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || die "$("$PYTHON" --version) is too old: Python 3.11 or later is needed. Name one: make setup PYTHON=python3.11"

# What pip cannot bring. Each is tried by use, since it may have come from anywhere (Homebrew, conda, Nix).
lacks=
command -v cc >/dev/null || command -v gcc >/dev/null || lacks="$lacks gcc"
header() { printf '#include <%s>\n' "$1" | cc -E -x c - -I"$("$PYTHON" -c 'import sysconfig; print(sysconfig.get_path("include"))')" >/dev/null 2>&1; }
if [ -n "$lacks" ] || ! header stdlib.h; then lacks="gcc libc6-dev"; fi
if [ -n "$lacks" ] || ! header gmp.h; then lacks="$lacks libgmp-dev"; fi
if [ -n "$lacks" ] || ! header Python.h; then lacks="$lacks python3-dev"; fi
"$PYTHON" -c 'import ensurepip' 2>/dev/null || lacks="$lacks python3-venv"
[ -z "$lacks" ] || system_packages "a C compiler and the headers of GMP and Python" $lacks

[ -x "$VENV/bin/python" ] || "$PYTHON" -m venv "$VENV"
pip="$VENV/bin/python -m pip --disable-pip-version-check -qq"
export PIP_CONSTRAINT="$(pwd)/constraints.txt" # the environment variable also reaches the builds of source packages

if [ "$(uname -s)" = Linux ] && ! nvidia-smi -L >/dev/null 2>&1; then
  # An exact +cpu is either there or refused at once; nothing large is downloaded to find out.
  torch=$(sed -n 's/^torch==/torch==/p' constraints.txt)+cpu
  if $pip install --dry-run --no-deps --ignore-installed "$torch" >/dev/null 2>&1; then cpu_index=; else cpu_index="--extra-index-url $TORCH_CPU_INDEX"; fi
  say "no NVIDIA GPU seen: installing PyTorch's CPU build ($torch)"
  $pip install $cpu_index "$torch" || die "PyTorch's CPU build could not be had. If $TORCH_CPU_INDEX cannot be reached from here, put its wheel into a folder and set PIP_FIND_LINKS to that folder"
fi
say "installing the Python packages (a minute or two, once)"
$pip install -e ".[$EXTRAS]" || die "pip failed: the lines above say why. Running the same command again goes on where it stopped"
build_native || die "the native library could not be built: '$VENV/bin/python -m assay.exact.native.build' says why"
printf '%s\n' "$want" >"$stamp"
say "done"
