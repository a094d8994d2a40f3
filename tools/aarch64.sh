#!/bin/sh
# Every route of the conformance suite (assay/exact/examination.py) in a Python for aarch64, which QEMU runs on this machine: also what
# choosing a level, compiling and loading do there. Takes about a quarter of an hour. tests/exact/test_aarch64.py takes a few minutes
# and needs no network: it runs only the native code so.
#
#   tools/aarch64.sh [FOLDER]    FOLDER (default .assay/aarch64) gets Python, NumPy, msgspec and the compiled library; used again when it is there
#
# For Debian or Ubuntu, with: apt install gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user-static python3-pip. The packages for
# aarch64 come from the machine's own sources and package index, with apt's state in FOLDER, so the system's stays as it is.
set -eu
cd "$(dirname "$0")/.."
mkdir -p "${1:-.assay/aarch64}"
at=$(cd "${1:-.assay/aarch64}" && pwd)
say() { printf '%s\n' "aarch64: $*" >&2; }
for tool in aarch64-linux-gnu-gcc qemu-aarch64-static apt-get dpkg-deb; do
  command -v "$tool" >/dev/null || { say "there is no $tool; the first comment of tools/aarch64.sh says what to install"; exit 3; }
done

if [ ! -f "$at/ready" ]; then
  mkdir -p "$at/lists/partial" "$at/cache/archives/partial" "$at/debs" "$at/root"
  apt() {
    apt-get -q -o APT::Architecture=arm64 -o APT::Architectures=arm64 -o Dir::State::Lists="$at/lists" -o Dir::Cache="$at/cache" \
      -o Dir::State::status=/dev/null -o APT::Sandbox::User=root "$@" >/dev/null
  }
  apt update || say "some package lists could not be had; going on with the others"
  python=$(apt-cache depends python3-minimal | sed -n 's/.*Depends: \(python3\.[0-9]*\)-minimal$/\1/p')
  (cd "$at/debs" && apt download "$python-minimal" "lib$python-minimal" "lib$python-stdlib" libc6 libgcc-s1 libstdc++6 libexpat1 zlib1g libssl3 libffi8 \
    libbz2-1.0 liblzma5 libuuid1 libsqlite3-0 libcrypt1)
  for package in "$at"/debs/*.deb; do dpkg-deb -x "$package" "$at/root"; done
  "${PYTHON:-python3}" -m pip download -q --no-deps --only-binary=:all: --platform manylinux2014_aarch64 --platform manylinux_2_27_aarch64 \
    --platform manylinux_2_28_aarch64 --python-version "${python#python}" -d "$at/wheels" $(grep -E "^(numpy|msgspec)==" constraints.txt)
  for wheel in "$at"/wheels/*.whl; do "${PYTHON:-python3}" -m zipfile -e "$wheel" "$at/site"; done
  echo "$python" >"$at/ready"
fi

# The compiler is this machine's: a process that QEMU runs may start one that it need not run.
export CC=aarch64-linux-gnu-gcc ASSAY_CACHE="$at" PYTHONPATH="$PWD:$at/site" PYTHONDONTWRITEBYTECODE=1
exec qemu-aarch64-static -L "$at/root" "$at/root/usr/bin/$(cat "$at/ready")" -c '
import platform, sys
from assay.exact import examination
print(platform.machine(), sys.version, flush=True)
bad = 0
for result in examination.examine():
    bad += len(result.failed)
    print(f"{result.route}: {result.checks - len(result.failed)} of {result.checks} checks, {sum(result.seconds.values()):.0f} s", *result.failed, sep="\n  ", flush=True)
sys.exit(bad > 0)
'
