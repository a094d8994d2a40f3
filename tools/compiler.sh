#!/bin/sh
# What the tests want of the system beside the set-up: a C++ compiler. CUDA kernels run with it on a machine without a GPU (assay/exact/cuda/fake.py,
# which looks for the same names); without one a tenth of the tests would be skipped.
set -eu
cd "$(dirname "$0")/.."
. tools/system.sh
for name in "${CXX:-}" c++ g++ clang++; do
  if [ -n "$name" ] && command -v "$name" >/dev/null; then exit 0; fi
done
system_packages "a C++ compiler" g++
