/* A wrong clock for one process: LD_PRELOAD this. The offset, in seconds as text, is in the file that
   CLOCK_OFFSET_FILE names, and is read anew every tenth of a second, so that the clock can jump.
   Only the time of day is wrong: monotonic clocks, sleeps and time-outs are as they should be. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <fcntl.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static int (*real_gettime)(clockid_t, struct timespec *);
static volatile long offset;
static volatile long looked_at; /* monotonic tenths of a second */

static long current(void)
{
    struct timespec now;
    if (!real_gettime)
        real_gettime = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    real_gettime(CLOCK_MONOTONIC, &now);
    long tenths = now.tv_sec * 10 + now.tv_nsec / 100000000;
    if (tenths != looked_at) {
        char text[32] = {0};
        const char *path = getenv("CLOCK_OFFSET_FILE");
        int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
        looked_at = tenths;
        if (file >= 0) {
            if (read(file, text, sizeof text - 1) > 0)
                offset = atol(text);
            close(file);
        }
    }
    return offset;
}

int clock_gettime(clockid_t which, struct timespec *at)
{
    long shift = current();
    int result = real_gettime(which, at);
    if (result == 0 && (which == CLOCK_REALTIME || which == CLOCK_REALTIME_COARSE))
        at->tv_sec += shift;
    return result;
}

int gettimeofday(struct timeval *restrict at, void *restrict zone)
{
    struct timespec now;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &now);
    at->tv_sec = now.tv_sec;
    at->tv_usec = now.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *at)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (at)
        *at = now.tv_sec;
    return now.tv_sec;
}
