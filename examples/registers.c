/* SPDX-License-Identifier: MIT */
/*
 * Lists the virtual machines of this user, or shows where each CPU of one is: registers VM. See vitrine/inspect.h; errors are errno's, as everywhere in it.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <vitrine/vitrine.h>

enum { VMS = 64, VCPUS = 64 };

static int list(void)
{
    struct vitrine_vm_info vm[VMS];
    int n = vitrine_vm_list(vm, VMS);
    if (n < 0) {
        perror("list");
        return 1;
    }
    for (int i = 0; i < n && i < VMS; i++)
        printf("%" PRIu32 " %s: %" PRIu32 " CPUs, %" PRIu64 " MiB\n", vm[i].pid, vm[i].name, vm[i].n_vcpus, vm[i].memory_bytes >> 20);
    return 0;
}

int main(int argc, char **argv)
{
    struct vitrine_vcpu_info vcpu[VCPUS];
    struct vitrine_regs regs;

    if (argc < 2)
        return list();
    struct vitrine_vm *vm = vitrine_vm_open(argv[1]); /* a name, a pid, the beginning of a name */
    if (!vm) {
        fprintf(stderr, "%s: %s\n", argv[1], strerror(errno));
        return 1;
    }
    int n = vitrine_vm_vcpus(vm, vcpu, VCPUS);
    for (int i = 0; i < n && i < VCPUS; i++) {
        if (vitrine_vcpu_get_regs(vm, vcpu[i].id, &regs)) /* it stops between two instructions for as long as that takes */
            break;
        printf("CPU %" PRIu32 ", %" PRIu32 " bits: rip %#" PRIx64 " rsp %#" PRIx64 " cr3 %#" PRIx64 " lstar %#" PRIx64 "\n", vcpu[i].id, vcpu[i].mode, regs.rip,
               regs.gpr[4], regs.cr3, regs.lstar);
    }
    vitrine_vm_close(vm);
    return n < 0;
}
