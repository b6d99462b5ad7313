/* SPDX-License-Identifier: MIT */
/*
 * The registry: an array indexed by fd under a read-write lock, one object reference per entry. Objects are dropped with the lock released, since the end of
 * a VM takes time and threads.
 */
#include <dirent.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/object.h"
#include "base/signals.h"
#include "transport/registry.h"

struct entry {
    struct object *object; /* NULL: the fd is not ours */
    dev_t dev;
    ino_t ino;
};

static pthread_rwlock_t lock = PTHREAD_RWLOCK_INITIALIZER;
static struct entry *entries;
static unsigned n_entries;

/* Files that are on their way through a socket. Where that ends in another process they stay here. */
struct departed {
    struct entry entry; /* with a reference of its own */
    unsigned n;
    struct departed *next;
};
static struct departed *departed;
static _Atomic unsigned n_departed;

/* Which entries hold an object, to be read without the lock. Beyond it, any fd may be ours. */
#define MAPPED_FDS (1u << 20)
static _Atomic uint64_t mapped[MAPPED_FDS / 64];

static void entry_map(unsigned fd, bool is_there)
{
    if (fd < MAPPED_FDS && is_there)
        atomic_fetch_or(&mapped[fd / 64], 1ull << fd % 64);
    else if (fd < MAPPED_FDS)
        atomic_fetch_and(&mapped[fd / 64], ~(1ull << fd % 64));
}

static void entry_clear_locked(unsigned fd)
{
    entries[fd].object = NULL;
    entry_map(fd, false);
}

bool registry_may_have(int fd)
{
    if (fd < 0)
        return false;
    return (unsigned)fd >= MAPPED_FDS || atomic_load_explicit(&mapped[fd / 64], memory_order_relaxed) >> (unsigned)fd % 64 & 1;
}

int registry_next(unsigned fd)
{
    int found = -1;
    pthread_rwlock_rdlock(&lock);
    for (; fd < n_entries && found < 0; fd++)
        if (entries[fd].object)
            found = (int)fd;
    pthread_rwlock_unlock(&lock);
    return found;
}

static bool entry_holds(const struct entry *e, const struct stat *st)
{
    return e->object && e->dev == st->st_dev && e->ino == st->st_ino;
}

/* True if fd is open and still the entry's file. */
static bool entry_is_live(int fd, const struct entry *e)
{
    struct stat st;
    return !fstat(fd, &st) && entry_holds(e, &st);
}

static int grow_locked(unsigned fd)
{
    if (fd < n_entries)
        return 0;
    unsigned n = (fd + 64) & ~63u;
    struct entry *grown = realloc(entries, n * sizeof(*grown));
    if (!grown)
        return -ENOMEM;
    memset(grown + n_entries, 0, (n - n_entries) * sizeof(*grown));
    entries = grown;
    n_entries = n;
    return 0;
}

/* Returns what stood there before, for the caller to drop. */
static struct object *put_locked(unsigned fd, struct object *o, const struct stat *st)
{
    struct object *stale = entries[fd].object;
    entries[fd] = (struct entry){ .object = o, .dev = st->st_dev, .ino = st->st_ino };
    entry_map(fd, true);
    return stale;
}

int registry_add(int fd, struct object *o)
{
    struct stat st;
    if (fd < 0 || fstat(fd, &st))
        return -EBADF;
    struct object *stale = NULL;
    pthread_rwlock_wrlock(&lock);
    int r = grow_locked((unsigned)fd);
    if (!r)
        stale = put_locked((unsigned)fd, o, &st);
    pthread_rwlock_unlock(&lock);
    if (stale)
        object_put(stale);
    return r;
}

static struct departed **departed_find_locked(const struct stat *st)
{
    struct departed **d = &departed;
    while (*d && !entry_holds(&(*d)->entry, st))
        d = &(*d)->next;
    return d;
}

/* An fd that is not known by number: perhaps a duplicate, or a number that was reused. */
static struct object *find_by_file(unsigned fd, const struct stat *st)
{
    struct object *found = NULL, *stale = NULL;
    pthread_rwlock_wrlock(&lock);
    for (unsigned i = 0; i < n_entries && !found; i++)
        if (entry_holds(&entries[i], st))
            found = entries[i].object;
    struct departed *d = *departed_find_locked(st);
    if (!found && d)
        found = d->entry.object;
    if (found && !grow_locked(fd)) {
        object_get(found);
        stale = put_locked(fd, found, st);
    } else if (!found && fd < n_entries) {
        stale = entries[fd].object;
        entry_clear_locked(fd);
    }
    if (found)
        object_get(found);
    pthread_rwlock_unlock(&lock);
    if (stale)
        object_put(stale);
    return found;
}

struct object *registry_find(int fd, bool is_trusting)
{
    struct object *o = NULL;
    struct stat st = { 0 };
    if (fd < 0)
        return NULL;
    if (!is_trusting && fstat(fd, &st))
        return NULL;
    pthread_rwlock_rdlock(&lock);
    if ((unsigned)fd < n_entries && (is_trusting || entry_holds(&entries[fd], &st)))
        o = entries[fd].object;
    if (o)
        object_get(o);
    pthread_rwlock_unlock(&lock);
    if (o)
        return o;
    if (is_trusting && fstat(fd, &st))
        return NULL;
    return find_by_file((unsigned)fd, &st);
}

/* Another fd of the object that is open now, or -1. Forgets those whose number no longer is the object's; *n_gone says how many references that frees. */
static int other_fd_locked(struct object *o, unsigned *n_gone)
{
    int other = -1;
    for (unsigned i = 0; i < n_entries; i++) {
        if (entries[i].object != o)
            continue;
        if (entry_is_live((int)i, &entries[i])) {
            other = (int)i;
        } else {
            entry_clear_locked(i);
            ++*n_gone;
        }
    }
    return other;
}

/* A duplicate that we were never told of. The object's own fd on the same file does not count. */
static int unseen_fd(const struct object *o, const struct stat *want)
{
    DIR *dir = opendir("/proc/self/fd");
    int found = -1, own = object_private_fd(o);
    if (!dir)
        return -1;
    for (struct dirent *d; found < 0 && (d = readdir(dir));) {
        struct stat st;
        int fd = atoi(d->d_name);
        if (d->d_name[0] != '.' && fd != own && fd != dirfd(dir) && !fstat(fd, &st) && st.st_dev == want->st_dev && st.st_ino == want->st_ino)
            found = fd;
    }
    closedir(dir);
    return found;
}

int registry_close(int fd)
{
    struct stat st;
    struct object *o = registry_find(fd, false);
    if (!o)
        return -EBADF;
    unsigned n_drop = 1; /* registry_find's */
    int r = fstat(fd, &st) ? -errno : 0;
    pthread_rwlock_wrlock(&lock);
    if ((unsigned)fd < n_entries && entries[fd].object == o) {
        entry_clear_locked((unsigned)fd);
        n_drop++;
    }
    if (!r && close(fd))
        r = -errno;
    if (!r && other_fd_locked(o, &n_drop) < 0) {
        int unseen = unseen_fd(o, &st);
        if (unseen >= 0 && !grow_locked((unsigned)unseen)) {
            struct object *stale = put_locked((unsigned)unseen, o, &st);
            object_get(o);
            if (stale == o)
                n_drop++;
            else if (stale)
                object_put(stale);
        }
    }
    pthread_rwlock_unlock(&lock);
    while (n_drop--)
        object_put(o);
    return r;
}

bool registry_has_departed(void)
{
    return atomic_load_explicit(&n_departed, memory_order_relaxed);
}

int registry_depart(int fd)
{
    struct stat st;
    struct object *o = registry_find(fd, false);
    struct departed *fresh = calloc(1, sizeof(*fresh));
    int r = !o || fstat(fd, &st) ? -EBADF : fresh ? 0 : -ENOMEM;
    if (!r) {
        pthread_rwlock_wrlock(&lock);
        struct departed **d = departed_find_locked(&st);
        if (!*d) {
            *fresh = (struct departed){ .entry = { .object = o, .dev = st.st_dev, .ino = st.st_ino } };
            *d = fresh;
            fresh = NULL;
            o = NULL;
        }
        (*d)->n++;
        atomic_fetch_add(&n_departed, 1);
        pthread_rwlock_unlock(&lock);
    }
    free(fresh);
    if (o)
        object_put(o);
    return r;
}

void registry_arrive(int fd)
{
    struct stat st;
    struct departed *done = NULL;
    struct object *o = registry_find(fd, false); /* from now on it is known by number */
    if (!o || fstat(fd, &st)) {
        if (o)
            object_put(o);
        return;
    }
    pthread_rwlock_wrlock(&lock);
    struct departed **d = departed_find_locked(&st);
    if (*d) {
        atomic_fetch_sub(&n_departed, 1);
        if (--(*d)->n == 0) {
            done = *d;
            *d = done->next;
        }
    }
    pthread_rwlock_unlock(&lock);
    if (done)
        object_put(done->entry.object);
    free(done);
    object_put(o);
}

/* Another thread may be in the middle of a change when this one forks. */
static void fork_prepare(void)
{
    signals_hold();
    pthread_rwlock_wrlock(&lock);
}

static void fork_parent(void)
{
    pthread_rwlock_unlock(&lock);
    signals_release();
}

static void fork_child(void)
{
    lock = (pthread_rwlock_t)PTHREAD_RWLOCK_INITIALIZER;
    object_forked();
    signals_release();
}

__attribute__((constructor)) static void registry_watch_forks(void)
{
    pthread_atfork(fork_prepare, fork_parent, fork_child);
}
