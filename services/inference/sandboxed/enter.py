"""First program in the sandbox: drop root, write the job's files, set limits, and exec the program.

The plan is the first argument; the files arrive as JSON on standard input.
"""

import json
import os
import resource
import sys


def give_up_root(uid):
    """Become this user permanently, without any capability."""
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    import ctypes

    header, nothing = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()  # version 3, this thread
    if ctypes.CDLL(None, use_errno=True).capset(header, nothing) != 0:
        sys.exit("refused: capabilities cannot be given up")


def main():
    plan = json.loads(sys.argv[1])
    if plan["uid"] is not None:
        give_up_root(plan["uid"])
    if os.getuid() == 0 or os.geteuid() == 0:
        sys.exit("refused: the sandbox would run as root")
    os.umask(0o077)
    home = plan["home"]
    for name, text in json.load(sys.stdin.buffer).items():
        path = os.path.join(home, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8", newline="") as file:
            file.write(text)
    os.makedirs(os.path.join(home, "program"), exist_ok=True)
    os.chdir(os.path.join(home, "program"))
    null = os.open("/dev/null", os.O_RDONLY)
    os.dup2(null, 0)
    os.closerange(3, 4096)
    try:
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("1000")
    except OSError:
        pass
    # After entering the namespace: from Linux 5.14 on, processes are counted separately in each user namespace.
    for name, value in plan["limits"].items():
        resource.setrlimit(getattr(resource, name), (value, value))
    os.execv(sys.executable, [sys.executable, "-I", *plan["arguments"]])


main()
