"""Run a program, and write its wall time and peak memory to a file.

    python -I -S launcher.py result.json s5cmd cp s3://bucket/object file

It imports hardly anything, as Linux begins a program's peak memory at that of the
process that starts it: what is less than the 10 MB of this one is shown as that.
"""

import os
import sys
import time


def main(result, command):
    start = time.perf_counter()
    child = os.posix_spawn(command[0], command, os.environ)
    _, status, usage = os.wait4(child, 0)
    seconds = time.perf_counter() - start
    peak = usage.ru_maxrss * 1024
    with open(result, "w") as file:
        file.write('{"seconds": %r, "peak": %d}' % (seconds, peak))  # noqa: UP031
    return os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
