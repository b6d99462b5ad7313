/* SPDX-License-Identifier: MIT */
/*
 * A virtual machine in this very process, by the calls of <linux/kvm.h>: a few instructions in real mode that write a line to a port. Neither /dev/kvm nor
 * virtualization hardware is needed. Tools may look into it like into any other.
 */
#include <linux/kvm.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <vitrine/vitrine.h>

#define RAM_BYTES 0x10000u
#define CODE_AT 0x1000u

static const uint8_t code[] = {
    0xbe, 0x0f, 0x10, /*    mov si, text */
    0xac,             /* 1: lodsb */
    0x84, 0xc0,       /*    test al, al */
    0x74, 0x04,       /*    jz 2f */
    0xe6, 0x42,       /*    out 0x42, al */
    0xeb, 0xf7,       /*    jmp 1b */
    0xf4,             /* 2: hlt */
    0xeb, 0xfd,       /*    jmp 2b */
    'H',  'e',  'l',  'l', 'o', ' ', 'f', 'r', 'o', 'm', ' ', 'i', 'n', 's', 'i', 'd', 'e', '\n', 0,
};

static int run(int vcpu, const struct kvm_run *shared)
{
    for (;;) {
        if (vitrine_ioctl(vcpu, KVM_RUN, NULL)) {
            perror("KVM_RUN");
            return 1;
        }
        if (shared->exit_reason == KVM_EXIT_HLT)
            return 0;
        if (shared->exit_reason != KVM_EXIT_IO) {
            fprintf(stderr, "exit %u\n", shared->exit_reason);
            return 1;
        }
        putchar(((const char *)shared)[shared->io.data_offset]);
    }
}

int main(void)
{
    struct kvm_regs regs = { .rip = CODE_AT, .rflags = 2 };
    struct kvm_sregs sregs;
    uint8_t *ram = mmap(NULL, RAM_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct kvm_userspace_memory_region slot = { .memory_size = RAM_BYTES, .userspace_addr = (uintptr_t)ram };

    vitrine_set_name("embedded");
    int kvm = vitrine_open("/dev/kvm");
    int vm = vitrine_ioctl(kvm, KVM_CREATE_VM, NULL);
    int vcpu = vitrine_ioctl(vm, KVM_CREATE_VCPU, NULL);
    int bytes = vitrine_ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, NULL);
    if (vcpu < 0 || ram == MAP_FAILED || vitrine_ioctl(vm, KVM_SET_USER_MEMORY_REGION, &slot) || vitrine_ioctl(vcpu, KVM_GET_SREGS, &sregs)) {
        perror("the virtual machine");
        return 1;
    }
    memcpy(ram + CODE_AT, code, sizeof code);
    sregs.cs.base = 0;
    sregs.cs.selector = 0;
    vitrine_ioctl(vcpu, KVM_SET_SREGS, &sregs);
    vitrine_ioctl(vcpu, KVM_SET_REGS, &regs);
    int status = run(vcpu, vitrine_mmap((size_t)bytes, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0));
    vitrine_close(vcpu);
    vitrine_close(vm);
    vitrine_close(kvm);
    return status;
}
