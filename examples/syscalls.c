/* SPDX-License-Identifier: MIT */
/*
 * Prints system calls of a virtual machine's programs as they are made: syscalls VM COUNT. No CPU waits for this program: what comes faster than it reads is
 * dropped, and counted.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <vitrine/vitrine.h>

enum { RDX = 2, RSI = 6, RDI = 7, EVENTS = 64 };

int main(int argc, char **argv)
{
    /* Filters are evaluated before anybody is woken: only those of privilege level 3. */
    const struct vitrine_subscription calls = { .kinds = VITRINE_ON_SYSCALL, .cpls = 1u << 3, .last_index = UINT32_MAX };
    struct vitrine_event e[EVENTS];
    uint64_t dropped = 0;
    long left = argc == 3 ? atol(argv[2]) : 0;

    if (left <= 0) {
        fprintf(stderr, "usage: syscalls VM COUNT\n");
        return 2;
    }
    struct vitrine_vm *vm = vitrine_vm_open(argv[1]);
    if (!vm || vitrine_vm_subscribe(vm, &calls, NULL, 0) < 0) {
        fprintf(stderr, "%s: %s\n", argv[1], strerror(errno));
        return 1;
    }
    while (left > 0) {
        int n = vitrine_vm_next_events(vm, e, EVENTS, -1, &dropped);
        if (n < 0) {
            fprintf(stderr, "%s: %s\n", argv[1], strerror(errno));
            return 1;
        }
        for (int i = 0; i < n && left > 0; i++, left--)
            printf("CPU %" PRIu32 " process %#" PRIx64 ": call %" PRIu64 " (%#" PRIx64 ", %#" PRIx64 ", %#" PRIx64 ")\n", e[i].vcpu, e[i].cr3, e[i].value,
                   e[i].gpr[RDI], e[i].gpr[RSI], e[i].gpr[RDX]);
    }
    printf("dropped: %" PRIu64 "\n", dropped);
    vitrine_vm_close(vm); /* ends the subscription */
    return 0;
}
