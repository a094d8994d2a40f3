"""One program on several devices of one owner, with the bits that it has on one."""
