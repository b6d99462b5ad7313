/* SPDX-License-Identifier: MIT */
/*
 * Guards a virtual machine's kernel: nothing may clear CR4.SMEP or CR4.SMAP once they are set, and the entry of system calls may not be moved. guard VM COUNT
 * ends after so many attempts. A CPU waits for the answer to what it is about to do; if this program goes, it goes on.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <vitrine/vitrine.h>

#define MSR_LSTAR 0xc0000082u
#define PINNED (1u << 20 | 1u << 21) /* CR4.SMEP, CR4.SMAP */

static int answer(struct vitrine_vm *vm, const struct vitrine_event *e, long *left)
{
    uint64_t wanted = e->value | (e->old_value & PINNED);
    if (e->kind == VITRINE_ON_MSR_WRITE) {
        printf("CPU %" PRIu32 " at %#" PRIx64 ": LSTAR = %#" PRIx64 " denied\n", e->vcpu, e->rip, e->value);
        (*left)--;
        return vitrine_vm_answer(vm, e, VITRINE_DENY, 0); /* the instruction is skipped */
    }
    if (wanted == e->value)
        return vitrine_vm_answer(vm, e, VITRINE_CONTINUE, 0);
    printf("CPU %" PRIu32 " at %#" PRIx64 ": CR4 = %#" PRIx64 " made %#" PRIx64 "\n", e->vcpu, e->rip, e->value, wanted);
    (*left)--;
    return vitrine_vm_answer(vm, e, VITRINE_CHANGE, wanted);
}

int main(int argc, char **argv)
{
    const struct vitrine_subscription cr4 = { .kinds = VITRINE_ON_CR, .flags = VITRINE_SUBSCRIBE_ASK, .first_index = 4, .last_index = 4 };
    const struct vitrine_subscription lstar = {
        .kinds = VITRINE_ON_MSR_WRITE, .flags = VITRINE_SUBSCRIBE_ASK, .first_index = MSR_LSTAR, .last_index = MSR_LSTAR
    };
    struct vitrine_event e;
    long left = argc == 3 ? atol(argv[2]) : 0;

    if (left <= 0) {
        fprintf(stderr, "usage: guard VM COUNT\n");
        return 2;
    }
    struct vitrine_vm *vm = vitrine_vm_open(argv[1]);
    int r = vm && vitrine_vm_subscribe(vm, &cr4, NULL, 0) > 0 && vitrine_vm_subscribe(vm, &lstar, NULL, 0) > 0 ? 0 : -1;
    if (!r) {
        printf("on guard\n");
        fflush(stdout);
    }
    while (!r && left > 0) {
        int n = vitrine_vm_next_events(vm, &e, 1, -1, NULL);
        r = n < 0 ? -1 : n ? answer(vm, &e, &left) : 0;
    }
    if (r)
        fprintf(stderr, "%s: %s\n", argv[1], strerror(errno));
    vitrine_vm_close(vm);
    return r != 0;
}
