/* SPDX-License-Identifier: MIT */
/* See real_guest.h. */
#include "tests/unit/real_guest.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "core/vm.h"
#include "transport/inproc.h"
#include "vitrine/inspect.h"

static void on_kick(int sig)
{
    (void)sig;
}

static void create_cpu(struct real_guest *g)
{
    struct kvm_regs regs = { .rip = REAL_GUEST_CODE_AT, .rflags = 2, .rsp = REAL_GUEST_STACK_AT };
    struct kvm_sregs sregs;
    g->cpu_fd = vitrine_ioctl(g->vm_fd, KVM_CREATE_VCPU, NULL);
    g->run = vitrine_mmap((size_t)vitrine_ioctl(g->dev_fd, KVM_GET_VCPU_MMAP_SIZE, NULL), PROT_READ | PROT_WRITE, MAP_SHARED, g->cpu_fd, 0);
    assert_true(g->run != MAP_FAILED);
    assert_int_equal(vitrine_ioctl(g->cpu_fd, KVM_GET_SREGS, &sregs), 0);
    sregs.cs.base = sregs.cs.selector = 0;
    assert_int_equal(vitrine_ioctl(g->cpu_fd, KVM_SET_SREGS, &sregs), 0);
    assert_int_equal(vitrine_ioctl(g->cpu_fd, KVM_SET_REGS, &regs), 0);
}

void real_guest_create(struct real_guest *g, uint32_t ram_bytes, const void *code, size_t bytes, bool has_irqchip)
{
    struct sigaction kick = { .sa_handler = on_kick };
    sigaction(REAL_GUEST_KICK, &kick, NULL);
    *g = (struct real_guest){ .dev_fd = vitrine_open("/dev/kvm"), .ram_bytes = ram_bytes };
    g->vm_fd = vitrine_ioctl(g->dev_fd, KVM_CREATE_VM, NULL);
    if (has_irqchip)
        assert_int_equal(vitrine_ioctl(g->vm_fd, KVM_CREATE_IRQCHIP, NULL), 0);
    g->ram = mmap(NULL, ram_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct kvm_userspace_memory_region region = { .memory_size = ram_bytes, .userspace_addr = (uintptr_t)g->ram };
    assert_int_equal(vitrine_ioctl(g->vm_fd, KVM_SET_USER_MEMORY_REGION, &region), 0);
    memcpy(g->ram + REAL_GUEST_CODE_AT, code, bytes);
    create_cpu(g);
    g->vm = vm_find(1);
    assert_non_null(g->vm);
    g->v = g->vm->vcpu[0];
}

void real_guest_destroy(struct real_guest *g)
{
    vm_put(g->vm);
    vitrine_close(g->cpu_fd);
    vitrine_close(g->vm_fd);
    vitrine_close(g->dev_fd);
    for (struct vm *vm; (vm = vm_find(1)); usleep(1000)) /* a tool's connection that was just closed may still have it */
        vm_put(vm);
    munmap(g->ram, g->ram_bytes);
}

struct kvm_regs real_guest_regs(const struct real_guest *g)
{
    struct kvm_regs r;
    assert_int_equal(vitrine_ioctl(g->cpu_fd, KVM_GET_REGS, &r), 0);
    return r;
}

void real_guest_wait_moving(const struct real_guest *g, uint32_t at)
{
    const volatile uint16_t *count = (const volatile uint16_t *)(g->ram + at);
    uint16_t before = *count;
    while (*count == before)
        usleep(100);
}

void real_guest_run(struct real_guest *g)
{
    while (!g->run->immediate_exit)
        vitrine_ioctl(g->cpu_fd, KVM_RUN, NULL);
}

static void *run(void *g)
{
    real_guest_run(g);
    return NULL;
}

pthread_t real_guest_start(struct real_guest *g)
{
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, run, g), 0);
    return thread;
}

void real_guest_kick_until_ended(struct real_guest *g, pthread_t client)
{
    g->run->immediate_exit = 1;
    while (pthread_tryjoin_np(client, NULL)) {
        pthread_kill(client, REAL_GUEST_KICK);
        usleep(1000);
    }
}

struct vitrine_vm *real_guest_open(void)
{
    char self[16];
    snprintf(self, sizeof self, "%d", (int)getpid());
    return vitrine_vm_open(self);
}

struct vitrine_vm *real_guest_begin(struct real_guest *g, uint32_t ram_bytes, const void *code, size_t bytes, pthread_t *client)
{
    real_guest_create(g, ram_bytes, code, bytes, false);
    *client = real_guest_start(g);
    struct vitrine_vm *tool = real_guest_open();
    assert_non_null(tool);
    return tool;
}

void real_guest_end(struct real_guest *g, pthread_t client, struct vitrine_vm *tool)
{
    vitrine_vm_close(tool);
    real_guest_kick_until_ended(g, client);
    real_guest_destroy(g);
}
