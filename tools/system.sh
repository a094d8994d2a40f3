# For the scripts of this folder: what they say, and packages of the system. As root on Debian or Ubuntu these are installed; otherwise the
# one command to type is printed.

say() { printf '%s\n' "setup: $*"; }
die() { printf '%s\n' "setup: $*" >&2; exit 3; }

# system_packages WHAT NAME...: what they are in words, and their Debian names.
system_packages() {
  what=$1
  shift
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    say "installing $* with apt"
    export DEBIAN_FRONTEND=noninteractive
    { apt-get update -q && apt-get install -y -q --no-install-recommends "$@"; } >"${TMPDIR:-/tmp}/assay-apt.$$" 2>&1 || {
      tail -n 5 "${TMPDIR:-/tmp}/assay-apt.$$" >&2
      die "apt could not install $*"
    }
    rm -f "${TMPDIR:-/tmp}/assay-apt.$$"
  elif command -v apt-get >/dev/null; then
    die "a few system packages are missing. Type this, then run the same command again: sudo apt-get install -y $*"
  else
    die "missing (by their Debian names): $*. Install $what, then run the same command again"
  fi
}
