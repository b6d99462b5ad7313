/* SPDX-License-Identifier: MIT */
/* See counter.h. */
#include "counter.h"

#include <linux/kvm.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "transport/inproc.h"

#define RAM_BYTES 0x20000u
#define CODE_AT 0x1000u
#define COUNT_AT 0x500u
#define ERRORS_AT 0x502u

static int vm_fd, cpu_fd;
static uint8_t *ram;
static pthread_t thread;
static _Atomic bool stop;

static void on_kick(int sig)
{
    (void)sig;
}

static void put_code(void)
{
    static const uint8_t code[] = { 0xff, 0x06, 0x00, 0x05, 0xeb, 0xfa }; /* 1: inc word [500h]; jmp 1b */
    memcpy(ram + CODE_AT, code, sizeof code);
}

/* Vector 3's handler is at 0x1800. */
extern const uint8_t summing_code[], summing_code_end[];
/* clang-format off: assembler */
__asm__(".pushsection .rodata\n"
        "summing_code:\n"
        ".code16\n"
        "  mov $0x7f00, %sp\n"
        "1: incw 0x8000\n"
        "  mov %cr0, %eax; xor $8, %eax; mov %eax, %cr0\n"
        "  lock incw 0x9000\n"
        "  movzwl 0x8000, %eax; xor %edx, %edx; mov $0x174, %ecx; wrmsr\n"
        "  addw $1, 0xa000\n"
        "  mov $0x80000000, %eax; cpuid\n"
        "  mov 0xb000, %dx; inc %dx; mov %dx, 0xb000\n"
        "  mov $34, %eax; mov $24, %ebx; xor %ecx, %ecx; vmcall\n"
        "  sidt 0x6000; lidt 0x6000\n"
        "  int3\n"
        "  mov $0x8000, %si; mov $0xd000, %di; mov $8, %cx; rep movsb\n"
        "  pushw 0xd000; popw %ax\n"
        "  cmp 0x8000, %ax; jne 2f\n"
        "  cmp 0x9000, %ax; jne 2f\n"
        "  cmp 0xa000, %ax; jne 2f\n"
        "  cmp 0xb000, %ax; jne 2f\n"
        "  cmp 0xc000, %ax; jne 2f\n"
        "  incw 0x500\n"
        "  jmp 1b\n"
        "2: incw 0x502\n"
        "  jmp 1b\n"
        "  .org summing_code + 0x800\n"
        "  incw 0xc000\n"
        "  iretw\n"
        "summing_code_end:\n"
        ".code64\n.popsection\n");
/* clang-format on */

/* The first time the registers are those of power-up. */
static void set_state(void)
{
    static struct kvm_sregs sregs;
    struct kvm_regs regs = { .rip = CODE_AT, .rflags = 2 };
    struct kvm_vcpu_events events = { 0 };
    if (!sregs.apic_base && vitrine_ioctl(cpu_fd, KVM_GET_SREGS, &sregs))
        exit(1);
    sregs.cs.base = sregs.cs.selector = 0;
    if (vitrine_ioctl(cpu_fd, KVM_SET_SREGS, &sregs) || vitrine_ioctl(cpu_fd, KVM_SET_REGS, &regs) || vitrine_ioctl(cpu_fd, KVM_SET_VCPU_EVENTS, &events))
        exit(1);
}

void counter_create(void)
{
    struct kvm_userspace_memory_region region = { .memory_size = RAM_BYTES };
    struct sigaction kick = { .sa_handler = on_kick };
    sigaction(SIGUSR1, &kick, NULL);
    ram = mmap(NULL, RAM_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    region.userspace_addr = (uintptr_t)ram;
    int dev_fd = vitrine_open("/dev/kvm");
    vm_fd = vitrine_ioctl(dev_fd, KVM_CREATE_VM, NULL);
    if (vitrine_ioctl(vm_fd, KVM_SET_USER_MEMORY_REGION, &region))
        exit(1);
    cpu_fd = vitrine_ioctl(vm_fd, KVM_CREATE_VCPU, NULL);
    vitrine_close(dev_fd);
    put_code();
    set_state();
}

void counter_create_summing(void)
{
    static const uint16_t vector3[] = { CODE_AT + 0x800, 0 };
    counter_create();
    memcpy(ram + CODE_AT, summing_code, (size_t)(summing_code_end - summing_code));
    memcpy(ram + 3 * sizeof vector3, vector3, sizeof vector3);
}

static void *client(void *arg)
{
    (void)arg;
    while (!atomic_load(&stop))
        vitrine_ioctl(cpu_fd, KVM_RUN, NULL); /* whatever it ends with: registers and memory are the fuzzer's */
    return NULL;
}

void counter_start(void)
{
    if (pthread_create(&thread, NULL, client, NULL))
        exit(1);
}

void counter_stop(void)
{
    atomic_store(&stop, true);
    while (pthread_tryjoin_np(thread, NULL)) {
        pthread_kill(thread, SIGUSR1);
        usleep(1000);
    }
    atomic_store(&stop, false);
}

void counter_must_count(void)
{
    volatile uint16_t *count = (volatile uint16_t *)(ram + COUNT_AT);
    put_code();
    set_state();
    *count = 0;
    counter_start();
    while (!*count)
        usleep(100);
    counter_stop();
}

void counter_must_sum(void)
{
    volatile uint16_t *count = (volatile uint16_t *)(ram + COUNT_AT), *errors = (volatile uint16_t *)(ram + ERRORS_AT);
    uint16_t before = *count;
    counter_start();
    while (*count == before && !*errors)
        usleep(100);
    counter_stop();
    if (!*errors)
        return;
    printf("# the guest's sums are wrong:");
    for (unsigned page = COUNTER_FIRST_PAGE; page < COUNTER_FIRST_PAGE + COUNTER_PAGES; page++)
        printf(" %u", *(const volatile uint16_t *)(ram + page * 4096));
    printf("\n");
    exit(1);
}

void counter_destroy(void)
{
    vitrine_close(cpu_fd);
    vitrine_close(vm_fd);
    munmap(ram, RAM_BYTES);
}
