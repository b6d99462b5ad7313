/* SPDX-License-Identifier: MIT */
/*
 * A thousand VMs come and go in one process, each with its chips, memory, CPUs, eventfds and a short run, closed in a different order each time. Then as many
 * fds and threads are open as at first and no more memory is in use. VITRINE_FAULT_CYCLES says how many.
 */
#include <malloc.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/fault/machine.h"
#include "transport/inproc.h"

#define WARM_UP_CYCLES 40
#define HEAP_SLACK_BYTES 1024 /* about a byte per VM */
#define MAPPED_SLACK_BYTES (2u << 20)

static uint64_t state;

static unsigned choose(unsigned n)
{
    state = state * 6364136223846793005 + 1442695040888963407;
    return (unsigned)(state >> 33) % n;
}

static const char *failed_step;

static void step(const char *name, int r)
{
    if (r && !failed_step) {
        printf("# %s: %s\n", name, strerror(-r));
        failed_step = name;
    }
}
#define STEP(call)               \
    do {                         \
        if (!failed_step)        \
            step(#call, (call)); \
    } while (0)

/* Closes the fds that `m` holds in a random order, some of them twice over by dup; machine_fini finds nothing left. */
static void close_shuffled(struct machine *m)
{
    int *fd[] = { &m->dev_fd, &m->vm_fd, &m->cpu_fd[0], &m->cpu_fd[1] };
    for (unsigned i = 4; i > 1; i--) {
        unsigned k = choose(i);
        int *t = fd[k];
        fd[k] = fd[i - 1];
        fd[i - 1] = t;
    }
    for (unsigned i = 0; i < 4; i++) {
        if (*fd[i] < 0)
            continue;
        int copy = choose(4) ? -1 : dup(*fd[i]);
        step("close", vitrine_close(*fd[i]));
        *fd[i] = -1;
        if (copy >= 0)
            step("close of a duplicate", vitrine_close(copy));
    }
}

static void unmap_runs(struct machine *m)
{
    for (unsigned i = 0; i < MACHINE_CPUS; i++) {
        if (m->run[i])
            munmap(m->run[i], MACHINE_RUN_BYTES);
        m->run[i] = NULL;
    }
}

static void cycle(void)
{
    struct machine m;
    if (!machine_init(&m)) {
        step("the test's own memory and eventfds", -1);
        return;
    }
    bool has_chips = choose(4), is_dirty = choose(2), unmaps_first = choose(2);
    STEP(machine_open(&m));
    STEP(machine_create_vm(&m));
    if (has_chips) {
        STEP(machine_create_irqchip(&m));
        if (choose(2))
            STEP(machine_create_pit(&m));
    }
    STEP(machine_add_ram(&m));
    if (is_dirty)
        STEP(machine_log_dirty(&m));
    if (choose(2))
        STEP(machine_add_ram_2007(&m));
    STEP(machine_create_cpu0(&m));
    if (choose(2))
        STEP(machine_create_cpu1(&m));
    if (choose(2))
        STEP(machine_set_cpuid(&m));
    if (has_chips) {
        if (choose(2))
            STEP(machine_set_routing(&m));
        STEP(machine_add_irqfd(&m));
        if (choose(2))
            STEP(machine_add_resampler(&m));
    }
    STEP(machine_add_ioeventfd(&m));
    if (choose(2))
        STEP(machine_add_coalesced(&m));
    if (choose(2))
        STEP(machine_set_clock_msr(&m));
    STEP(machine_run_to_out(&m));
    if (is_dirty)
        STEP(machine_get_dirty(&m));
    if (has_chips) {
        uint64_t one = 1;
        step("write to the irqfd", write(m.irq_fd, &one, 8) == 8 ? 0 : -5);
    }
    if (unmaps_first)
        unmap_runs(&m);
    close_shuffled(&m);
    machine_fini(&m);
}

static void *cycles(void *n)
{
    for (unsigned i = 0; i < *(unsigned *)n && !failed_step; i++)
        cycle();
    return NULL;
}

/* On several threads at once, as hosts of many VMs do; the choices then depend on the schedule. */
static void cycles_together(unsigned n)
{
    pthread_t thread[2];
    for (unsigned i = 0; i < 2; i++)
        pthread_create(&thread[i], NULL, cycles, &n);
    for (unsigned i = 0; i < 2; i++)
        pthread_join(thread[i], NULL);
}

static bool report(bool is_good, const char *name)
{
    printf("%s - %s\n", is_good ? "ok" : "not ok", name);
    return is_good;
}

static bool grew(const struct usage *before, const struct usage *after)
{
    printf("# fds %u, then %u; threads %u, then %u; heap %llu, then %llu; mapped %llu, then %llu\n", before->fds, after->fds, before->threads, after->threads,
           (unsigned long long)before->heap_bytes, (unsigned long long)after->heap_bytes, (unsigned long long)before->mapped_bytes,
           (unsigned long long)after->mapped_bytes);
    return after->fds != before->fds || after->threads != before->threads || after->heap_bytes > before->heap_bytes + HEAP_SLACK_BYTES ||
           after->mapped_bytes > before->mapped_bytes + MAPPED_SLACK_BYTES;
}

int main(int argc, char **argv)
{
    const char *text = getenv("VITRINE_FAULT_CYCLES");
    unsigned n = text ? (unsigned)atoi(text) : 1000, warm_up = WARM_UP_CYCLES;
    struct usage before, after;
    bool good = true;
    char name[64];
    (void)argc;
    usage_init(argv);
    mallopt(M_ARENA_MAX, 1); /* else threads that meet in malloc map more of them, at any time */
    setvbuf(stdout, NULL, _IOLBF, 0);
    cycles_together(warm_up / 2);
    cycles(&warm_up);
    usage_take(&before);
    unsigned alone = n * 4 / 5;
    cycles(&alone);
    cycles_together((n - alone) / 2);
    usage_take(&after);
    snprintf(name, sizeof name, "%u VMs come and go", n);
    good &= report(!failed_step, name);
    good &= report(!grew(&before, &after), "nothing is left of them");
    return good ? 0 : 1;
}
