/* Makes the n-th change of the disk the last one, or a failed one.

   Loaded before the C library (LD_PRELOAD), so that calls of Python and of SQLite alike pass here.
   Counted are calls that touch a file below one of the watched places, once `floors_arm` was called:

     write   write pwrite writev pwritev        sync    fsync fdatasync
     rename  rename renameat link symlink       unlink  unlink unlinkat rmdir
     make    mkdir mkdirat, open that creates   space   ftruncate posix_fallocate, copying calls
     mode    chmod fchmod                       read    read pread readv preadv, open to read

   What happens at the n-th: nothing, SIGKILL before it, SIGKILL after half of a write, an errno,
   half of a write, or an errno there and at every later call. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { NOTHING, KILL, TORN, FAIL, SHORT, DEAD };
enum { WRITE = 1, SYNC = 2, RENAME = 4, UNLINK = 8, MAKE = 16, SPACE = 32, MODE = 64, READ = 128 };

static int armed, action, error_number, kinds, report = -1;
static long at, seen;
static char places[4][PATH_MAX];

#define REAL(name) \
    static __typeof__(&name) real; \
    if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

/* `watched` holds up to four places, one a line; the call that is hit is told to `told`. */
void floors_arm(long n, int what, int number, int which, const char *watched, int told) {
    char copy[4 * PATH_MAX], *state = NULL;
    memset(places, 0, sizeof places);
    snprintf(copy, sizeof copy, "%s", watched);
    char *place = strtok_r(copy, "\n", &state);
    for (int i = 0; i < 4 && place; i++, place = strtok_r(NULL, "\n", &state))
        snprintf(places[i], PATH_MAX, "%s", place);
    at = n, action = what, error_number = number, kinds = which, report = told;
    __atomic_store_n(&seen, 0, __ATOMIC_SEQ_CST);
    armed = 1;
}

long floors_seen(void) { return __atomic_load_n(&seen, __ATOMIC_SEQ_CST); }
void floors_disarm(void) { armed = 0; }

static int watched_path(const char *path) {
    for (int i = 0; i < 4; i++)
        if (places[i][0] && strncmp(path, places[i], strlen(places[i])) == 0) return 1;
    return 0;
}

static const char *path_of(int fd, char *room) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, room, PATH_MAX - 1);
    room[n < 0 ? 0 : n] = 0;
    return room;
}

/* What is to happen at this call. */
static int reach(int kind, const char *name, const char *path) {
    if (!(kinds & kind) || !watched_path(path)) return NOTHING;
    long mine = __atomic_add_fetch(&seen, 1, __ATOMIC_SEQ_CST);
    if (mine != at && !(action == DEAD && mine > at)) return NOTHING;
    if (mine == at && report >= 0) dprintf(report, "%s %s", name, path);
    if (action == KILL) kill(getpid(), SIGKILL), pause();
    if (action == FAIL || action == DEAD) errno = error_number;
    return action == DEAD ? FAIL : action;
}

static int at_fd(int kind, const char *name, int fd) {
    char room[PATH_MAX];
    return armed ? reach(kind, name, path_of(fd, room)) : NOTHING;
}

static int at_path(int kind, const char *name, int dir, const char *path) {
    char room[2 * PATH_MAX];
    if (!armed || !path) return NOTHING;
    if (path[0] == '/') return reach(kind, name, path);
    char above[PATH_MAX];
    if (dir == AT_FDCWD) {
        if (!getcwd(above, sizeof above)) return NOTHING;
    } else
        path_of(dir, above);
    snprintf(room, sizeof room, "%s/%s", above, path);
    return reach(kind, name, room);
}

/* A write of `size` bytes: all of it, half of it, or half of it and death. */
#define WRITES(name, fd, size, whole, half) \
    switch (at_fd(WRITE, #name, fd)) { \
    case FAIL: return -1; \
    case SHORT: if (size > 1) return half; break; \
    case TORN: if (size > 1) half; kill(getpid(), SIGKILL), pause(); \
    } \
    return whole

ssize_t write(int fd, const void *data, size_t n) {
    REAL(write);
    WRITES(write, fd, n, real(fd, data, n), real(fd, data, n / 2));
}
ssize_t pwrite(int fd, const void *data, size_t n, off_t o) {
    REAL(pwrite);
    WRITES(pwrite, fd, n, real(fd, data, n, o), real(fd, data, n / 2, o));
}
ssize_t pwrite64(int fd, const void *data, size_t n, off64_t o) {
    REAL(pwrite64);
    WRITES(pwrite, fd, n, real(fd, data, n, o), real(fd, data, n / 2, o));
}
ssize_t writev(int fd, const struct iovec *v, int n) {
    REAL(writev);
    WRITES(writev, fd, n, real(fd, v, n), real(fd, v, n / 2));
}
ssize_t pwritev(int fd, const struct iovec *v, int n, off_t o) {
    REAL(pwritev);
    WRITES(pwritev, fd, n, real(fd, v, n, o), real(fd, v, n / 2, o));
}

#define AT_FD(kind, result, name, parameters, fd, arguments) \
    result name parameters { \
        REAL(name); \
        return at_fd(kind, #name, fd) == FAIL ? -1 : real arguments; \
    }
#define AT_PATH(kind, name, parameters, dir, path, arguments) \
    int name parameters { \
        REAL(name); \
        return at_path(kind, #name, dir, path) == FAIL ? -1 : real arguments; \
    }

AT_FD(READ, ssize_t, read, (int fd, void *b, size_t n), fd, (fd, b, n))
AT_FD(READ, ssize_t, pread, (int fd, void *b, size_t n, off_t o), fd, (fd, b, n, o))
AT_FD(READ, ssize_t, pread64, (int fd, void *b, size_t n, off64_t o), fd, (fd, b, n, o))
AT_FD(READ, ssize_t, readv, (int fd, const struct iovec *v, int n), fd, (fd, v, n))
AT_FD(READ, ssize_t, preadv, (int fd, const struct iovec *v, int n, off_t o), fd, (fd, v, n, o))
AT_FD(SYNC, int, fsync, (int fd), fd, (fd))
AT_FD(SYNC, int, fdatasync, (int fd), fd, (fd))
AT_FD(SPACE, int, ftruncate, (int fd, off_t n), fd, (fd, n))
AT_FD(SPACE, int, ftruncate64, (int fd, off64_t n), fd, (fd, n))
AT_FD(MODE, int, fchmod, (int fd, mode_t m), fd, (fd, m))
AT_FD(SPACE, ssize_t, sendfile, (int out, int in, off_t *o, size_t n), out, (out, in, o, n))
AT_FD(SPACE, ssize_t, sendfile64, (int out, int in, off64_t *o, size_t n), out, (out, in, o, n))

/* These two return the error. */
int posix_fallocate(int fd, off_t o, off_t n) {
    REAL(posix_fallocate);
    return at_fd(SPACE, "posix_fallocate", fd) == FAIL ? error_number : real(fd, o, n);
}
int posix_fallocate64(int fd, off64_t o, off64_t n) {
    REAL(posix_fallocate64);
    return at_fd(SPACE, "posix_fallocate", fd) == FAIL ? error_number : real(fd, o, n);
}

AT_PATH(RENAME, rename, (const char *a, const char *b), AT_FDCWD, b, (a, b))
AT_PATH(RENAME, renameat, (int d, const char *a, int e, const char *b), e, b, (d, a, e, b))
AT_PATH(RENAME, link, (const char *a, const char *b), AT_FDCWD, b, (a, b))
AT_PATH(RENAME, linkat, (int d, const char *a, int e, const char *b, int f), e, b, (d, a, e, b, f))
AT_PATH(RENAME, symlink, (const char *a, const char *b), AT_FDCWD, b, (a, b))
AT_PATH(RENAME, symlinkat, (const char *a, int e, const char *b), e, b, (a, e, b))
AT_PATH(UNLINK, unlink, (const char *a), AT_FDCWD, a, (a))
AT_PATH(UNLINK, unlinkat, (int d, const char *a, int f), d, a, (d, a, f))
AT_PATH(UNLINK, rmdir, (const char *a), AT_FDCWD, a, (a))
AT_PATH(MAKE, mkdir, (const char *a, mode_t m), AT_FDCWD, a, (a, m))
AT_PATH(MAKE, mkdirat, (int d, const char *a, mode_t m), d, a, (d, a, m))
AT_PATH(MODE, chmod, (const char *a, mode_t m), AT_FDCWD, a, (a, m))
AT_PATH(MODE, fchmodat, (int d, const char *a, mode_t m, int f), d, a, (d, a, m, f))

#define OPENS(name, dir, call) \
    REAL(name); \
    va_list rest; \
    va_start(rest, flags); \
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0; \
    va_end(rest); \
    return at_path(flags & O_CREAT ? MAKE : READ, #name, dir, path) == FAIL ? -1 : call

int open(const char *path, int flags, ...) { OPENS(open, AT_FDCWD, real(path, flags, mode)); }
int open64(const char *path, int flags, ...) { OPENS(open64, AT_FDCWD, real(path, flags, mode)); }
int openat(int dir, const char *path, int flags, ...) {
    OPENS(openat, dir, real(dir, path, flags, mode));
}
int openat64(int dir, const char *path, int flags, ...) {
    OPENS(openat64, dir, real(dir, path, flags, mode));
}
