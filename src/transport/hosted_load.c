/* SPDX-License-Identifier: MIT */
/*
 * A hosted client's memory: its ELF segments (ELF-64 object file format; System V ABI, AMD64 supplement), and the heap behind them, since the kernel's brk is
 * our C library's. The heap has a lock: any thread of the client may call brk.
 */
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <unistd.h>

#include "base/types.h"
#include "transport/hosted.h"

#define N_SEGMENTS_MAX 64u

/* Position-independent programs begin somewhere in 16 TiB from here, far from where the kernel puts anything, so that there is room for a heap. */
#define MOVABLE_BASE 0x200000000000ull
#define MOVABLE_BITS 44
#define MOVABLE_TRIES 16

static uint64_t page_down(uint64_t address)
{
    return address & ~(PAGE_BYTES - 1);
}

static uint64_t page_up(uint64_t address)
{
    return page_down(address + PAGE_BYTES - 1);
}

static void *pointer(uint64_t address)
{
    return (void *)(uintptr_t)address;
}

static int map(uint64_t address, uint64_t bytes, int prot, int flags, int fd, uint64_t offset)
{
    void *p = mmap(pointer(address), bytes, prot, MAP_PRIVATE | flags, fd, (off_t)offset);
    if (p == MAP_FAILED)
        return -errno;
    if (p == pointer(address))
        return 0;
    munmap(p, bytes); /* a kernel that does not know MAP_FIXED_NOREPLACE */
    return -EEXIST;
}

static int prot_of(const Elf64_Phdr *p)
{
    return (p->p_flags & PF_R ? PROT_READ : 0) | (p->p_flags & PF_W ? PROT_WRITE : 0) | (p->p_flags & PF_X ? PROT_EXEC : 0);
}

/* What the file does not fill is zero: the rest of its last page, and pages behind it. */
static int map_segment(int fd, const Elf64_Phdr *p, uint64_t bias)
{
    uint64_t begin = page_down(p->p_vaddr + bias), file_end = p->p_vaddr + bias + p->p_filesz, end = page_up(p->p_vaddr + bias + p->p_memsz);
    uint64_t zero_from = p->p_filesz ? page_up(file_end) : begin;
    int r = 0, prot = prot_of(p);
    if (p->p_filesz)
        r = map(begin, zero_from - begin, prot, MAP_FIXED, fd, page_down(p->p_offset));
    if (!r && end > zero_from)
        r = map(zero_from, end - zero_from, prot, MAP_FIXED | MAP_ANONYMOUS, -1, 0);
    if (!r && p->p_filesz && p->p_memsz > p->p_filesz && (prot & PROT_WRITE))
        memset(pointer(file_end), 0, zero_from - file_end);
    return r;
}

/* Room for all of the segments, where they want to be or, if that is the same to them, anywhere. */
static int reserve(uint64_t begin, uint64_t end, uint64_t align, bool is_movable, uint64_t *bias)
{
    int r = -ENOMEM;
    *bias = 0;
    for (unsigned i = 0; i < (is_movable ? MOVABLE_TRIES : 1) && r; i++) {
        if (is_movable) {
            uint64_t random = 0;
            (void)!getrandom(&random, sizeof random, GRND_NONBLOCK);
            *bias = (MOVABLE_BASE + (random >> (64 - MOVABLE_BITS))) & ~(align - 1);
        }
        r = map(begin + *bias, end - begin, PROT_NONE, MAP_FIXED_NOREPLACE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    }
    return r;
}

static int read_headers(int fd, Elf64_Ehdr *e, Elf64_Phdr *p)
{
    if (pread(fd, e, sizeof *e, 0) != sizeof *e || memcmp(e->e_ident, ELFMAG, SELFMAG) || e->e_phentsize != sizeof *p || e->e_phnum > N_SEGMENTS_MAX)
        return -ENOEXEC;
    ssize_t bytes = (ssize_t)(e->e_phnum * sizeof *p);
    return pread(fd, p, (size_t)bytes, (off_t)e->e_phoff) == bytes ? 0 : -ENOEXEC;
}

static int map_all(int fd, const Elf64_Ehdr *e, const Elf64_Phdr *p, struct hosted_image *image, const char **why)
{
    uint64_t begin = ~0ull, end = 0, align = PAGE_BYTES;
    for (unsigned i = 0; i < e->e_phnum; i++) {
        if (p[i].p_type != PT_LOAD || !p[i].p_memsz)
            continue;
        begin = page_down(p[i].p_vaddr) < begin ? page_down(p[i].p_vaddr) : begin;
        end = page_up(p[i].p_vaddr + p[i].p_memsz) > end ? page_up(p[i].p_vaddr + p[i].p_memsz) : end;
        align = p[i].p_align > align ? p[i].p_align : align;
        if (e->e_phoff >= p[i].p_offset && e->e_phoff < p[i].p_offset + p[i].p_filesz)
            image->phdr = e->e_phoff - p[i].p_offset + p[i].p_vaddr;
    }
    if (begin >= end || (align & (align - 1)))
        return -ENOEXEC;
    int r = reserve(begin, end, align, e->e_type == ET_DYN, &image->bias);
    if (r)
        *why = "its addresses are taken";
    for (unsigned i = 0; i < e->e_phnum && !r; i++)
        if (p[i].p_type == PT_LOAD && p[i].p_memsz)
            r = map_segment(fd, &p[i], image->bias);
    image->end = end + image->bias;
    return r;
}

static int read_interpreter(int fd, const Elf64_Phdr *p, char interpreter[PATH_MAX])
{
    if (!p->p_filesz || p->p_filesz >= PATH_MAX || pread(fd, interpreter, p->p_filesz, (off_t)p->p_offset) != (ssize_t)p->p_filesz)
        return -ENOEXEC;
    interpreter[p->p_filesz] = '\0';
    return 0;
}

/* One file. */
static int load(const char *path, struct hosted_image *image, char interpreter[PATH_MAX], const char **why)
{
    Elf64_Ehdr e;
    Elf64_Phdr p[N_SEGMENTS_MAX];
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    *image = (struct hosted_image){ 0 };
    interpreter[0] = '\0';
    if (fd < 0)
        return -errno;
    int r = read_headers(fd, &e, p);
    if (!r)
        r = map_all(fd, &e, p, image, why);
    for (unsigned i = 0; !r && i < e.e_phnum; i++) {
        if (p[i].p_type == PT_GNU_STACK)
            image->needs_executable_stack = p[i].p_flags & PF_X;
        else if (p[i].p_type == PT_PHDR)
            image->phdr = p[i].p_vaddr;
        else if (p[i].p_type == PT_INTERP)
            r = read_interpreter(fd, &p[i], interpreter);
    }
    close(fd);
    if (r)
        return r;
    image->phdr += image->bias;
    image->entry = image->start = e.e_entry + image->bias;
    image->n_phdr = e.e_phnum;
    return 0;
}

int hosted_load(const char *path, struct hosted_image *image, const char **why)
{
    struct hosted_image interpreter;
    char name[PATH_MAX], none[PATH_MAX];
    *why = NULL;
    int r = load(path, image, name, why);
    if (r || !*name)
        return r;
    r = load(name, &interpreter, none, why);
    if (r) {
        *why = "its interpreter cannot be loaded";
        return r;
    }
    image->start = interpreter.entry;
    image->base = interpreter.bias;
    return 0;
}

/* ---- brk ---- */

static pthread_mutex_t heap_lock = PTHREAD_MUTEX_INITIALIZER;
static uint64_t heap_begin, heap_end;

static void heap_take(void)
{
    pthread_mutex_lock(&heap_lock);
}

static void heap_give(void)
{
    pthread_mutex_unlock(&heap_lock);
}

void hosted_brk_init(uint64_t begin)
{
    heap_begin = heap_end = begin;
    pthread_atfork(heap_take, heap_give, heap_give);
}

static int heap_resize(uint64_t end)
{
    uint64_t mapped = page_up(heap_end), wanted = page_up(end);
    if (wanted > mapped)
        return map(mapped, wanted - mapped, PROT_READ | PROT_WRITE, MAP_FIXED_NOREPLACE | MAP_ANONYMOUS, -1, 0);
    return wanted < mapped ? munmap(pointer(wanted), mapped - wanted) : 0;
}

long hosted_brk(struct hosted *t, ucontext_t *uc)
{
    uint64_t end = (uint64_t)uc->uc_mcontext.gregs[REG_RDI];
    (void)t;
    heap_take();
    if (end >= heap_begin && end < 1ull << 47 && !heap_resize(end))
        heap_end = end;
    long r = (long)heap_end;
    heap_give();
    return r;
}
