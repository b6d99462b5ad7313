/* SPDX-License-Identifier: MIT */
/*
 * A hostile client: every call of the front's table, and nearly calls, with random, edge and unreadable arguments, on fds of the right and the wrong kind. Half
 * of the batches call from one thread, half from several that race on the same VM while its vCPUs run and their fds are closed and replaced. Nothing is judged
 * but that the process lives, keeps errno's rule (-1 with an errno, or >= 0) and ends in time; a sanitized build also judges what is left behind.
 * See batches.h; a seed repeats the choices and not the schedule.
 */
#include <errno.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "batches.h"
#include "front/kvm/front.h"
#include "transport/inproc.h"

#define CALLS_PER_BATCH 3000
#define BATCH_SECONDS 120
#define FIXED_BATCHES 20
#define CPUS 2
#define RAM_BYTES 0x100000u

/* What all threads share; fds change under them. */
static struct {
    int dev_fd, vm_fd, event_fd;
    _Atomic int cpu_fd[CPUS];
    _Atomic(struct kvm_run *) run[CPUS];
    uint8_t *ram;
    bool is_racing;
} client;

struct caller {
    uint64_t state;
    uint8_t *page; /* of arguments; the next page is not readable */
    unsigned n_calls;
};

static uint64_t number(struct caller *c)
{
    const uint64_t edges[] = { 0,
                               1,
                               2,
                               3,
                               4,
                               8,
                               0xfff,
                               0x1000,
                               0x2000,
                               0x80000,
                               0x10000,
                               RAM_BYTES,
                               0xfee00000,
                               0x7fffffff,
                               0xffffffff,
                               1ull << 47,
                               ~0ull << 12,
                               ~0ull,
                               (uint64_t)client.event_fd,
                               (uint64_t)client.vm_fd,
                               (uintptr_t)client.ram,
                               (uintptr_t)c->page };
    return batches_choose(&c->state, 2) ? edges[batches_choose(&c->state, sizeof edges / sizeof *edges)]
                                        : batches_random(&c->state) >> batches_choose(&c->state, 64);
}

static void fill(struct caller *c)
{
    for (unsigned i = 0; i < 4096; i += 8) {
        uint64_t value = i > 64 && batches_choose(&c->state, 4) ? 0 : number(c);
        if (batches_choose(&c->state, 4) == 0)
            value = (value & 0xffffffff) << 32 | (number(c) & 0xffffffff);
        memcpy(c->page + i, &value, 8);
    }
}

/* Guest memory may be any of the client's; the client's own code and stack would be the end of this test. */
static void limit_region(struct caller *c)
{
    struct kvm_userspace_memory_region r;
    memcpy(&r, c->page, sizeof r);
    bool is_own = r.userspace_addr == (uintptr_t)client.ram;
    if (r.userspace_addr < 1ull << 47)
        r.memory_size &= is_own ? RAM_BYTES - 1 : 0x1fff;
    if (!is_own && r.userspace_addr != (uintptr_t)c->page)
        r.userspace_addr |= 1ull << 63;
    memcpy(c->page, &r, sizeof r);
}

static void *argument(struct caller *c, unsigned long request)
{
    bool is_region = _IOC_NR(request) == _IOC_NR(KVM_SET_USER_MEMORY_REGION) || _IOC_NR(request) == 0x49;
    bool is_mask = request == KVM_SET_SIGNAL_MASK;
    unsigned how = is_region || is_mask ? 2 : batches_choose(&c->state, 8);
    if (how == 0)
        return (void *)(uintptr_t)number(c);
    if (how == 1)
        return c->page + 4096 - 8 * batches_choose(&c->state, 8); /* runs into the unreadable page */
    fill(c);
    if (is_region)
        limit_region(c);
    if (is_mask) /* the kick must come through */
        c->page[4 + (BATCHES_KICK - 1) / 8] &= (uint8_t) ~(1u << (BATCHES_KICK - 1) % 8);
    return c->page;
}

/* A new vCPU takes the place of one that may just be running. */
static void replace_cpu(unsigned i, int fd)
{
    struct kvm_run *run = vitrine_mmap(4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (run != MAP_FAILED)
        atomic_store(&client.run[i], run);
    vitrine_close(atomic_exchange(&client.cpu_fd[i], fd));
}

static void keep_or_close(struct caller *c, unsigned long request, int got)
{
    if (request == KVM_CREATE_VCPU && batches_choose(&c->state, 2))
        replace_cpu(batches_choose(&c->state, CPUS), got);
    else if (request == KVM_CREATE_VCPU || request == KVM_CREATE_VM || request == KVM_GET_STATS_FD)
        vitrine_close(got);
}

static void call(struct caller *c)
{
    unsigned n;
    const struct kvm_call *calls = kvm_dispatch_table(&n), *known = &calls[batches_choose(&c->state, n)];
    unsigned long request = known->request;
    if (batches_choose(&c->state, 32) == 0)
        request ^= 1ul << batches_choose(&c->state, 32);
    if (request == KVM_CREATE_VM && batches_choose(&c->state, 16))
        return;
    unsigned i = batches_choose(&c->state, CPUS), kind = batches_choose(&c->state, 16) ? (unsigned)known->kind : batches_choose(&c->state, 4);
    int fd = kind == KVM_FD_DEVICE ? client.dev_fd : kind == KVM_FD_VM ? client.vm_fd : kind == KVM_FD_VCPU ? atomic_load(&client.cpu_fd[i]) : client.event_fd;
    void *arg = request == KVM_RUN && batches_choose(&c->state, 8) ? NULL : argument(c, request);
    if (!client.is_racing)
        atomic_load(&client.run[i])->immediate_exit = 1; /* nobody kicks */
    errno = 0;
    int got = vitrine_ioctl(fd, request, arg);
    if ((got < 0) != (got == -1) || (got == -1 && (errno <= 0 || errno >= 4096))) {
        printf("# request %#lx returned %d, errno %d\n", request, got, errno);
        exit(1);
    }
    if (got > 2)
        keep_or_close(c, request, got);
}

static void *calls(void *arg)
{
    struct caller *c = arg;
    c->page = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    mprotect(c->page + 4096, 4096, PROT_NONE);
    for (unsigned i = 0; i < c->n_calls; i++)
        call(c);
    batches_count(c->n_calls);
    return NULL;
}

/* Real mode, a loop over all of memory that also reaches a port and memory that is not there. */
static void client_create(uint64_t *s)
{
    static const uint8_t code[] = { 0xff, 0x07, 0x83, 0xc3, 0x3e, 0xe6, 0x80, 0xeb, 0xf7 }; /* 1: inc word [bx]; add bx, 62; out 0x80, al; jmp 1b */
    struct kvm_userspace_memory_region region = { .memory_size = RAM_BYTES };
    client.ram = mmap(NULL, RAM_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memcpy(client.ram + 0xffff0, code, sizeof code); /* the reset vector, by its alias: CS is F000 */
    region.userspace_addr = (uintptr_t)client.ram;
    client.event_fd = eventfd(0, EFD_NONBLOCK);
    client.dev_fd = vitrine_open("/dev/kvm");
    client.vm_fd = vitrine_ioctl(client.dev_fd, KVM_CREATE_VM, NULL);
    vitrine_ioctl(client.vm_fd, KVM_SET_USER_MEMORY_REGION, &region);
    if (batches_choose(s, 2))
        vitrine_ioctl(client.vm_fd, KVM_CREATE_IRQCHIP, NULL);
    for (unsigned i = 0; i < CPUS; i++) {
        struct kvm_sregs sregs;
        int fd = vitrine_ioctl(client.vm_fd, KVM_CREATE_VCPU, (void *)(uintptr_t)i);
        client.run[i] = vitrine_mmap(4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (fd < 0 || client.run[i] == MAP_FAILED || vitrine_ioctl(fd, KVM_GET_SREGS, &sregs))
            exit(1);
        sregs.cs.base = 0xf0000;
        if (vitrine_ioctl(fd, KVM_SET_SREGS, &sregs))
            exit(1);
        client.cpu_fd[i] = fd;
    }
}

static void batch(uint64_t seed)
{
    struct caller c[BATCHES_RACERS_MAX];
    uint64_t s = seed;
    client.is_racing = batches_choose(&s, 2);
    client_create(&s);
    unsigned n = client.is_racing ? BATCHES_RACERS_MAX : 1;
    for (unsigned i = 0; i < n; i++)
        c[i] = (struct caller){ .state = s + i * 0x9e3779b97f4a7c15, .n_calls = CALLS_PER_BATCH / n };
    batches_race(calls, c, sizeof *c, n);
    vitrine_close(client.vm_fd);
    for (unsigned i = 0; i < CPUS; i++)
        vitrine_close(client.cpu_fd[i]);
    vitrine_close(client.dev_fd);
}

int main(void)
{
    static const struct batches b = { "random calls", "calls", FIXED_BATCHES, BATCH_SECONDS, batch };
    return batches_run(&b);
}
