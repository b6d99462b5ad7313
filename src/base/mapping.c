/* SPDX-License-Identifier: MIT */
/* See mapping.h. The thread's own view of /proc: that of the process is gone when its first thread is. */
#include "base/mapping.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

static bool parse(const char *line, struct mapping *out)
{
    unsigned major, minor;
    uint64_t ino;
    char mode[5];
    int end = 0;
    if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %4s %" SCNx64 " %x:%x %" SCNu64 " %n", &out->from, &out->to, mode, &out->offset, &major, &minor, &ino, &end) != 7)
        return false;
    out->dev = makedev(major, minor);
    out->ino = ino;
    out->is_shared = mode[3] == 's';
    out->is_writeable = mode[1] == 'w';
    out->is_special = line[end] == '[' && strncmp(line + end, "[anon", 5) != 0;
    return true;
}

int mapping_list(struct mapping **out)
{
    struct mapping *list = NULL;
    char line[512];
    bool is_beginning = true;
    int n = 0, room = 0, r = 0;
    FILE *f = fopen("/proc/thread-self/maps", "re");
    if (!f)
        return -errno;
    for (; !r && fgets(line, sizeof line, f); is_beginning = strchr(line, '\n') != NULL) {
        if (n == room) {
            struct mapping *grown = realloc(list, (size_t)(room = room * 2 + 256) * sizeof *list);
            r = grown ? 0 : -ENOMEM;
            list = grown ? grown : list;
        }
        if (!r && is_beginning && parse(line, &list[n]))
            n++;
    }
    fclose(f);
    if (r) {
        free(list);
        return r;
    }
    *out = list;
    return n;
}

const struct mapping *mapping_find(const struct mapping *list, int n, uint64_t address)
{
    int lo = 0, hi = n;
    while (lo < hi) {
        int mid = (lo + hi) / 2;
        if (list[mid].to <= address)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo < n ? &list[lo] : NULL;
}

int mapping_flags(const struct mapping *m, char flags[MAPPING_FLAGS_BYTES])
{
    static const char key[] = "VmFlags:";
    struct mapping at = { 0 };
    char line[512];
    int r = -ENOENT;
    FILE *f = fopen("/proc/thread-self/smaps", "re");
    if (!f)
        return -errno;
    while (r && fgets(line, sizeof line, f)) {
        if (strncmp(line, key, sizeof key - 1) != 0) {
            parse(line, &at);
        } else if (at.from <= m->from && m->from < at.to) {
            snprintf(flags, MAPPING_FLAGS_BYTES, "%.*s", MAPPING_FLAGS_BYTES - 1, line + sizeof key - 1);
            r = 0;
        }
    }
    fclose(f);
    return r;
}

/* An open file description of its own where that is allowed: whoever gets it cannot move our position. */
static int open_again(int fd)
{
    char path[48];
    snprintf(path, sizeof path, "/proc/thread-self/fd/%d", fd);
    int again = open(path, O_RDWR | O_CLOEXEC);
    if (again < 0)
        again = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    return again < 0 ? -errno : again;
}

static bool is_read_write(int fd)
{
    return (fcntl(fd, F_GETFL) & O_ACCMODE) == O_RDWR;
}

int mapping_open_file(const struct mapping *m)
{
    int found = -ENOENT;
    DIR *dir = opendir("/proc/thread-self/fd");
    if (!dir)
        return -errno;
    for (struct dirent *d; (found < 0 || !is_read_write(found)) && (d = readdir(dir));) {
        struct stat st;
        int fd = atoi(d->d_name);
        if (d->d_name[0] == '.' || fd == dirfd(dir) || fd == found || fstat(fd, &st) || st.st_dev != m->dev || st.st_ino != m->ino)
            continue;
        int again = open_again(fd);
        if (again >= 0 && found >= 0)
            close(found);
        if (again >= 0)
            found = again;
    }
    closedir(dir);
    return found;
}
