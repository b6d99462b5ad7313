/* SPDX-License-Identifier: MIT */
/*
 * See shared.h. A list of ranges says what was decided about which addresses. The new mapping is made and filled elsewhere, and then moved over the old one in
 * one system call: who only reads sees nothing of it.
 */
#include "base/shared.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/guard.h"
#include "base/log.h"
#include "base/mapping.h"
#include "base/memfd.h"

#define FILE_BYTES (1ull << 47) /* as much as there are addresses */
#define RANGES_MAX 1024u
#define PAGEMAP_THERE (3ull << 62) /* in memory or swapped out: Linux, Documentation/admin-guide/mm/pagemap.rst */
#define PAGEMAP_CHUNK 512u

struct range {
    uint64_t from, to;
    uint64_t offset; /* in the file */
    bool is_made;    /* false: it could not be done */
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static bool is_enabled;
static struct range ranges[RANGES_MAX]; /* disjoint, in no order */
static _Atomic unsigned n_ranges;
static _Atomic bool is_over; /* nothing is made any more: what is decided has no room on the list, or there are pinned pages */
static int file = -1;
static struct stat file_stat;

/* ---- the list ---- */

static void range_remove(unsigned i)
{
    ranges[i] = ranges[--n_ranges];
}

static bool range_add(uint64_t from, uint64_t to, uint64_t offset, bool is_made)
{
    if (n_ranges == RANGES_MAX) {
        is_over = true;
        return false;
    }
    ranges[n_ranges] = (struct range){ .from = from, .to = to, .offset = offset, .is_made = is_made };
    n_ranges++;
    return true;
}

static uint64_t later(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

static uint64_t earlier(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static bool overlaps(const struct range *r, uint64_t from, uint64_t to)
{
    return from < r->to && r->from < to;
}

/* The part from..to of range i goes; what is beside it stays. */
static void range_cut(unsigned i, uint64_t from, uint64_t to)
{
    struct range r = ranges[i];
    range_remove(i);
    if (r.from < from)
        range_add(r.from, from, r.offset, r.is_made);
    if (to < r.to && !range_add(to, r.to, r.offset + (to - r.from), r.is_made))
        log_write(LOG_WARN, "too many pieces of guest memory; one will not be given back");
}

/* ---- the file ---- */

/* The client may close what it does not know, and open something else under the number. */
static bool file_is_ours(void)
{
    struct stat st;
    return file >= 0 && !fstat(file, &st) && st.st_dev == file_stat.st_dev && st.st_ino == file_stat.st_ino;
}

static int file_open(void)
{
    if (file_is_ours())
        return 0;
    int low = memfd_create_sealed("guest-ram", FILE_BYTES);
    if (low < 0)
        return low;
    file = fd_move_up(low);
    return fstat(file, &file_stat) ? -errno : 0;
}

static void file_punch(uint64_t offset, uint64_t bytes)
{
    if (file_is_ours())
        fallocate(file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)bytes);
}

/* ---- making ---- */

struct advice {
    char flag[3];
    int advice; /* that a mapping with the flag once got; -1: nothing to be done */
};

/* Linux, Documentation/filesystems/proc.rst, VmFlags: those with which it can be done. Memory of files is never merged, so "mg" is lost. */
static const struct advice advices[] = {
    { "rd", -1 },
    { "wr", -1 },
    { "mr", -1 },
    { "mw", -1 },
    { "me", -1 },
    { "ac", -1 },
    { "nr", -1 },
    { "sd", -1 },
    { "mg", -1 },
    { "lo", -1 },
    { "hg", MADV_HUGEPAGE },
    { "nh", MADV_NOHUGEPAGE },
    { "dc", MADV_DONTFORK },
    { "dd", MADV_DONTDUMP },
};

static const struct advice *find_advice(const char *flag)
{
    for (unsigned i = 0; i < sizeof advices / sizeof *advices; i++)
        if (!strcmp(advices[i].flag, flag))
            return &advices[i];
    return NULL;
}

/* Gives a mapping what its flags say; at NULL: whether that is possible. Sets *is_locked. */
static bool advise(const char *flags, void *at, uint64_t bytes, bool *is_locked)
{
    char flag[3];
    int n;
    *is_locked = false;
    for (; sscanf(flags, " %2s%n", flag, &n) == 1; flags += n) {
        const struct advice *a = find_advice(flag);
        if (!a)
            return false;
        if (!strcmp(flag, "lo"))
            *is_locked = true;
        if (at && a->advice >= 0 && madvise(at, bytes, a->advice) && a->advice == MADV_DONTFORK)
            return false;
    }
    return true;
}

static bool is_zero(const void *page)
{
    const uint64_t *word = page;
    for (unsigned i = 0; i < PAGE_BYTES / sizeof *word; i++)
        if (word[i])
            return false;
    return true;
}

/* The pages that are there. *n: how many. The client may take them away meanwhile: -EFAULT. */
static int copy_pages(int pagemap, uint64_t from, uint64_t to, uint8_t *target, uint64_t *n)
{
    uint64_t entry[PAGEMAP_CHUNK];
    _Alignas(8) uint8_t page[PAGE_BYTES];
    *n = 0;
    for (uint64_t at = from; at < to;) {
        uint64_t want = earlier((to - at) >> PAGE_SHIFT, PAGEMAP_CHUNK);
        ssize_t bytes = pread(pagemap, entry, want * sizeof *entry, (off_t)((at >> PAGE_SHIFT) * sizeof *entry));
        if (bytes < (ssize_t)(want * sizeof *entry))
            return -EIO;
        for (uint64_t i = 0; i < want; i++, at += PAGE_BYTES) {
            if (!(entry[i] & PAGEMAP_THERE))
                continue;
            ++*n;
            if (guard_copy(page, (const void *)(uintptr_t)at, PAGE_BYTES))
                return -EFAULT;
            if (!is_zero(page))
                memcpy(target + (at - from), page, PAGE_BYTES);
        }
    }
    return 0;
}

static int fill(uint64_t from, uint64_t to, uint8_t *target, uint64_t *n)
{
    int pagemap = open("/proc/thread-self/pagemap", O_RDONLY | O_CLOEXEC);
    if (pagemap < 0)
        return -errno;
    int r = copy_pages(pagemap, from, to, target, n);
    close(pagemap);
    return r;
}

static void lock_again(uint64_t from, uint64_t bytes, uint64_t pages)
{
    void *at = (void *)(uintptr_t)from;
    bool is_whole = pages == bytes >> PAGE_SHIFT; /* else it was locked as it was touched */
    if (is_whole ? mlock(at, bytes) : mlock2(at, bytes, MLOCK_ONFAULT))
        log_write(LOG_WARN, "guest memory is no longer locked: %s", strerror(errno));
}

/* The kernel may fail when it has unmapped what was there, for want of memory: then the file, which has the contents, is mapped there in another way. */
static int put_in_place(void *made, uint64_t from, uint64_t bytes, const char *flags)
{
    void *at = (void *)(uintptr_t)from;
    bool is_locked;
    if (mremap(made, bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED, at) == at)
        return 0;
    if (mmap(at, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED | MAP_NORESERVE, file, (off_t)from) == MAP_FAILED)
        return -errno;
    munmap(made, bytes);
    advise(flags, at, bytes, &is_locked);
    return 0;
}

static int replace(uint64_t from, uint64_t to, const char *flags)
{
    uint64_t bytes = to - from, pages;
    bool is_locked;
    file_punch(from, bytes); /* of memory that was here before and went unseen */
    uint8_t *made = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, file, (off_t)from);
    if (made == MAP_FAILED)
        return -errno;
    int r = advise(flags, made, bytes, &is_locked) ? fill(from, to, made, &pages) : -ENOTSUP;
    if (!r)
        r = put_in_place(made, from, bytes, flags);
    if (r) {
        munmap(made, bytes);
        file_punch(from, bytes);
    } else if (is_locked) {
        lock_again(from, bytes, pages);
    }
    return r;
}

/* Devices that write to memory behind the client's back have it pinned. */
static bool is_pinned(void)
{
    unsigned long kib = 0;
    char line[128];
    FILE *f = fopen("/proc/thread-self/status", "re");
    if (!f)
        return true;
    while (fgets(line, sizeof line, f) && sscanf(line, "VmPin: %lu", &kib) != 1)
        ;
    fclose(f);
    return kib > 0;
}

static bool has_policy(uint64_t address)
{
    int mode = 0;
    return syscall(SYS_get_mempolicy, &mode, NULL, 0ul, address, 2ul /* MPOL_F_ADDR */) == 0 && mode != 0;
}

/* One mapping, or what of it is in from..to. */
static int make_piece(const struct mapping *m, uint64_t from, uint64_t to)
{
    char flags[MAPPING_FLAGS_BYTES];
    bool is_locked;
    if (m->is_shared && m->ino)
        return -EALREADY;
    if (m->ino || m->is_shared || m->is_special || !m->is_writeable || has_policy(m->from) || mapping_flags(m, flags) || !advise(flags, NULL, 0, &is_locked))
        return -ENOTSUP;
    int r = file_open();
    return r ? r : replace(from, to, flags);
}

static bool is_decided(uint64_t from, uint64_t to)
{
    for (unsigned i = 0; i < n_ranges; i++)
        if (overlaps(&ranges[i], from, to))
            return true;
    return false;
}

static void make_locked(const struct mapping *list, int n, uint64_t from, uint64_t to)
{
    const struct mapping *m = mapping_find(list, n, from);
    for (; m && m < list + n && m->from < to; m++) {
        uint64_t first = later(m->from, from), end = earlier(m->to, to);
        if (is_decided(first, end))
            continue;
        if (n_ranges == RANGES_MAX)
            is_over = true;
        if (is_over)
            return;
        int r = make_piece(m, first, end);
        if (r != -EALREADY)
            range_add(first, end, first, r == 0);
        if (r && r != -EALREADY)
            log_write(LOG_INFO, "guest memory at 0x%llx stays private: %s", (unsigned long long)first, strerror(-r));
    }
}

static bool is_all_decided(uint64_t from, uint64_t to)
{
    uint64_t left = to - from;
    for (unsigned i = 0; i < n_ranges; i++)
        if (overlaps(&ranges[i], from, to))
            left -= earlier(ranges[i].to, to) - later(ranges[i].from, from);
    return !left;
}

void shared_make(const void *at, uint64_t bytes)
{
    uint64_t from = (uintptr_t)at, to = from + bytes;
    struct mapping *list;
    if (!is_enabled || is_over)
        return;
    pthread_mutex_lock(&lock);
    int n = is_all_decided(from, to) ? 0 : mapping_list(&list);
    if (n > 0) {
        if (is_pinned())
            is_over = true;
        else
            make_locked(list, n, from, to);
        free(list);
    }
    pthread_mutex_unlock(&lock);
}

/* ---- the client's calls ---- */

bool shared_is_used(void)
{
    return n_ranges;
}

bool shared_has(const void *at, uint64_t bytes)
{
    uint64_t from = (uintptr_t)at, to = from + bytes;
    bool has = false;
    pthread_mutex_lock(&lock);
    for (unsigned i = 0; i < n_ranges && !has; i++)
        has = overlaps(&ranges[i], from, to);
    pthread_mutex_unlock(&lock);
    return has;
}

/* Linux refuses to take pages away from under a lock. */
static int empty(void *at, uint64_t bytes)
{
    if (!madvise(at, bytes, MADV_REMOVE))
        return 0;
    if (errno != EINVAL)
        return -errno;
    memset(at, 0, bytes);
    return 0;
}

/* The range that holds `at`, or the next above it: the caller has the lock. */
static const struct range *range_from(uint64_t at)
{
    const struct range *found = NULL;
    for (unsigned i = 0; i < n_ranges; i++)
        if (ranges[i].is_made && ranges[i].to > at && (!found || ranges[i].from < found->from))
            found = &ranges[i];
    return found;
}

int shared_discard(void *at, uint64_t bytes, int advice)
{
    uint64_t from = (uintptr_t)at, to = from + page_round_up(bytes);
    int r = 0;
    pthread_mutex_lock(&lock);
    for (uint64_t end; !r && from < to; from = end) {
        const struct range *range = range_from(from);
        bool is_ours = range && range->from <= from;
        end = earlier(to, is_ours ? range->to : range ? range->from : to);
        if (is_ours)
            r = empty((void *)(uintptr_t)from, end - from);
        else if (syscall(SYS_madvise, from, end - from, advice))
            r = -errno;
    }
    pthread_mutex_unlock(&lock);
    return r;
}

void shared_forget(const void *at, uint64_t bytes)
{
    uint64_t from = (uintptr_t)at, to = from + page_round_up(bytes);
    pthread_mutex_lock(&lock);
    for (unsigned i = 0; i < n_ranges;) {
        struct range r = ranges[i];
        if (!overlaps(&r, from, to)) {
            i++;
            continue;
        }
        uint64_t first = later(r.from, from), end = earlier(r.to, to);
        if (r.is_made)
            file_punch(r.offset + (first - r.from), end - first);
        range_cut(i, first, end);
        i = 0;
    }
    pthread_mutex_unlock(&lock);
}

void shared_move(const void *from, uint64_t bytes, const void *to)
{
    uint64_t first = (uintptr_t)from, end = first + page_round_up(bytes), by = (uintptr_t)to - first;
    pthread_mutex_lock(&lock);
    for (unsigned i = 0; i < n_ranges;) {
        struct range r = ranges[i];
        if (!overlaps(&r, first, end)) {
            i++;
            continue;
        }
        uint64_t begin = later(r.from, first), stop = earlier(r.to, end);
        range_cut(i, begin, stop);
        range_add(begin + by, stop + by, r.offset + (begin - r.from), r.is_made);
        i = 0;
    }
    pthread_mutex_unlock(&lock);
}

/* ---- fork ---- */

static void fork_prepare(void)
{
    pthread_mutex_lock(&lock);
}

static void fork_parent(void)
{
    pthread_mutex_unlock(&lock);
}

/* The child's memory is its own again, as private memory's is: what it writes the parent does not see. It has no file; its VMs may get one. */
static void fork_child(void)
{
    struct mapping *list;
    int n = n_ranges ? mapping_list(&list) : 0;
    n_ranges = 0; /* first: our own mmap comes by the transport */
    is_over = false;
    for (int i = 0; i < n; i++)
        if (list[i].is_shared && list[i].dev == file_stat.st_dev && list[i].ino == file_stat.st_ino && file_is_ours())
            mmap((void *)(uintptr_t)list[i].from, list[i].to - list[i].from, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE, file,
                 (off_t)list[i].offset);
    if (n > 0)
        free(list);
    if (file_is_ours())
        close(file);
    file = -1;
    pthread_mutex_init(&lock, NULL);
}

void shared_enable(void)
{
    is_enabled = true;
    pthread_atfork(fork_prepare, fork_parent, fork_child);
}
