"""A wall clock of its own for one program and its children; the machine's is left alone.

(libfaketime 0.9.10 would do, but with its monotonic clock left alone Python cannot sleep: clock_nanosleep answers EINVAL.)
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from app.chaos.processes import Missing

_SOURCE = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

/* Seconds that the wall clock is off, read from the file at each look. */
static long offset(void) {
  char text[32] = {0};
  int file = open(getenv("CHAOS_CLOCK"), O_RDONLY | O_CLOEXEC);
  if (file < 0) return 0;
  if (read(file, text, sizeof text - 1) < 0) text[0] = 0;
  close(file);
  return atol(text);
}

int clock_gettime(clockid_t clock, struct timespec *now) {
  static int (*real)(clockid_t, struct timespec *);
  if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
  int failed = real(clock, now);
  if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += offset();
  return failed;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
  struct timespec at;
  (void)zone;
  if (clock_gettime(CLOCK_REALTIME, &at)) return -1;
  now->tv_sec = at.tv_sec;
  now->tv_usec = at.tv_nsec / 1000;
  return 0;
}

time_t time(time_t *now) {
  struct timespec at;
  clock_gettime(CLOCK_REALTIME, &at);
  if (now) *now = at.tv_sec;
  return at.tv_sec;
}
"""


class Clock:
    """Programs started with its `environment` have a wall clock that can be set; the monotonic one goes on as ever.

    Args:
        folder: for a compiled library and the file that holds the offset.

    Raises:
        Missing: there is no C compiler.
    """

    def __init__(self, folder: Path) -> None:
        compiler = shutil.which("cc")
        if compiler is None:
            raise Missing("a C compiler is not installed (Debian package gcc)")
        library, self._file = folder / "clock.so", folder / "clock"
        command = [compiler, "-shared", "-fPIC", "-O2", "-x", "c", "-", "-o", str(library), "-ldl"]
        subprocess.run(command, input=_SOURCE.encode(), check=True)
        self.environment = {"LD_PRELOAD": str(library), "CHAOS_CLOCK": str(self._file)}
        self.set(0)

    def set(self, offset_s: float) -> None:
        """Off the real clock by so many whole seconds, at once."""
        beside = self._file.with_suffix(".new")
        beside.write_text(f"{int(offset_s)}\n")
        beside.replace(self._file)
