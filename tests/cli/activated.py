"""Starts `tollgate` as systemd would, with a listening socket: `python -m tests.cli.activated DESCRIPTOR serve …`."""

from __future__ import annotations

import os
import sys

FIRST = 3

if __name__ == "__main__":
    _, descriptor, *arguments = sys.argv
    os.dup2(int(descriptor), FIRST)
    os.environ |= {"LISTEN_FDS": "1", "LISTEN_PID": str(os.getpid()), "LISTEN_FDNAMES": "tollgate.socket"}
    os.execv(sys.executable, [sys.executable, "-m", "proxy", *arguments])
