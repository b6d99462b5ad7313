/* SPDX-License-Identifier: MIT */
/*
 * Every allocation, mapping, memfd, eventfd and thread that the life of a VM takes is refused once: the call that needed it must say so by an errno, leave
 * nothing behind, and succeed when made again.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/fault/inject.h"
#include "tests/fault/machine.h"

#define REFUSALS_MAX 400 /* more in one call are a loop */

static const struct step {
    const char *name;
    int (*call)(struct machine *m);
} steps[] = {
    { "open", machine_open },
    { "KVM_CREATE_VM", machine_create_vm },
    { "KVM_CREATE_IRQCHIP", machine_create_irqchip },
    { "KVM_CREATE_PIT2", machine_create_pit },
    { "KVM_SET_USER_MEMORY_REGION", machine_add_ram },
    { "KVM_SET_USER_MEMORY_REGION, dirty log", machine_log_dirty },
    { "SET_MEMORY_REGION of 2007", machine_add_ram_2007 },
    { "SET_MEMORY_REGION of 2007, move", machine_move_ram_2007 },
    { "KVM_CREATE_VCPU", machine_create_cpu0 },
    { "KVM_CREATE_VCPU, second", machine_create_cpu1 },
    { "KVM_SET_CPUID2", machine_set_cpuid },
    { "KVM_SET_GSI_ROUTING", machine_set_routing },
    { "KVM_IRQFD", machine_add_irqfd },
    { "KVM_IRQFD, resample", machine_add_resampler },
    { "KVM_IOEVENTFD", machine_add_ioeventfd },
    { "KVM_REGISTER_COALESCED_MMIO", machine_add_coalesced },
    { "KVM_SET_MSRS, clock", machine_set_clock_msr },
    { "KVM_RUN", machine_run_to_out },
    { "KVM_GET_DIRTY_LOG", machine_get_dirty },
    { "KVM_X86_SET_MSR_FILTER", machine_set_msr_filter },
    { "KVM_GET_STATS_FD of the VM", machine_get_vm_stats },
    { "KVM_GET_STATS_FD of a vCPU", machine_get_cpu_stats },
};
#define N_STEPS (sizeof steps / sizeof *steps)

static unsigned n_refused;

static bool has_grown(const struct usage *before, const struct usage *after)
{
    if (after->fds == before->fds && after->threads == before->threads && after->heap_bytes == before->heap_bytes &&
        after->mapped_bytes == before->mapped_bytes)
        return false;
    printf("# left behind: %d fds, %d threads, %lld bytes of heap, %lld bytes mapped\n", (int)(after->fds - before->fds),
           (int)(after->threads - before->threads), (long long)(after->heap_bytes - before->heap_bytes),
           (long long)(after->mapped_bytes - before->mapped_bytes));
    return true;
}

/* The errnos that a refusal may become. A run may have done with what it had. */
static bool is_refusal(int r)
{
    return r == -ENOMEM || r == -EMFILE || r == -EAGAIN || r == -ENOSPC;
}

/* A run that was refused something keeps what it has translated so far. */
static bool keeps_caches(const struct step *s)
{
    return s->call == machine_run_to_out;
}

/* One call, its n-th allocation refused. Returns what was refused, NULL when the call needs no more than n. */
static const char *refuse(struct machine *m, const struct step *s, unsigned n, bool *good, bool *did_without)
{
    struct usage before, after;
    usage_take(&before);
    inject_arm(n);
    int r = s->call(m);
    const char *refused = inject_disarm();
    if (!refused) {
        if (r)
            printf("# %s: %s without a refusal\n", s->name, strerror(-r));
        *good &= !r;
        return NULL;
    }
    n_refused++;
    *did_without = !r;
    usage_take(&after);
    bool good_errno = !r || is_refusal(r), leaks = r && !keeps_caches(s) && has_grown(&before, &after);
    if (!good_errno || leaks)
        printf("# %s, call %u (%s) refused: %s\n", s->name, n, refused, r ? strerror(-r) : "success all the same");
    *good &= good_errno && !leaks;
    return refused;
}

/* A VM that got as far as the step, and then each refusal; when the call did without what it was refused, the VM is made anew. */
static bool try_step(unsigned k)
{
    bool good = true;
    for (unsigned n = 0; good && n < REFUSALS_MAX; n++) {
        struct machine m;
        const char *refused = NULL;
        bool did_without = false;
        good = machine_init(&m);
        for (unsigned i = 0; good && i < k; i++)
            good = steps[i].call(&m) == 0;
        if (!good)
            printf("# a step before %s failed\n", steps[k].name);
        if (good)
            refused = refuse(&m, &steps[k], n, &good, &did_without);
        for (unsigned i = k; good && refused && i < N_STEPS; i++) {
            int r = steps[i].call(&m);
            if (!r || (i == k && r == -EEXIST && did_without)) /* a call that did without is not made twice */
                continue;
            printf("# %s after %s was refused to %s: %s\n", steps[i].name, refused, steps[k].name, strerror(-r));
            good = false;
        }
        machine_fini(&m);
        if (!refused)
            return good;
    }
    return false;
}

int main(int argc, char **argv)
{
    bool good = true;
    struct usage before, after;
    (void)argc;
    usage_init(argv);
    setvbuf(stdout, NULL, _IOLBF, 0);
    for (unsigned round = 0; round < 2; round++) { /* the first one makes what lasts as long as the process */
        struct machine m;
        good &= machine_init(&m);
        for (unsigned i = 0; i < N_STEPS && good; i++) {
            int r = steps[i].call(&m);
            if (r)
                printf("# %s: %s\n", steps[i].name, strerror(-r));
            good &= !r;
        }
        machine_fini(&m);
    }
    printf("%s - nothing refused\n", good ? "ok" : "not ok");
    usage_take(&before);
    for (unsigned k = 0; k < N_STEPS; k++) {
        bool step_good = try_step(k);
        printf("%s - %s\n", step_good ? "ok" : "not ok", steps[k].name);
        good &= step_good;
    }
    usage_take(&after);
    bool leaks = after.fds != before.fds || after.threads != before.threads || after.heap_bytes > before.heap_bytes;
    if (leaks)
        has_grown(&before, &after);
    printf("# %u calls refused\n", n_refused);
    printf("%s - nothing is left\n", leaks ? "not ok" : "ok");
    return good && !leaks ? 0 : 1;
}
