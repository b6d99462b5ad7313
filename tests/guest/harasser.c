/* SPDX-License-Identifier: MIT */
/*
 * A tool that treats a VM badly, started by run-harassed. `harasser kill VM ROUNDS PAGES`: in each round a child holds all vCPUs, watches so many single pages
 * or denies them, and single-steps, and is killed; says in how many milliseconds every vCPU of the guest went on. `harasser cycles VM N`: so many connections
 * that come, hold, subscribe, step, and go in every way. `harasser views VM N`: so often the vCPUs run for a while in a view where pages that they use are
 * copies. Exit status 0 if all was undone each time.
 */
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "vitrine/inspect.h"

#define VCPUS_MAX 64u
#define PAGE_BYTES 4096ull
#define PATIENCE_MS 60000.0

static const char *which;
static uint64_t memory_pages;

static void fail(const char *what)
{
    printf("failed: %s: %s\n", what, strerror(errno));
    exit(1);
}

static double now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

static struct vitrine_vm *open_vm(void)
{
    struct vitrine_vm *vm = vitrine_vm_open(which);
    if (!vm)
        fail("open");
    return vm;
}

static unsigned look(struct vitrine_vm *vm, struct vitrine_vcpu_info info[VCPUS_MAX])
{
    int n = vitrine_vm_vcpus(vm, info, VCPUS_MAX);
    if (n <= 0)
        fail("vcpus");
    return (unsigned)n;
}

static void subscribe(struct vitrine_vm *vm, uint32_t kinds, uint32_t flags, const struct vitrine_range *range, unsigned n)
{
    const struct vitrine_subscription s = { .kinds = kinds, .flags = flags, .last_index = UINT32_MAX };
    if (vitrine_vm_subscribe(vm, &s, range, n) < 0)
        fail("subscribe");
}

/* Every second page from somewhere on, so that no two can be told together. */
static void watch_pages(struct vitrine_vm *vm, unsigned n)
{
    struct vitrine_range *range = calloc(n, sizeof *range);
    uint64_t first = (uint64_t)rand() % (memory_pages - 2 * n);
    for (unsigned i = 0; range && i < n; i++) {
        uint64_t at = (first + 2 * i) * PAGE_BYTES;
        range[i] = (struct vitrine_range){ .first = at, .last = at + PAGE_BYTES - 1, .access = VITRINE_READ | VITRINE_WRITE | VITRINE_EXECUTE };
    }
    if (!range)
        fail("memory");
    subscribe(vm, VITRINE_ON_ACCESS, VITRINE_SUBSCRIBE_ASK, range, n);
    free(range);
}

static void switch_all(struct vitrine_vm *vm, unsigned view)
{
    struct vitrine_vcpu_info info[VCPUS_MAX];
    for (unsigned i = look(vm, info); i--;)
        if (vitrine_view_switch(vm, info[i].id, view))
            fail("switch");
}

/* As watch_pages, but the pages are denied, one call each, in a view with all vCPUs in it. */
static void deny_pages(struct vitrine_vm *vm, unsigned n)
{
    uint64_t first = (uint64_t)rand() % (memory_pages - 2 * n);
    int view = vitrine_view_create(vm);
    if (view < 0)
        fail("view");
    switch_all(vm, (unsigned)view);
    for (unsigned i = 0; i < n; i++) {
        struct vitrine_page page = { .gpa = (first + 2 * i) * PAGE_BYTES, .access = (unsigned)rand() % 7 };
        if (vitrine_view_set_access(vm, (unsigned)view, &page, 1))
            fail("access");
    }
}

/* ---- killed ---- */

static void grip(unsigned round, unsigned n_pages, int ready)
{
    struct vitrine_vm *vm = open_vm();
    if (round % 2 == 0 && vitrine_vm_hold(vm))
        fail("hold");
    double began = now_ms();
    if (round % 3 == 2)
        deny_pages(vm, n_pages);
    else
        watch_pages(vm, n_pages);
    double ms = now_ms() - began;
    subscribe(vm, VITRINE_ON_STEP, VITRINE_SUBSCRIBE_ASK, NULL, 0);
    if (write(ready, &ms, sizeof ms) != sizeof ms)
        fail("pipe");
    for (;;)
        pause();
}

static bool went_on(const struct vitrine_vcpu_info *before, const struct vitrine_vcpu_info *now)
{
    return !now->is_held && (now->rip != before->rip || now->activity == VITRINE_VCPU_HALTED || memcmp(now->counter, before->counter, sizeof now->counter));
}

/* Until every vCPU was seen elsewhere than it was held at. */
static double wait_for_all(struct vitrine_vm *vm, const struct vitrine_vcpu_info *before, unsigned n)
{
    struct vitrine_vcpu_info now[VCPUS_MAX];
    bool is_seen[VCPUS_MAX] = { false };
    double began = now_ms();
    for (unsigned n_seen = 0; n_seen < n;) {
        look(vm, now);
        for (unsigned i = 0; i < n; i++)
            if (!is_seen[i] && went_on(&before[i], &now[i]))
                is_seen[i] = true, n_seen++;
        if (n_seen < n && now_ms() - began > PATIENCE_MS)
            fail("the guest goes on");
    }
    return now_ms() - began;
}

static void wait_all_held(struct vitrine_vm *vm, struct vitrine_vcpu_info *info, unsigned n)
{
    double began = now_ms();
    for (unsigned n_held = 0; n_held < n;) {
        look(vm, info);
        n_held = 0;
        for (unsigned i = 0; i < n; i++)
            n_held += info[i].is_held || info[i].activity == VITRINE_VCPU_HALTED;
        if (now_ms() - began > PATIENCE_MS)
            fail("all vCPUs are held");
    }
}

static double kill_one(struct vitrine_vm *vm, unsigned round, unsigned n_pages, double *watch_ms)
{
    struct vitrine_vcpu_info before[VCPUS_MAX];
    int ready[2];
    if (pipe(ready))
        fail("pipe");
    fflush(stdout);
    pid_t child = fork();
    if (child < 0)
        fail("fork");
    if (!child)
        grip(round, n_pages, ready[1]);
    if (read(ready[0], watch_ms, sizeof *watch_ms) != sizeof *watch_ms)
        fail("the child is ready");
    wait_all_held(vm, before, look(vm, before));
    double began = now_ms();
    kill(child, SIGKILL);
    wait_for_all(vm, before, look(vm, (struct vitrine_vcpu_info[VCPUS_MAX]){ 0 }));
    double ms = now_ms() - began;
    waitpid(child, NULL, 0);
    close(ready[0]);
    close(ready[1]);
    return ms;
}

static void kill_all(unsigned n_rounds, unsigned n_pages)
{
    struct vitrine_vm *vm = open_vm();
    for (unsigned i = 0; i < n_rounds; i++) {
        double watch_ms, ms = kill_one(vm, i, n_pages, &watch_ms);
        printf("round %u: %u pages watched in %.1f ms, killed, the guest went on in %.1f ms\n", i, n_pages, watch_ms, ms);
    }
    vitrine_vm_close(vm);
}

/* ---- coming and going ---- */

/* Answers some questions and leaves the next one open. */
static void answer_some(struct vitrine_vm *vm, unsigned n)
{
    struct vitrine_event e;
    for (unsigned i = 0; i < n && vitrine_vm_next_events(vm, &e, 1, 20, NULL) > 0; i++)
        if (e.question && vitrine_vm_answer(vm, &e, VITRINE_CONTINUE, 0) && errno != ESTALE)
            fail("answer");
}

static void visit(unsigned kind)
{
    struct vitrine_vm_info info;
    struct vitrine_vm *vm = open_vm();
    switch (kind) {
    case 0:
        if (vitrine_vm_info(vm, &info))
            fail("info");
        break;
    case 1:
    case 2:
        if (vitrine_vm_hold(vm) || (kind == 1 && vitrine_vm_release(vm)))
            fail("hold");
        break;
    case 3:
        subscribe(vm, VITRINE_ON_CR | VITRINE_ON_SYSCALL | VITRINE_ON_EXCEPTION, 0, NULL, 0);
        answer_some(vm, 3);
        break;
    case 4:
        watch_pages(vm, 100);
        answer_some(vm, 10);
        break;
    case 5:
        subscribe(vm, VITRINE_ON_STEP, VITRINE_SUBSCRIBE_ASK, NULL, 0);
        answer_some(vm, 20);
        break;
    case 6:
        deny_pages(vm, 100);
        answer_some(vm, 10);
        break;
    default:
        subscribe(vm, VITRINE_ON_INTERRUPT, VITRINE_SUBSCRIBE_ASK, NULL, 0);
        answer_some(vm, 5);
    }
    vitrine_vm_close(vm);
}

static void cycles(unsigned n)
{
    struct vitrine_vm *vm = open_vm();
    struct vitrine_vcpu_info info[VCPUS_MAX];
    double watch_ms, began = now_ms();
    for (unsigned i = 0; i < n; i++)
        if (i % 50 == 49)
            kill_one(vm, i / 50, 100, &watch_ms);
        else
            visit(i % 8);
    struct vitrine_vcpu_info before[VCPUS_MAX];
    unsigned n_vcpus = look(vm, before);
    wait_for_all(vm, before, n_vcpus);
    look(vm, info);
    for (unsigned i = 0; i < n_vcpus; i++)
        if (info[i].is_held)
            errno = 0, fail("nothing is held at the end");
    printf("%u cycles in %.1f s\n", n, (now_ms() - began) / 1e3);
    vitrine_vm_close(vm);
}

/* ---- copies ---- */

#define COPIES_MAX (2 * VCPUS_MAX)
#define COPIES_AT (1ull << 36)

struct copy {
    uint64_t from, at;
};

static void copy_page(struct vitrine_vm *vm, uint64_t to, uint64_t from)
{
    uint8_t page[PAGE_BYTES];
    if (vitrine_mem_read(vm, from, page, sizeof page) != sizeof page || vitrine_mem_write(vm, to, page, sizeof page) != sizeof page)
        fail("copy");
}

/* The page at a linear address of a vCPU that stands still gets a copy that the view shows; no device writes to code or stacks. */
static unsigned show_copy(struct vitrine_vm *vm, unsigned view, uint32_t vcpu, uint64_t gva, struct copy *copy, unsigned n)
{
    struct vitrine_translation t;
    if (vitrine_vcpu_translate(vm, vcpu, gva, &t))
        fail("translate");
    struct copy c = { .from = t.gpa & ~(PAGE_BYTES - 1), .at = COPIES_AT + n * PAGE_BYTES };
    for (unsigned i = 0; i < n; i++)
        if (copy[i].from == c.from)
            return n;
    if (t.result != VITRINE_WALK_OK)
        return n;
    if (vitrine_page_add(vm, c.at))
        fail("add");
    copy_page(vm, c.at, c.from);
    if (vitrine_view_remap(vm, view, c.from, c.at))
        fail("remap");
    copy[n] = c;
    return n + 1;
}

static unsigned show_copies(struct vitrine_vm *vm, unsigned view, struct copy *copy)
{
    struct vitrine_vcpu_info info[VCPUS_MAX];
    struct vitrine_regs regs;
    unsigned n = 0;
    for (unsigned i = look(vm, info); i--;) {
        if (vitrine_vcpu_get_regs(vm, info[i].id, &regs))
            fail("registers");
        n = show_copy(vm, view, info[i].id, regs.rip, copy, n);
        n = show_copy(vm, view, info[i].id, regs.gpr[4], copy, n);
    }
    return n;
}

/* What the guest did to the copies it did to the pages, when these are seen again. */
static unsigned show_for_a_while(bool is_closed_early)
{
    struct copy copy[COPIES_MAX];
    struct vitrine_vm *vm = open_vm();
    int view = vitrine_view_create(vm);
    if (view < 0 || vitrine_vm_hold(vm))
        fail("view");
    unsigned n = show_copies(vm, (unsigned)view, copy);
    for (unsigned i = 0; i < n; i++) {
        struct vitrine_page page = { .gpa = copy[i].from, .access = (unsigned)rand() % 8, .writeable = (unsigned)rand() };
        if (i % 2 ? vitrine_view_set_access(vm, (unsigned)view, &page, 1) : vitrine_view_set_writeable(vm, (unsigned)view, &page, 1))
            fail("access");
    }
    switch_all(vm, (unsigned)view);
    if (vitrine_vm_release(vm))
        fail("release");
    answer_some(vm, 200);
    if (vitrine_vm_hold(vm))
        fail("hold");
    for (unsigned i = 0; i < n; i++)
        copy_page(vm, copy[i].from, copy[i].at);
    if (!is_closed_early && vitrine_view_destroy(vm, (unsigned)view))
        fail("destroy");
    vitrine_vm_close(vm);
    return n;
}

static void views(unsigned n)
{
    unsigned n_copies = 0;
    double began = now_ms();
    for (unsigned i = 0; i < n; i++)
        n_copies += show_for_a_while(i % 2);
    printf("%u views, %u copied pages in %.1f s\n", n, n_copies, (now_ms() - began) / 1e3);
}

int main(int argc, char **argv)
{
    struct vitrine_vm_info info;
    if (argc < 4)
        return 2;
    which = argv[2];
    struct vitrine_vm *vm = open_vm();
    if (vitrine_vm_info(vm, &info))
        fail("info");
    memory_pages = info.memory_bytes / PAGE_BYTES;
    vitrine_vm_close(vm);
    srand(1);
    if (!strcmp(argv[1], "kill") && argc == 5)
        kill_all((unsigned)atoi(argv[3]), (unsigned)atoi(argv[4]));
    else if (!strcmp(argv[1], "cycles") && argc == 4)
        cycles((unsigned)atoi(argv[3]));
    else if (!strcmp(argv[1], "views") && argc == 4)
        views((unsigned)atoi(argv[3]));
    else
        return 2;
    return 0;
}
