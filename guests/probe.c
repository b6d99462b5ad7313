/* SPDX-License-Identifier: MIT */
/*
 * Does in a guest, once each, what a tool of tests/guest is told of, and prints what came of it as one line. Static. Numbers in any base.
 *
 *   cpuid LEAF SUBLEAF     four registers
 *   call NR A B            VMCALL: what it returns
 *   int3                   "trap" if the guest's handler was called, "past" if not
 *   tsc                    RDTSC after the program forbade it to itself (CR4.TSD): "fault" or "value"
 *   steps                  VMCALL 34 24 0, a few instructions that the tool knows (below), VMCALL again: RBX
 *   page                   prints "page GVA GPA", then for each line of input: r, w, m, x, s, v or q: reads, writes, adds to, executes, moves a string to,
 *                          moves a vector to the page; what came of it
 */
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#define PAGE_BYTES 4096

static sigjmp_buf escape;

static void on_signal(int sig)
{
    siglongjmp(escape, sig);
}

static void show_cpuid(uint32_t leaf, uint32_t subleaf)
{
    uint32_t a = leaf, b, c = subleaf, d;
    __asm__ volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
    printf("%#x %#x %#x %#x\n", a, b, c, d);
}

static int64_t call(uint64_t nr, uint64_t a, uint64_t b)
{
    int64_t r;
    __asm__ volatile("vmcall" : "=a"(r) : "a"(nr), "D"(a), "S"(b), "b"(0ul), "c"(0ul), "d"(0ul) : "memory");
    return r;
}

static void breakpoint(void)
{
    signal(SIGTRAP, on_signal);
    if (sigsetjmp(escape, 1)) {
        puts("trap");
        return;
    }
    __asm__ volatile("int3");
    puts("past");
}

static void time_stamp(void)
{
    uint32_t a, d;
    signal(SIGSEGV, on_signal);
    if (sigsetjmp(escape, 1)) {
        puts("fault");
        return;
    }
    prctl(PR_SET_TSC, PR_TSC_SIGSEGV);
    __asm__ volatile("rdtsc" : "=a"(a), "=d"(d));
    puts("value");
}

/* What the tool expects between the calls: lengths 1, 3, 2, 5, 2 (taken), 3, then VMCALL. */
static void steps(void)
{
    uint64_t b = 5;
    __asm__ volatile("mov $34, %%eax; mov $24, %%edi; xor %%esi, %%esi; xor %%ecx, %%ecx\n"
                     "vmcall\n"
                     "nop\n"
                     "add %%rbx, %%rbx\n"
                     "xor %%edx, %%edx\n"
                     "mov $34, %%eax\n"
                     "jmp 1f\n"
                     "ud2\n"
                     "1: lea 1(%%rbx), %%ebx\n"
                     "vmcall\n"
                     : "+b"(b)
                     :
                     : "rax", "rcx", "rdx", "rdi", "rsi", "memory");
    printf("%llu\n", (unsigned long long)b);
}

/* ---- page ---- */

static uint64_t physical(const void *at)
{
    uint64_t entry = 0;
    int fd = open("/proc/self/pagemap", O_RDONLY);
    if (fd < 0 || pread(fd, &entry, 8, (off_t)((uintptr_t)at / PAGE_BYTES * 8)) != 8)
        exit(1);
    close(fd);
    return (entry & ((1ull << 55) - 1)) * PAGE_BYTES;
}

static uint64_t sum(const uint8_t *page)
{
    uint64_t s = 0;
    for (unsigned i = 0; i < PAGE_BYTES; i++)
        s = s * 31 + page[i];
    return s;
}

static void move_string(uint8_t *page)
{
    static const char text[] = "what is moved here";
    const char *from = text;
    size_t n = sizeof text;
    __asm__ volatile("rep movsb" : "+D"(page), "+S"(from), "+c"(n) : : "memory");
}

static void move_vector(uint8_t *to)
{
    static const uint8_t from[16] = "sixteen bytes...";
    __asm__ volatile("movups %1, %%xmm0; movups %%xmm0, %0" : "=m"(*(uint8_t(*)[16])to) : "m"(*(const uint8_t(*)[16])from) : "xmm0");
}

/* One instruction touches the page, at 0x100; its code, which returns 7, is at 0x800. */
static uint64_t touch(uint8_t *page, char how)
{
    volatile uint64_t *at = (volatile uint64_t *)(page + 0x100);
    uint64_t value = 0;
    switch (how) {
    case 'r':
        __asm__ volatile("mov %1, %0" : "=r"(value) : "m"(*at));
        return value;
    case 'w':
        __asm__ volatile("movq $0x1234, %0" : "=m"(*at));
        return 0;
    case 'm':
        __asm__ volatile("lock addq $1, %0" : "+m"(*at));
        return 0;
    case 'x':
        return ((uint64_t(*)(void))(uintptr_t)(page + 0x800))();
    case 's':
        move_string(page + 0x200);
        return 0;
    case 'v':
        move_vector(page + 0x2f8);
        return 0;
    default:
        return sum(page);
    }
}

static void serve_page(void)
{
    static const uint8_t code[] = { 0xb8, 7, 0, 0, 0, 0xc3 }; /* mov $7, %eax; ret */
    char line[16];
    uint8_t *page = mmap(NULL, PAGE_BYTES, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (page == MAP_FAILED || mlock(page, PAGE_BYTES))
        exit(1);
    for (unsigned i = 0; i < PAGE_BYTES; i++)
        page[i] = (uint8_t)(i * 7);
    memcpy(page + 0x800, code, sizeof code);
    touch(page, 's'); /* so that what it needs is there */
    printf("page %#llx %#llx\n", (unsigned long long)(uintptr_t)page, (unsigned long long)physical(page));
    for (unsigned n = 1; fflush(stdout), fgets(line, sizeof line, stdin) && line[0] != 'q'; n++)
        printf("touch %u: %#llx\n", n, (unsigned long long)touch(page, line[0]));
}

int main(int argc, char **argv)
{
    const char *what = argc > 1 ? argv[1] : "";
    uint64_t number[3] = { 0 };
    for (int i = 0; i < 3 && i + 2 < argc; i++)
        number[i] = strtoull(argv[i + 2], NULL, 0);
    if (!strcmp(what, "cpuid"))
        show_cpuid((uint32_t)number[0], (uint32_t)number[1]);
    else if (!strcmp(what, "call"))
        printf("%lld\n", (long long)call(number[0], number[1], number[2]));
    else if (!strcmp(what, "int3"))
        breakpoint();
    else if (!strcmp(what, "tsc"))
        time_stamp();
    else if (!strcmp(what, "steps"))
        steps();
    else if (!strcmp(what, "page"))
        serve_page();
    else
        return 2;
    return 0;
}
