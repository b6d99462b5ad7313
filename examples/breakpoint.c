/* SPDX-License-Identifier: MIT */
/*
 * Waits until a CPU is about to execute the instruction at an address, and follows it for some instructions: breakpoint VM ADDRESS STEPS. The address is linear
 * by CPU 0's page tables. The guest cannot see the breakpoint: nothing is written into its memory.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <vitrine/vitrine.h>

/* The CPU stands before the instruction: it is held here, the question is answered, and then it goes on step by step. */
static int follow(struct vitrine_vm *vm, int breakpoint, const struct vitrine_event *e, long steps)
{
    struct vitrine_regs regs;
    if (vitrine_vcpu_hold(vm, e->vcpu) || vitrine_vm_unsubscribe(vm, breakpoint) || vitrine_vm_answer(vm, e, VITRINE_CONTINUE, 0))
        return -1;
    printf("CPU %" PRIu32 " at %#" PRIx64 "\n", e->vcpu, e->rip);
    for (; steps > 0; steps--) {
        if (vitrine_vcpu_step(vm, e->vcpu, 1, -1) != 1 || vitrine_vcpu_get_regs(vm, e->vcpu, &regs))
            return -1;
        printf("     to %#" PRIx64 "\n", regs.rip);
    }
    return vitrine_vcpu_release(vm, e->vcpu);
}

static int wait_and_follow(struct vitrine_vm *vm, uint64_t gva, long steps)
{
    const struct vitrine_subscription what = { .kinds = VITRINE_ON_ACCESS, .flags = VITRINE_SUBSCRIBE_ASK, .last_index = UINT32_MAX };
    struct vitrine_translation t;
    struct vitrine_event e;
    if (vitrine_vcpu_translate(vm, 0, gva, &t))
        return -1;
    if (t.result != VITRINE_WALK_OK) {
        errno = EFAULT;
        return -1;
    }
    const struct vitrine_range byte = { .first = t.gpa, .last = t.gpa, .access = VITRINE_EXECUTE };
    int breakpoint = vitrine_vm_subscribe(vm, &what, &byte, 1);
    if (breakpoint < 0)
        return -1;
    int n;
    do
        n = vitrine_vm_next_events(vm, &e, 1, -1, NULL);
    while (n == 0);
    return n < 0 ? -1 : follow(vm, breakpoint, &e, steps);
}

int main(int argc, char **argv)
{
    if (argc != 4) {
        fprintf(stderr, "usage: breakpoint VM ADDRESS STEPS\n");
        return 2;
    }
    struct vitrine_vm *vm = vitrine_vm_open(argv[1]);
    int r = vm ? wait_and_follow(vm, strtoull(argv[2], NULL, 0), atol(argv[3])) : -1;
    if (r)
        fprintf(stderr, "%s: %s\n", argv[1], strerror(errno));
    vitrine_vm_close(vm); /* whatever is left of breakpoints and holds ends here */
    return r != 0;
}
