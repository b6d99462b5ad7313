/* SPDX-License-Identifier: MIT */
/*
 * A hostile client of /dev/mshv: every ioctl, hypercall, property and register of the front's tables, and nearly those, with random, edge and unreadable
 * arguments. Half of the batches call from one thread, half from several that race on one partition while its VPs run. Nothing is judged but that the process
 * lives, keeps errno's rule (-1 with an errno, or >= 0) and ends in time; a sanitized build also judges what is left behind. See batches.h; a seed repeats the
 * choices and not the schedule.
 */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "abi/mshv.h"
#include "batches.h"
#include "front/mshv/front.h"
#include "transport/inproc.h"

#define CALLS_PER_BATCH 3000
#define BATCH_SECONDS 120
#define FIXED_BATCHES 20
#define VPS 2
#define RAM_BYTES 0x100000u
#define PAGE_TABLES_AT 0x10000u

static struct {
    int dev_fd, pt_fd, event_fd, vp_fd[VPS];
    uint8_t *ram;
} client;

struct caller {
    uint64_t state;
    uint8_t *page; /* of arguments; the page behind the third is not readable */
    unsigned n_calls;
};

static uint64_t number(struct caller *c)
{
    const uint64_t edges[] = { 0,
                               1,
                               2,
                               3,
                               8,
                               16,
                               0xfff,
                               0x1000,
                               PAGE_TABLES_AT,
                               RAM_BYTES,
                               0x80000011,
                               0xfee00000,
                               0xffffffff,
                               1ull << 47,
                               ~0ull,
                               (uint64_t)client.event_fd,
                               (uintptr_t)client.ram,
                               (uintptr_t)c->page };
    return batches_choose(&c->state, 2) ? edges[batches_choose(&c->state, sizeof edges / sizeof *edges)]
                                        : batches_random(&c->state) >> batches_choose(&c->state, 64);
}

static void fill(struct caller *c, uint8_t *at, unsigned bytes)
{
    for (unsigned i = 0; i + 8 <= bytes; i += 8) {
        uint64_t value = batches_choose(&c->state, 3) ? number(c) : 0;
        if (batches_choose(&c->state, 3) == 0)
            value = (value & 0xffffffff) << 32 | (number(c) & 0xffffffff);
        memcpy(at + i, &value, 8);
    }
}

static uint32_t register_name(struct caller *c)
{
    unsigned n;
    const struct mshv_register_range *ranges = mshv_register_names(&n), *r = &ranges[batches_choose(&c->state, n)];
    return batches_choose(&c->state, 64) ? r->first + batches_choose(&c->state, r->last - r->first + 1) : (uint32_t)number(c);
}

/* What the call would be made of if it were well-formed. */
static void shape_input(struct caller *c, uint8_t *in, unsigned code, unsigned reps)
{
    const uint32_t vp = batches_choose(&c->state, 16) ? batches_choose(&c->state, VPS) : (uint32_t)number(c), zero = 0;
    unsigned n;
    const struct mshv_property *properties = mshv_property_table(&n);
    switch (code) {
    case MSHV_GET_VP_REGISTERS:
    case MSHV_SET_VP_REGISTERS:
        for (unsigned i = 0; i < reps && i < 100; i++) {
            uint32_t name = register_name(c);
            memcpy(in + 16 + i * (code == MSHV_GET_VP_REGISTERS ? 4 : 32), &name, 4);
        }
        memcpy(in + 12, &zero, 4);
        break;
    case MSHV_GET_PARTITION_PROPERTY:
    case MSHV_SET_PARTITION_PROPERTY:
        memcpy(in + 8, &properties[batches_choose(&c->state, n)].code, 4);
        return;
    case MSHV_ASSERT_VIRTUAL_INTERRUPT:
        in[8] &= 7;
        memset(in + 9, 0, 3);
        memset(in + 25, 0, 7);
        return;
    case MSHV_REGISTER_INTERCEPT_RESULT:
        in[12] = MSHV_INTERCEPT_CPUID;
        memset(in + 13, 0, 3);
        break;
    default:
        break;
    }
    memcpy(in + 8, &vp, 4);
}

static void shape_hypercall(struct caller *c)
{
    unsigned n;
    const struct mshv_hypercall *calls = mshv_hypercall_table(&n), *call = &calls[batches_choose(&c->state, n)];
    unsigned reps = call->in_each ? 1 + batches_choose(&c->state, 8) : 0;
    struct mshv_hvcall h = {
        .code = call->code,
        .reps = (uint16_t)reps,
        .in_bytes = (uint16_t)(call->in_bytes + reps * call->in_each),
        .out_bytes = (uint16_t)(call->out_bytes + reps * call->out_each),
        .in = (uintptr_t)c->page + 4096,
        .out = (uintptr_t)c->page + 8192,
    };
    fill(c, c->page + 4096, 4096);
    shape_input(c, c->page + 4096, call->code, reps);
    if (!h.out_bytes)
        h.out = 0;
    if (batches_choose(&c->state, 16) == 0) {
        uint16_t *fields = &h.code;
        fields[batches_choose(&c->state, 4)] = (uint16_t)number(c);
    }
    memcpy(c->page, &h, sizeof h);
}

/* Guest memory may be any of the client's; the client's own code and stack would be the end of this test. */
static void shape_memory(struct caller *c)
{
    struct mshv_memory m;
    fill(c, c->page, sizeof m);
    memcpy(&m, c->page, sizeof m);
    m.hva = (uintptr_t)client.ram + (batches_choose(&c->state, 16) << 12);
    m.bytes = (uint64_t)batches_choose(&c->state, 17) << 12;
    m.flags &= 15;
    if (batches_choose(&c->state, 4))
        m.guest_pfn &= 0x3ff;
    memset(m.reserved, 0, sizeof m.reserved);
    memcpy(c->page, &m, sizeof m);
}

static void shape_state(struct caller *c)
{
    const struct mshv_vp_state s = { .type = (uint8_t)batches_choose(&c->state, 6), .bytes = 4096, .address = (uintptr_t)c->page + 4096 };
    fill(c, c->page + 4096, 4096);
    memset(c->page + 4096 + 528, 0, 48);
    if (batches_choose(&c->state, 2))
        c->page[4096 + 527] = 0x80;
    memcpy(c->page, &s, sizeof s);
}

static void *argument(struct caller *c, unsigned long request, enum mshv_fd_kind kind)
{
    unsigned how = request == MSHV_SET_GUEST_MEMORY || request == MSHV_RUN_VP ? 2 : batches_choose(&c->state, 16);
    if (how == 0)
        return (void *)(uintptr_t)number(c);
    if (how == 1)
        return c->page + 3 * 4096 - 8 * batches_choose(&c->state, 8); /* runs into the unreadable page */
    fill(c, c->page, 256);
    if (request == MSHV_ROOT_HVCALL)
        shape_hypercall(c);
    else if (request == MSHV_SET_GUEST_MEMORY)
        shape_memory(c);
    else if (kind == MSHV_FD_VP && request != MSHV_RUN_VP)
        shape_state(c);
    return c->page;
}

static void call(struct caller *c)
{
    enum mshv_fd_kind kind = (enum mshv_fd_kind)(batches_choose(&c->state, 16) ? 1 + batches_choose(&c->state, 2) : 0);
    unsigned n;
    const struct mshv_ioctl *calls = mshv_ioctl_table(kind, &n);
    unsigned long request = calls[batches_choose(&c->state, n)].request;
    if (batches_choose(&c->state, 32) == 0)
        request ^= 1ul << batches_choose(&c->state, 32);
    int fd = kind == MSHV_FD_DEVICE ? client.dev_fd : kind == MSHV_FD_PARTITION ? client.pt_fd : client.vp_fd[batches_choose(&c->state, VPS)];
    void *arg = argument(c, request, kind);
    errno = 0;
    int got = vitrine_ioctl(fd, request, arg);
    if ((got < 0) != (got == -1) || (got == -1 && (errno <= 0 || errno >= 4096))) {
        printf("# request %#lx returned %d, errno %d\n", request, got, errno);
        exit(1);
    }
    if (got > 2)
        vitrine_close(got);
}

static void *calls(void *arg)
{
    struct caller *c = arg;
    c->page = mmap(NULL, 4 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    mprotect(c->page + 3 * 4096, 4096, PROT_NONE);
    for (unsigned i = 0; i < c->n_calls; i++)
        call(c);
    batches_count(c->n_calls);
    return NULL;
}

/* Real mode from the reset vector, a loop over all of memory that also reaches a port. */
static void client_create(void)
{
    static const uint8_t code[] = { 0xff, 0x07, 0x83, 0xc3, 0x3e, 0xe6, 0x80, 0xeb, 0xf7 }; /* 1: inc word [bx]; add bx, 62; out 0x80, al; jmp 1b */
    struct mshv_create_partition how = { .flags = MSHV_PT_LAPIC | MSHV_PT_X2APIC };
    client.ram = mmap(NULL, RAM_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memcpy(client.ram + 0xfff0, code, sizeof code);
    for (unsigned i = 0; i < 512; i++) /* whatever becomes of CR3 and paging: an identity map of a kind */
        ((uint64_t *)(void *)(client.ram + PAGE_TABLES_AT))[i] = i << 21 | 0xe7;
    struct mshv_memory low = { .bytes = RAM_BYTES, .hva = (uintptr_t)client.ram, .flags = 3 };
    struct mshv_memory top = { .bytes = 0x10000, .guest_pfn = 0xffff0, .hva = (uintptr_t)client.ram, .flags = 3 };
    client.event_fd = eventfd(0, EFD_NONBLOCK);
    client.dev_fd = vitrine_open("/dev/mshv");
    client.pt_fd = vitrine_ioctl(client.dev_fd, MSHV_CREATE_PARTITION, &how);
    if (vitrine_ioctl(client.pt_fd, MSHV_INITIALIZE_PARTITION, NULL) || vitrine_ioctl(client.pt_fd, MSHV_SET_GUEST_MEMORY, &low) ||
        vitrine_ioctl(client.pt_fd, MSHV_SET_GUEST_MEMORY, &top))
        exit(1);
    for (uint32_t i = 0; i < VPS; i++)
        if ((client.vp_fd[i] = vitrine_ioctl(client.pt_fd, MSHV_CREATE_VP, &i)) < 0)
            exit(1);
}

static void batch(uint64_t seed)
{
    struct caller c[BATCHES_RACERS_MAX];
    uint64_t s = seed;
    unsigned n = batches_choose(&s, 2) ? BATCHES_RACERS_MAX : 1;
    client_create();
    for (unsigned i = 0; i < n; i++)
        c[i] = (struct caller){ .state = s + i * 0x9e3779b97f4a7c15, .n_calls = CALLS_PER_BATCH / n };
    batches_race(calls, c, sizeof *c, n);
    vitrine_close(client.pt_fd);
    for (unsigned i = 0; i < VPS; i++)
        vitrine_close(client.vp_fd[i]);
    vitrine_close(client.dev_fd);
}

int main(void)
{
    static const struct batches b = { "random calls of mshv", "calls", FIXED_BATCHES, BATCH_SECONDS, batch };
    return batches_run(&b);
}
