/* SPDX-License-Identifier: MIT */
/*
 * What a client's memory is like once it has become a guest's, under `vitrine run`: contents, pages never touched, properties, and the calls that a client
 * makes about it later are as for the private memory that it allocated, although other processes can map it. One TAP line per claim. Knows nothing of vitrine
 * but the name of the file. Use: shared [private], the latter with --no-share. Started by run-memflow.
 */
#include <dirent.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096ul
#define PAGES 4096ul

static int vm, n_failed, next_slot;
static uint64_t next_gpa;

static void claim(bool is_true, const char *what)
{
    printf("%s - %s\n", is_true ? "ok" : "not ok", what);
    n_failed += !is_true;
}

static uint8_t *memory(size_t pages)
{
    uint8_t *p = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED)
        exit(1);
    return p;
}

static int set_slot(int slot, void *at, size_t pages)
{
    struct kvm_userspace_memory_region region = {
        .slot = (uint32_t)slot, .guest_phys_addr = next_gpa, .memory_size = pages * PAGE, .userspace_addr = (uintptr_t)at
    };
    next_gpa += pages * PAGE;
    return ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region);
}

static void become_guests(void *at, size_t pages)
{
    if (set_slot(next_slot++, at, pages)) {
        perror("KVM_SET_USER_MEMORY_REGION");
        exit(1);
    }
}

/* The line of smaps that begins so, or the first if key is NULL, about the mapping that holds `at`. */
static void property(const void *at, const char *key, char out[256])
{
    char line[256];
    bool is_there = false;
    FILE *f = fopen("/proc/self/smaps", "r");
    out[0] = '\0';
    while (f && fgets(line, sizeof line, f)) {
        unsigned long from, to;
        if (sscanf(line, "%lx-%lx ", &from, &to) == 2)
            is_there = from <= (uintptr_t)at && (uintptr_t)at < to;
        if (is_there && (key ? !strncmp(line, key, strlen(key)) : !*out))
            strcpy(out, line);
    }
    if (f)
        fclose(f);
}

static bool has_flag(const void *at, const char *flag)
{
    char flags[256];
    property(at, "VmFlags:", flags);
    return strstr(flags, flag);
}

static bool is_shared(const void *at)
{
    char head[256];
    property(at, NULL, head);
    return strstr(head, "rw-s") && strstr(head, "guest-ram");
}

static int open_file(void)
{
    char path[300], name[64];
    DIR *dir = opendir("/proc/self/fd");
    int fd = -1;
    for (struct dirent *d; fd < 0 && (d = readdir(dir));) {
        snprintf(path, sizeof path, "/proc/self/fd/%s", d->d_name);
        ssize_t n = readlink(path, name, sizeof name - 1);
        name[n < 0 ? 0 : n] = '\0';
        if (!strcmp(name, "/memfd:guest-ram (deleted)"))
            fd = open(path, O_RDWR | O_CLOEXEC);
    }
    closedir(dir);
    return fd;
}

static unsigned resident(void *at, size_t pages)
{
    unsigned char there[PAGES];
    unsigned n = 0;
    mincore(at, pages * PAGE, there);
    for (size_t i = 0; i < pages; i++)
        n += there[i] & 1;
    return n;
}

static bool is_page(const uint8_t *page, uint8_t value)
{
    for (size_t i = 0; i < PAGE; i++)
        if (page[i] != value)
            return false;
    return true;
}

/* Every 16th page written, some of them with zeroes. */
static uint8_t *pattern(void)
{
    uint8_t *p = memory(PAGES);
    for (size_t i = 0; i < PAGES; i += 16)
        memset(p + i * PAGE, i % 48 ? (int)(i / 16 % 250 + 1) : 0, PAGE);
    return p;
}

static bool is_pattern(const uint8_t *p)
{
    for (size_t i = 0; i < PAGES; i++)
        if (!is_page(p + i * PAGE, i % 16 || i % 48 == 0 ? 0 : (uint8_t)(i / 16 % 250 + 1)))
            return false;
    return true;
}

static void contents(bool is_private)
{
    uint8_t *p = pattern();
    madvise(p, PAGES * PAGE, MADV_NOHUGEPAGE); /* what is read below is to be what was written, page by page */
    become_guests(p, PAGES);
    unsigned n = resident(p, PAGES);
    claim(is_shared(p) == !is_private, is_private ? "it stays private" : "it is shareable");
    claim(n <= PAGES / 16, "pages never touched are not there");
    claim(is_pattern(p), "contents are kept");
    set_slot(next_slot - 1, p, 0);
    become_guests(p + 16 * PAGE, 64);
    claim(is_pattern(p) && is_shared(p) == !is_private, "a part of it in another slot");
}

static void properties(void)
{
    uint8_t *p = memory(512);
    madvise(p, 512 * PAGE, MADV_NOHUGEPAGE);
    madvise(p, 512 * PAGE, MADV_DONTFORK);
    madvise(p, 512 * PAGE, MADV_DONTDUMP);
    bool is_lockable = !mlock(p, 8 * PAGE);
    become_guests(p, 512);
    claim(has_flag(p, " dc") && has_flag(p, " dd") && has_flag(p, " nh"), "MADV_DONTFORK, MADV_DONTDUMP, MADV_NOHUGEPAGE are kept");
    claim(!is_lockable || (has_flag(p, " lo") && !has_flag(p + 8 * PAGE, " lo")), "mlock is kept");
    p = memory(512);
    madvise(p, 512 * PAGE, MADV_HUGEPAGE);
    become_guests(p, 512);
    claim(has_flag(p, " hg"), "MADV_HUGEPAGE is kept");
    p = memory(8);
    memset(p, 7, 8 * PAGE);
    madvise(p, 8 * PAGE, MADV_WIPEONFORK);
    become_guests(p, 8);
    claim(!is_shared(p) && is_page(p, 7), "what cannot be made shareable stays as it is");
}

static void discarded(bool is_private)
{
    uint8_t *p = memory(64), in_file[PAGE];
    memset(p, 5, 64 * PAGE);
    become_guests(p + 16 * PAGE, 32);
    int fd = open_file();
    claim(madvise(p + 8 * PAGE, 16 * PAGE, MADV_DONTNEED) == 0, "MADV_DONTNEED over its beginning");
    claim(is_page(p + 7 * PAGE, 5) && is_page(p + 8 * PAGE, 0) && is_page(p + 16 * PAGE, 0) && is_page(p + 23 * PAGE, 0) && is_page(p + 24 * PAGE, 5),
          "gives zeroes, there only");
    claim(syscall(SYS_madvise, p + 30 * PAGE, PAGE, MADV_DONTNEED) == 0 && is_page(p + 30 * PAGE, 0), "by syscall() too");
    if (is_private)
        return;
    claim(pread(fd, in_file, PAGE, (off_t)(uintptr_t)(p + 16 * PAGE)) == PAGE && is_page(in_file, 0), "for other processes too");
    claim(pread(fd, in_file, PAGE, (off_t)(uintptr_t)(p + 24 * PAGE)) == PAGE && is_page(in_file, 5), "they see the rest");
    claim(munmap(p + 24 * PAGE, 4 * PAGE) == 0 && pread(fd, in_file, PAGE, (off_t)(uintptr_t)(p + 24 * PAGE)) == PAGE && is_page(in_file, 0),
          "munmap gives the pages back");
    claim(mmap(p + 28 * PAGE, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == p + 28 * PAGE && is_page(p + 28 * PAGE, 0) &&
              is_page(p + 29 * PAGE, 5) && pread(fd, in_file, PAGE, (off_t)(uintptr_t)(p + 28 * PAGE)) == PAGE && is_page(in_file, 0),
          "so does mmap over it");
    p[28 * PAGE] = 9;
    become_guests(p + 28 * PAGE, 1);
    claim(is_shared(p + 28 * PAGE) && p[28 * PAGE] == 9, "new memory at an address that was shared before");
    uint8_t *q = memory(8);
    claim(mremap(p + 32 * PAGE, 8 * PAGE, 8 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, q) == q && is_page(q + 7 * PAGE, 5), "mremap moves it");
    claim(madvise(q, PAGE, MADV_DONTNEED) == 0 && is_page(q, 0) && is_page(q + PAGE, 5), "and MADV_DONTNEED finds it there");
    claim(mremap(q, 8 * PAGE, 16 * PAGE, MREMAP_MAYMOVE) == MAP_FAILED && is_page(q + 7 * PAGE, 5), "mremap does not make it larger");
    close(fd);
}

static void forked(void)
{
    uint8_t *p = memory(16), *kept = memory(1);
    memset(p, 3, 16 * PAGE);
    become_guests(p, 16);
    fflush(stdout);
    pid_t child = fork();
    if (!child) {
        bool is_same = is_page(p + 4 * PAGE, 3);
        memset(p, 4, 8 * PAGE);
        int device = open("/dev/kvm", O_RDWR);
        vm = ioctl(device, KVM_CREATE_VM, 0ul); /* a machine of the child's own over memory of its own */
        uint8_t *mine = memory(4);
        memset(mine, 6, 4 * PAGE);
        become_guests(mine, 4);
        become_guests(p, 16);
        _exit(is_same && is_page(p, 4) && is_page(p + 8 * PAGE, 3) && is_page(mine, 6) ? 0 : 1);
    }
    int status = -1;
    waitpid(child, &status, 0);
    claim(status == 0, "the child of a fork has the memory");
    claim(is_page(p, 3) && is_page(p + 8 * PAGE, 3), "and what it writes is its own");
    munmap(kept, PAGE);
}

int main(int argc, char **argv)
{
    bool is_private = argc > 1 && !strcmp(argv[1], "private");
    int device = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    vm = ioctl(device, KVM_CREATE_VM, 0ul);
    if (vm < 0)
        return 1;
    contents(is_private);
    if (!is_private)
        properties();
    discarded(is_private);
    forked();
    return n_failed > 0;
}
