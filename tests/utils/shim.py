"""A library that is loaded before libc, and takes locks and links from all file systems."""

import shutil
import subprocess
from pathlib import Path

import pytest

_SOURCE = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>

int flock(int file, int operation) { errno = ENOLCK; return -1; }
int link(const char *from, const char *to) { errno = EPERM; return -1; }
int linkat(int a, const char *from, int b, const char *to, int flags) { errno = EPERM; return -1; }
int symlink(const char *from, const char *to) { errno = EPERM; return -1; }

#define FCNTL(NAME)                                                                  \
    int NAME(int file, int command, ...) {                                           \
        static int (*next)(int, int, ...);                                           \
        va_list list;                                                                \
        va_start(list, command);                                                     \
        void *argument = va_arg(list, void *);                                       \
        va_end(list);                                                                \
        if (command == F_SETLK || command == F_SETLKW || command == F_OFD_SETLK ||   \
            command == F_OFD_SETLKW) {                                               \
            errno = ENOLCK;                                                          \
            return -1;                                                               \
        }                                                                            \
        if (!next) next = dlsym(RTLD_NEXT, #NAME);                                   \
        return next(file, command, argument);                                        \
    }
FCNTL(fcntl)
FCNTL(fcntl64)
"""


def without_locks(folder: Path) -> str:
    """Compiles the library in a folder; returns its path, for LD_PRELOAD."""
    compiler = shutil.which('cc')
    if compiler is None:
        pytest.skip('a C compiler is needed')
    (folder / 'shim.c').write_text(_SOURCE)
    command = [compiler, '-shared', '-fPIC', '-o', folder / 'shim.so', folder / 'shim.c', '-ldl']
    subprocess.run(command, check=True)
    return str(folder / 'shim.so')
