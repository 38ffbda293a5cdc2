"""A system call filter for untrusted code, as the BPF program that `bwrap --seccomp FD` takes.

Everything that a Python program needs is allowed. Calls that reach kernel internals are refused: mounts, namespaces,
other processes' memory, keys, kernel modules, tracing, and memory that no limit accounts for.
"""

from __future__ import annotations

import errno
import platform
import struct

from accelerator_autopilot.inference.errors import NotConfiguredError

# Name: number on x86_64, number on aarch64; None where there is none. From the kernel's syscall tables.
DENIED: dict[str, tuple[int | None, int | None]] = {
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51), "open_tree": (428, 428),
    "move_mount": (429, 429), "fsopen": (430, 430), "fsconfig": (431, 431), "fsmount": (432, 432),
    "fspick": (433, 433), "mount_setattr": (442, 442), "statmount": (457, 457), "listmount": (458, 458),
    "unshare": (272, 97), "setns": (308, 268), "ptrace": (101, 117), "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271), "process_madvise": (440, 440), "process_mrelease": (448, 448),
    "pidfd_getfd": (438, 438), "kcmp": (312, 272), "keyctl": (250, 219), "add_key": (248, 217),
    "request_key": (249, 218), "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427),
    "kexec_load": (246, 104), "kexec_file_load": (320, 294), "init_module": (175, 105), "finit_module": (313, 273),
    "delete_module": (176, 106), "create_module": (174, None), "reboot": (169, 142), "swapon": (167, 224),
    "swapoff": (168, 225), "acct": (163, 89), "quotactl": (179, 60), "quotactl_fd": (443, 443), "syslog": (103, 116),
    "settimeofday": (164, 170), "clock_settime": (227, 112), "clock_adjtime": (305, 266), "adjtimex": (159, 171),
    "sethostname": (170, 161), "setdomainname": (171, 162), "iopl": (172, None), "ioperm": (173, None),
    "modify_ldt": (154, None), "uselib": (134, None), "_sysctl": (156, None), "nfsservctl": (180, 42),
    "lookup_dcookie": (212, 18), "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265),
    "fanotify_init": (300, 262), "fanotify_mark": (301, 263), "personality": (135, 92), "vhangup": (153, 58),
    "mbind": (237, 235), "set_mempolicy": (238, 237), "migrate_pages": (256, 238), "move_pages": (279, 239),
    "set_mempolicy_home_node": (450, 450),
    # Memory that no process has mapped is not accounted to anybody.
    "memfd_create": (319, 279), "memfd_secret": (447, 447), "shmget": (29, 194), "shmat": (30, 196),
    "shmctl": (31, 195), "msgget": (68, 186), "msgsnd": (69, 189), "vmsplice": (278, 75),
    "mq_open": (240, 180),
}  # fmt: skip
CALLS = {"clone": (56, 220), "socket": (41, 198), "socketpair": (53, 199), "ioctl": (16, 29)}
CLONE3 = 435  # its flags are in memory that a filter cannot read; libraries fall back to clone
NEWEST_KNOWN = 462
ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
X32 = 0x40000000
# CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET
NAMESPACES = 0x00020000 | 0x02000000 | 0x04000000 | 0x08000000 | 0x10000000 | 0x20000000 | 0x40000000
FAMILIES = (1, 2, 10)  # AF_UNIX, AF_INET, AF_INET6: not vsock, which no network namespace holds
TERMINAL = (0x5412, 0x541C)  # TIOCSTI and TIOCLINUX inject characters into another user's terminal

LOAD, EQUAL, GREATER, ANY_BIT, RETURN = 0x20, 0x15, 0x25, 0x45, 0x06
NUMBER, ARCHITECTURE, FIRST_ARGUMENT, SECOND_ARGUMENT = 0, 4, 16, 24
ALLOW, KILL, ERRNO = 0x7FFF0000, 0x80000000, 0x00050000


def _do(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, value)


def _reject(error: int) -> bytes:
    return _do(RETURN, ERRNO | error)


def seccomp_program(machine: str | None = None) -> bytes:
    """Return the filter for this processor. Raises NotConfiguredError for an unsupported one."""
    machine = machine or platform.machine()
    if machine not in ARCHITECTURES:
        known = " and ".join(ARCHITECTURES)
        raise NotConfiguredError(f"there is no system call filter for the processor {machine!r}, only for {known}")
    column = list(ARCHITECTURES).index(machine)
    calls = {name: numbers[column] for name, numbers in CALLS.items()}
    parts = [
        _do(LOAD, ARCHITECTURE), _do(EQUAL, ARCHITECTURES[machine], 1, 0), _do(RETURN, KILL),
        _do(LOAD, NUMBER),
    ]  # fmt: skip
    if machine == "x86_64":
        parts += [_do(GREATER, X32 - 1, 0, 1), _do(RETURN, KILL)]
    parts += [_do(GREATER, NEWEST_KNOWN, 0, 1), _reject(errno.ENOSYS)]
    parts += [_do(EQUAL, CLONE3, 0, 1), _reject(errno.ENOSYS)]
    for numbers in DENIED.values():
        if (number := numbers[column]) is not None:
            parts += [_do(EQUAL, number, 0, 1), _reject(errno.EPERM)]
    parts += [
        _do(EQUAL, calls["clone"], 0, 4), _do(LOAD, FIRST_ARGUMENT), _do(ANY_BIT, NAMESPACES, 0, 1),
        _reject(errno.EPERM), _do(RETURN, ALLOW),
    ]  # fmt: skip
    for name in ("socket", "socketpair"):
        last = len(FAMILIES)
        parts += [_do(EQUAL, calls[name], 0, last + 3), _do(LOAD, FIRST_ARGUMENT)]
        parts += [_do(EQUAL, family, last - i, 0) for i, family in enumerate(FAMILIES)]
        parts += [_reject(errno.EAFNOSUPPORT), _do(RETURN, ALLOW)]
    parts += [_do(EQUAL, calls["ioctl"], 0, 4), _do(LOAD, SECOND_ARGUMENT)]
    parts += [_do(EQUAL, TERMINAL[0], 1, 0), _do(EQUAL, TERMINAL[1], 0, 1), _reject(errno.EPERM)]
    parts += [_do(RETURN, ALLOW)]
    return b"".join(parts)
