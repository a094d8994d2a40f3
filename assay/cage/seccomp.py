"""Seccomp: which of the system's calls a process may make (seccomp(2); BPF as in bpf(4) of the BSDs, linux/filter.h).

Denied are those by which one reaches another process, the network or the system itself; whatever is newer than the table is said not to
exist. Denied calls fail with EPERM instead of ending the process, so that an engine can say what it was refused.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct

from assay.cage.libc import NotConfined, machine, syscall

AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
SECCOMP = {"x86_64": 317, "aarch64": 277}
SET_MODE_FILTER, TSYNC = 1, 1
LAST = 450
"""The last call that is known here (set_mempolicy_home_node, Linux 5.17)."""
CLONE_THREAD = 0x10000
TIOCSTI, TIOCLINUX = 0x5412, 0x541C
"""Put characters into the terminal that standard error may be."""

DENIED = {  # name: (x86_64, aarch64)
    "socket": (41, 198), "socketpair": (53, 199), "bind": (49, 200), "listen": (50, 201), "accept": (43, 202), "accept4": (288, 242),
    "connect": (42, 203),
    "execve": (59, 221), "execveat": (322, 281), "fork": (57, None), "vfork": (58, None),
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "process_madvise": (440, 440),
    "process_mrelease": (448, 448), "kcmp": (312, 272), "move_pages": (279, 239), "migrate_pages": (256, 238),
    "tkill": (200, 130), "rt_sigqueueinfo": (129, 138), "rt_tgsigqueueinfo": (297, 240), "pidfd_open": (434, 434),
    "pidfd_send_signal": (424, 424), "pidfd_getfd": (438, 438),
    "setpriority": (141, 140), "sched_setscheduler": (144, 119), "sched_setparam": (142, 118), "sched_setattr": (314, 274),
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51), "unshare": (272, 97), "setns": (308, 268),
    "mount_setattr": (442, 442), "open_tree": (428, 428), "move_mount": (429, 429), "fsopen": (430, 430), "fsconfig": (431, 431),
    "fsmount": (432, 432), "fspick": (433, 433),
    "chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53), "chown": (92, None), "fchown": (93, 55), "lchown": (94, None),
    "fchownat": (260, 54), "setxattr": (188, 5), "lsetxattr": (189, 6), "fsetxattr": (190, 7), "removexattr": (197, 14),
    "lremovexattr": (198, 15), "fremovexattr": (199, 16), "utime": (132, None), "utimes": (235, None), "futimesat": (261, None),
    "utimensat": (280, 88), "mknod": (133, None), "mknodat": (259, 33), "open_by_handle_at": (304, 265), "name_to_handle_at": (303, 264),
    "fanotify_init": (300, 262), "quotactl": (179, 60), "quotactl_fd": (443, 443), "acct": (163, 89), "lookup_dcookie": (212, 18),
    "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282), "keyctl": (250, 219), "add_key": (248, 217),
    "request_key": (249, 218), "io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427),
    "shmget": (29, 194), "shmat": (30, 196), "msgget": (68, 186), "semget": (64, 190), "mq_open": (240, 180),
    "init_module": (175, 105), "finit_module": (313, 273), "delete_module": (176, 106), "kexec_load": (246, 104), "kexec_file_load": (320, 294),
    "reboot": (169, 142), "swapon": (167, 224), "swapoff": (168, 225), "syslog": (103, 116), "settimeofday": (164, 170),
    "clock_settime": (227, 112), "adjtimex": (159, 171), "clock_adjtime": (305, 266), "sethostname": (170, 161), "setdomainname": (171, 162),
    "personality": (135, 92), "vhangup": (153, 58), "iopl": (172, None), "ioperm": (173, None), "modify_ldt": (154, None),
}  # fmt: skip
CLONE3 = 435
CLONE, KILL = {"x86_64": 56, "aarch64": 220}, {"x86_64": 62, "aarch64": 129}
PRLIMIT, IOCTL = {"x86_64": 302, "aarch64": 261}, {"x86_64": 16, "aarch64": 29}

LOAD, EQUAL, ABOVE, ANY_BIT, RETURN = 0x20, 0x15, 0x25, 0x45, 0x06
"""BPF: load an absolute word; jump if equal, greater, any bit set; return."""
NUMBER, ARCHITECTURE, FIRST, SECOND = 0, 4, 16, 24
"""Offsets in seccomp_data: the call, and the lower words of its first arguments (little-endian)."""
ALLOW, REFUSE, KILL_PROCESS = 0x7FFF0000, 0x00050000, 0x80000000


def _op(code: int, k: int, yes: int = 0, no: int = 0) -> bytes:
    return struct.pack("<HBBI", code, yes, no, k & 0xFFFFFFFF)


def program(arch: str, pid: int) -> bytes:
    """The filter, 8 bytes an instruction, for a process with this id."""
    deny, column = REFUSE | errno.EPERM, ("x86_64", "aarch64").index(arch)
    ops = [_op(LOAD, ARCHITECTURE), _op(EQUAL, AUDIT_ARCH[arch], 1, 0), _op(RETURN, KILL_PROCESS), _op(LOAD, NUMBER)]
    ops += [_op(ABOVE, LAST, 0, 1), _op(RETURN, REFUSE | errno.ENOSYS)]  # x32's calls are above it, too
    ops += [_op(EQUAL, CLONE3, 0, 1), _op(RETURN, REFUSE | errno.ENOSYS)]  # its flags lie in memory; the C library then takes clone
    for numbers in DENIED.values():
        if (number := numbers[column]) is not None:
            ops += [_op(EQUAL, number, 0, 1), _op(RETURN, deny)]
    # Threads, but no processes; signals, limits: its own only.
    refused, allowed = _op(RETURN, deny), _op(RETURN, ALLOW)
    ops += [_op(EQUAL, CLONE[arch], 0, 4), _op(LOAD, FIRST), _op(ANY_BIT, CLONE_THREAD, 1, 0), refused, allowed]
    ops += [_op(EQUAL, KILL[arch], 0, 4), _op(LOAD, FIRST), _op(EQUAL, pid, 1, 0), refused, allowed]
    ops += [_op(EQUAL, PRLIMIT[arch], 0, 5), _op(LOAD, FIRST), _op(EQUAL, 0, 2, 0), _op(EQUAL, pid, 1, 0), refused, allowed]
    ops += [_op(EQUAL, IOCTL[arch], 0, 5), _op(LOAD, SECOND), _op(EQUAL, TIOCSTI, 1, 0), _op(EQUAL, TIOCLINUX, 0, 1), refused, allowed]
    return b"".join([*ops, allowed])


def restrict() -> None:
    """For all threads of this process, for ever. Raises NotConfined."""
    arch = machine()
    code = program(arch, os.getpid())
    held = ctypes.create_string_buffer(code, len(code))
    header = struct.pack("<HxxxxxxQ", len(code) // 8, ctypes.addressof(held))  # struct sock_fprog
    given = ctypes.create_string_buffer(header, len(header))
    if syscall("seccomp", SECCOMP[arch], SET_MODE_FILTER, TSYNC, ctypes.addressof(given)) != 0:
        raise NotConfined("seccomp: a thread of this process cannot be brought along")
