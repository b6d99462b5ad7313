/* SPDX-License-Identifier: MIT */
/*
 * MSHV_RUN_VP as conform_mshv.c's client sees it: each message with the state that belongs to it, what is told again, and what never comes out. No case depends
 * on speed.
 */
#include "tests/conform/mshv_client.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "transport/inproc.h"

/* ---- messages ---- */

static void step_over(struct machine *m)
{
    assert_int_equal(reg_set(m->vp[0], 0, R_RIP, P(24, 8) + (P(4, 1) & 15)), 0);
}

/* mov dx, 0x3f8; add al, bl; add al, '0'; out dx, al; mov al, '\n'; out dx, al */
static void test_add_and_out(void **state)
{
    static const uint8_t code[] = { 0xba, 0xf8, 0x03, 0x00, 0xd8, 0x04, '0', 0xee, 0xb0, '\n', 0xee };
    struct machine mm, *m = &mm;
    (void)state;
    machine_create(m, code, sizeof code);
    uint64_t *page = vitrine_mmap(4096, PROT_READ | PROT_WRITE, MAP_SHARED, m->vp[0], 0);
    assert_int_equal(reg_set(m->vp[0], 0, R_RAX, 2), 0);
    assert_int_equal(reg_set(m->vp[0], 0, R_RBX, 2), 0);
    assert_int_equal(run(m), 0);
    assert_int_equal(TYPE, 0x80010000);
    assert_int_equal(field(m, 4, 1), 128);
    assert_int_equal(P(24, 8), CODE_AT + 7);
    assert_int_equal(P(4, 1) & 15, 1);
    assert_int_equal(P(5, 1), 1);
    assert_int_equal(P(40, 2), PORT);
    assert_int_equal(P(42, 1), 1);
    assert_int_equal(P(43, 1), 1);
    assert_int_equal(P(48, 1), '4');
    assert_int_equal(P(56, 1), 0xee);
    assert_int_equal(page[0] & 0xffffffffffffff, 0x10001); /* version 1, valid, not dirty */
    assert_int_equal(page[1], '4');
    assert_int_equal(page[17], CODE_AT + 7);
    assert_int_equal(reg_get(m->vp[0], 0, 1), 1);
    /* nothing was committed: it comes again */
    assert_int_equal(run(m), 0);
    assert_int_equal(P(24, 8), CODE_AT + 7);
    /* by the page, as some clients do it; the hypercall sees it */
    page[17] += 1;
    ((uint32_t *)page)[1] = 2;
    assert_int_equal(reg_get(m->vp[0], 0, R_RIP), CODE_AT + 8);
    assert_int_equal(run(m), 0);
    assert_int_equal(P(48, 1), '\n');
    step_over(m);
    assert_int_equal(page[17], CODE_AT + 11); /* a register that is set while it is valid is in it */
    munmap(page, 4096);
    machine_close(m);
}

/* A string is a series of single accesses; what the client says of RAX is the datum and not the guest's RAX. */
static void test_strings(void **state)
{
    static const uint8_t code[] = { 0xf3, 0x6e, 0xf3, 0x6d, 0xee };
    struct machine mm, *m = &mm;
    (void)state;
    machine_create(m, code, sizeof code);
    memcpy(m->ram + 0x4000, "abc", 3);
    reg_set_wide(m->vp[0], 0, R_DS, (struct value){ 0, 0xffffull | 0x93ull << 48 });
    reg_set_wide(m->vp[0], 0, R_ES, (struct value){ 0, 0xffffull | 0x93ull << 48 });
    reg_set(m->vp[0], 0, R_RAX, 0x1122334455667788);
    reg_set(m->vp[0], 0, R_RCX, 3);
    reg_set(m->vp[0], 0, R_RSI, 0x4000);
    reg_set(m->vp[0], 0, R_RDI, 0x5000);
    reg_set(m->vp[0], 0, 0x20002, 0x77);
    for (unsigned i = 0; i < 3; i++) {
        assert_int_equal(run(m), 0);
        assert_int_equal(TYPE, 0x80010000);
        assert_int_equal(P(4, 1) & 15, 0);
        assert_int_equal(P(42, 1), 1);
        assert_int_equal(P(5, 1), 1);
        assert_int_equal(P(48, 8), 'a' + i);
        step_over(m);
        reg_set(m->vp[0], 0, R_RAX, P(48, 8));
    }
    assert_int_equal(reg_set(m->vp[0], 0, R_RCX, 2), 0);
    for (unsigned i = 0; i < 2; i++) {
        assert_int_equal(run(m), 0);
        assert_int_equal(P(24, 8), CODE_AT + 2);
        assert_int_equal(P(4, 1) & 15, 0);
        assert_int_equal(P(5, 1), 0);
        assert_int_equal(P(42, 1), 2);
        reg_set(m->vp[0], 0, R_RAX, 0x6140 + i);
        reg_set(m->vp[0], 0, R_RIP, P(24, 8));
    }
    assert_int_equal(run(m), 0);
    assert_int_equal(P(24, 8), CODE_AT + 4);
    assert_int_equal(P(48, 8), 0x1122334455667788);
    assert_memory_equal(m->ram + 0x5000, "\x40\x61\x41\x61", 4);
    assert_int_equal(reg_get(m->vp[0], 0, R_RDI), 0x5004);
    assert_int_equal(reg_get(m->vp[0], 0, R_RCX), 0);
    machine_close(m);
}

static void expect_access(struct machine *m, uint64_t type, uint64_t gpa, unsigned access, const void *insn, unsigned bytes)
{
    assert_int_equal(run(m), 0);
    assert_int_equal(TYPE, type);
    assert_int_equal(field(m, 4, 1), 80);
    assert_int_equal(P(5, 1), access);
    assert_int_equal(P(56, 8), gpa);
    assert_int_equal(P(48, 8), gpa); /* no paging */
    assert_int_equal(P(4, 1) & 15, bytes);
    assert_int_equal(P(44, 1), bytes);
    assert_memory_equal(m->message + 16 + 64, insn, bytes);
    assert_int_equal(P(24, 8), reg_get(m->vp[0], 0, R_RIP));
}

#define UNMAPPED 0x80000000u
#define INTERCEPT 0x80000001u

/* 32-bit flat code: real mode's limits are in the way of what lies above 1 MiB. */
static void go_flat(struct machine *m)
{
    reg_set(m->vp[0], 0, 0x40000, 0x60000011);
    reg_set_wide(m->vp[0], 0, R_CS, (struct value){ 0, 0xffffffffull | 8ull << 32 | 0xc09bull << 48 });
    for (uint32_t name = 0x60000; name < 0x60006; name++)
        if (name != R_CS)
            reg_set_wide(m->vp[0], 0, name, (struct value){ 0, 0xffffffffull | 16ull << 32 | 0xc093ull << 48 });
}

static void test_holes(void **state)
{
    static const uint8_t code[] = {
        0x8b, 0x06, /* mov eax, [esi] */
        0x89, 0x1e, /* mov [esi], ebx */
        0x01, 0x1e, /* add [esi], ebx */
        0xff, 0x36, /* push dword [esi] */
        0xf3, 0xa5, /* rep movsd */
        0x89, 0x18, /* mov [eax], ebx */
        0xff, 0xe2, /* jmp edx */
    };
    struct machine mm, *m = &mm;
    (void)state;
    machine_create(m, code, sizeof code);
    go_flat(m);
    uint8_t *rom = m->ram + 0x100000;
    memcpy(rom, "\x90\x90\xee", 3);
    assert_int_equal(map(m, ROM_AT, rom, 0x1000, 2), 0);
    assert_int_equal(map(m, ROM_AT + 0x1000, rom, 0x1000, 1), 0); /* nothing to execute */
    reg_set(m->vp[0], 0, R_RSI, HOLE_AT + 0x10);
    reg_set(m->vp[0], 0, R_RBX, 0x5a5a);
    reg_set(m->vp[0], 0, 0x20004, 0x8000);
    for (unsigned i = 0; i < 4; i++) { /* a read, a write, both, and one with a stack */
        uint64_t rsp = reg_get(m->vp[0], 0, 0x20004);
        assert_int_equal(run(m), 0);
        assert_int_equal(TYPE, UNMAPPED);
        expect_access(m, UNMAPPED, HOLE_AT + 0x10, i == 1 || (i == 2 && P(5, 1)) ? 1 : 0, code + 2 * i, 2);
        assert_int_equal(reg_get(m->vp[0], 0, 0x20004), rsp);
        step_over(m);
    }
    /* a string that leaves RAM in its middle: what is done is done */
    memset(m->ram + 0x1fff00, 0x11, 0x100);
    reg_set(m->vp[0], 0, R_RSI, RAM_BYTES - 8);
    reg_set(m->vp[0], 0, R_RDI, 0x6000);
    reg_set(m->vp[0], 0, R_RCX, 5);
    expect_access(m, UNMAPPED, RAM_BYTES, 0, code + 8, 2);
    assert_int_equal(reg_get(m->vp[0], 0, R_RCX), 3);
    assert_int_equal(reg_get(m->vp[0], 0, R_RDI), 0x6008);
    assert_int_equal(reg_get(m->vp[0], 0, R_RSI), RAM_BYTES);
    step_over(m);
    reg_set(m->vp[0], 0, R_RAX, ROM_AT);
    expect_access(m, INTERCEPT, ROM_AT, 1, code + 10, 2);
    assert_memory_equal(rom, "\x90\x90\xee", 3);
    step_over(m);
    /* execution: of a hole, of memory that forbids it, of ROM */
    reg_set(m->vp[0], 0, 0x20002, HOLE_AT);
    expect_access(m, UNMAPPED, HOLE_AT, 2, "", 0);
    reg_set(m->vp[0], 0, R_RIP, ROM_AT + 0x1000);
    expect_access(m, INTERCEPT, ROM_AT + 0x1000, 2, "", 0);
    reg_set(m->vp[0], 0, R_RIP, ROM_AT);
    assert_int_equal(run(m), 0);
    assert_int_equal(TYPE, 0x80010000);
    assert_int_equal(P(24, 8), ROM_AT + 2);
    machine_close(m);
}

/* The client puts memory where the hole was, and the instruction goes on by itself. */
static void test_mapped_meanwhile(void **state)
{
    static const uint8_t code[] = { 0x8b, 0x06, 0xee };
    struct machine mm, *m = &mm;
    (void)state;
    machine_create(m, code, sizeof code);
    go_flat(m);
    reg_set(m->vp[0], 0, R_RSI, HOLE_AT);
    expect_access(m, UNMAPPED, HOLE_AT, 0, code, 2);
    memcpy(m->ram + 0x10000, "\x78\x56\x34\x12", 4);
    assert_int_equal(map(m, HOLE_AT, m->ram + 0x10000, 0x1000, 1), 0);
    assert_int_equal(run(m), 0);
    assert_int_equal(TYPE, 0x80010000);
    assert_int_equal(P(48, 8), 0x12345678);
    machine_close(m);
}

static void test_triple_fault(void **state)
{
    static const uint8_t code[] = { 0x0f, 0x0b };
    struct machine mm, *m = &mm;
    (void)state;
    machine_create(m, code, sizeof code);
    go_flat(m);
    reg_set_wide(m->vp[0], 0, R_IDTR, (struct value){ 0, 0 });
    for (unsigned i = 0; i < 3; i++) { /* a client that goes on gets it again */
        assert_int_equal(run(m), 0);
        assert_int_equal(TYPE, 0x80000021);
        assert_int_equal(field(m, 4, 1), 40);
    }
    machine_close(m);
}

/* Interrupt frames that would lie in a hole: the delivery is left as a whole, and goes on when there is memory. */
static void test_delivery_into_hole(void **state)
{
    static const uint8_t code[] = { 0x90, 0xeb, 0xfe };
    struct machine mm, *m = &mm;
    (void)state;
    machine_create(m, code, sizeof code);
    memcpy(m->ram + 0x20 * 4, "\x00\x20\x00\x00", 4);
    m->ram[0x2000] = 0xee;
    reg_set_wide(m->vp[0], 0, 0x60002, (struct value){ 0x600000, 0xffffull | 0x93ull << 48 });
    reg_set(m->vp[0], 0, 0x20004, 0x100);
    reg_set(m->vp[0], 0, R_RFLAGS, 0x202);
    assert_int_equal(reg_set(m->vp[0], 0, 0x10002, 1 | 0x20ull << 16), 0);
    assert_int_equal(run(m), 0);
    assert_int_equal(TYPE, UNMAPPED);
    assert_int_equal(P(5, 1), 1);
    assert_int_equal(P(56, 8) & ~0xfffull, 0x600000);
    assert_int_equal(reg_get(m->vp[0], 0, 0x20004), 0x100);
    assert_int_equal(reg_get(m->vp[0], 0, R_RIP), CODE_AT);
    assert_int_equal(map(m, 0x600000, m->ram + 0x20000, 0x1000, 3), 0);
    assert_int_equal(run(m), 0);
    assert_int_equal(TYPE, 0x80010000);
    assert_int_equal(P(24, 8), 0x2000);
    assert_int_equal(reg_get(m->vp[0], 0, 0x20004), 0xfa);
    machine_close(m);
}

static void test_translate(void **state)
{
    struct machine mm, *m = &mm;
    struct {
        uint64_t partition;
        uint32_t vp, padding;
        uint64_t flags, gva_page;
    } in = { .flags = 1 };
    struct {
        uint32_t result, cache;
        uint64_t gpa_page;
    } out;
    int error;
    (void)state;
    machine_create(m, "\xf4", 1);
    in.gva_page = HOLE_AT >> 12; /* no paging, no memory: still where the client has to go */
    assert_int_equal(hypercall(m->vp[0], 0x52, 0, &in, sizeof in, &out, sizeof out, &error, NULL), 0);
    assert_int_equal(out.result, 0);
    assert_int_equal(out.gpa_page, HOLE_AT >> 12);
    go_flat(m);
    const uint32_t directory[3] = { 0x83, 0x400081, 0 };
    memcpy(m->ram + 0x9000, directory, sizeof directory);
    reg_set(m->vp[0], 0, 0x40002, 0x9000);
    reg_set(m->vp[0], 0, 0x40003, 0x10);
    reg_set(m->vp[0], 0, 0x40000, 0xe0010011);
    in.gva_page = 0x5;
    hypercall(m->vp[0], 0x52, 0, &in, sizeof in, &out, sizeof out, &error, NULL);
    assert_int_equal(out.result, 0);
    assert_int_equal(out.gpa_page, 5);
    in.gva_page = 0x412;
    hypercall(m->vp[0], 0x52, 0, &in, sizeof in, &out, sizeof out, &error, NULL);
    assert_int_equal(out.result, 0);
    assert_int_equal(out.gpa_page, 0x412);
    in.flags = 2;
    hypercall(m->vp[0], 0x52, 0, &in, sizeof in, &out, sizeof out, &error, NULL);
    assert_int_equal(out.result, 2);
    in.gva_page = 0x900;
    hypercall(m->vp[0], 0x52, 0, &in, sizeof in, &out, sizeof out, &error, NULL);
    assert_int_equal(error, 0);
    assert_int_equal(out.result, 1);
    in.vp = 3;
    assert_int_equal(hypercall(m->vp[0], 0x52, 0, &in, sizeof in, &out, sizeof out, &error, NULL), 0xe);
    assert_int_equal(error, -EINVAL);
    machine_close(m);
}

/* ---- waiting ---- */

static void on_kick(int sig)
{
    (void)sig;
}

static void *runner(void *arg)
{
    struct machine *m = arg;
    return (void *)(intptr_t)run(m);
}

/* A halt is never shown: the VP sleeps until a signal or an interrupt. */
static void test_halt_and_signal(void **state)
{
    static const uint8_t code[] = { 0xfb, 0xf4, 0xee };
    struct machine mm, *m = &mm;
    struct sigaction kick = { .sa_handler = on_kick };
    pthread_t thread;
    void *result = NULL;
    (void)state;
    sigaction(SIGUSR1, &kick, NULL);
    machine_create(m, code, sizeof code);
    assert_int_equal(pthread_create(&thread, NULL, runner, m), 0);
    do { /* one that came before the call began would be lost */
        pthread_kill(thread, SIGUSR1);
        nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
    } while (pthread_tryjoin_np(thread, &result));
    assert_int_equal((intptr_t)result, -EINTR);
    assert_int_equal(reg_get(m->vp[0], 0, 0), 1);
    assert_int_equal(reg_get(m->vp[0], 0, 1), 0);
    machine_close(m);
}

/* A signal between two calls ends the next one, once. */
static void test_early_signal(void **state)
{
    static const uint8_t code[] = { 0xee };
    struct machine mm, *m = &mm;
    struct sigaction kick = { .sa_handler = on_kick };
    (void)state;
    sigaction(SIGUSR1, &kick, NULL);
    machine_create(m, code, sizeof code);
    assert_int_equal(run(m), 0);
    raise(SIGUSR1);
    assert_int_equal(run(m), -EINTR);
    assert_int_equal(reg_get(m->vp[0], 0, 0), 1);
    assert_int_equal(run(m), 0);
    assert_int_equal(P(24, 8), CODE_AT);
    machine_close(m);
}

static unsigned assert_interrupt(struct machine *m, uint32_t type, uint32_t bits, uint64_t destination, uint32_t vector, int *error)
{
    struct {
        uint64_t partition;
        uint32_t type, bits;
        uint64_t destination;
        uint32_t vector, vtl;
    } in = { 0, type, bits, destination, vector, 0 };
    return hypercall(m->pt, 0x94, 0, &in, sizeof in, NULL, 0, error, NULL);
}

static void interrupted_create(struct machine *m)
{
    static const uint8_t code[] = {
        0x66, 0xbf, 0xf0, 0x00, 0xe0, 0xfe,             /* mov edi, 0xfee000f0 */
        0x67, 0x66, 0xc7, 0x07, 0xff, 0x01, 0x00, 0x00, /* mov dword [edi], 0x1ff: LAPIC on */
        0xfb, 0xf4, 0xeb, 0xfd,                         /* sti; hlt; jmp */
    };
    static const uint8_t handler[] = {
        0x66, 0xbf, 0xb0, 0x00, 0xe0, 0xfe,             /* mov edi, 0xfee000b0 */
        0xee,                                           /* out dx, al */
        0x67, 0x66, 0xc7, 0x07, 0x00, 0x00, 0x00, 0x00, /* EOI */
        0xee,                                           /* out dx, al */
    };
    machine_create(m, code, sizeof code);
    memcpy(m->ram + 0x2000, handler, sizeof handler);
    memcpy(m->ram + 0x40 * 4, "\x00\x20\x00\x00", 4);
    for (uint32_t name = 0x60000; name < 0x60004; name++)
        if (name != R_CS)
            reg_set_wide(m->vp[0], 0, name, (struct value){ 0, 0xffffffffull | 0x8093ull << 48 });
    reg_set(m->vp[0], 0, 0x20004, 0x8000);
}

static void expect_out(struct machine *m, uint64_t rip)
{
    assert_int_equal(TYPE, 0x80010000);
    assert_int_equal(P(24, 8), rip);
    step_over(m);
}

/* An interrupt wakes a halted VP; a level-triggered one tells of its EOI, an edge-triggered one does not. */
static void test_interrupts(void **state)
{
    struct machine mm, *m = &mm;
    pthread_t thread;
    void *result;
    int error;
    (void)state;
    for (uint32_t level = 0; level < 2; level++) {
        interrupted_create(m);
        assert_int_equal(assert_interrupt(m, 3, 0, 0, 0x40, &error), 5);
        assert_int_equal(assert_interrupt(m, 0, 0, 0, 0x140, &error), 5);
        assert_int_equal(pthread_create(&thread, NULL, runner, m), 0);
        do { /* until its LAPIC is on */
            assert_int_equal(assert_interrupt(m, 0, level, 0, 0x40, &error), 0);
            nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
        } while (pthread_tryjoin_np(thread, &result));
        assert_int_equal((intptr_t)result, 0);
        expect_out(m, 0x2006);
        if (level) {
            assert_int_equal(run(m), 0);
            assert_int_equal(TYPE, 0x80010004);
            assert_int_equal(field(m, 4, 1), 8);
            assert_int_equal(P(0, 4), 0);
            assert_int_equal(P(4, 4), 0x40);
        }
        assert_int_equal(run(m), 0);
        expect_out(m, 0x200f);
        machine_close(m);
    }
}

/* An eventfd is an interrupt by its route; a level-triggered one is acknowledged on the other eventfd when the vector's number is the GSI's, and not by a
 * message. */
static void test_irqfd(void **state)
{
    struct machine mm, *m = &mm;
    pthread_t thread;
    void *result;
    uint64_t one = 1, count;
    (void)state;
    for (uint32_t level = 0; level < 2; level++) {
        int fd = eventfd(0, EFD_NONBLOCK), ack = eventfd(0, EFD_NONBLOCK);
        interrupted_create(m);
        uint32_t table[6] = { 1, 0, 0x40, 0xfee00000, 0, 0x40 | level << 15 };
        int32_t in[4] = { fd, ack, 0x40, level ? 2 : 0 };
        assert_int_equal(call(m->pt, SET_ROUTING, table), 0);
        assert_int_equal(call(m->pt, IRQFD, in), 0);
        assert_int_equal(pthread_create(&thread, NULL, runner, m), 0);
        do { /* until its LAPIC is on */
            assert_int_equal(write(fd, &one, 8), 8);
            nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
        } while (pthread_tryjoin_np(thread, &result));
        expect_out(m, 0x2006);
        assert_int_equal(run(m), 0);
        expect_out(m, 0x200f); /* no EOI message in between */
        assert_int_equal(read(ack, &count, 8), level ? 8 : -1);
        close(fd);
        close(ack);
        machine_close(m);
    }
}

/* A write to a doorbell is no message; another value, where one is asked for, and a read are. */
static void test_ioeventfd(void **state)
{
    static const uint8_t code[] = { 0x89, 0x1e, 0x89, 0x1e, 0x8b, 0x06 };
    struct machine mm, *m = &mm;
    uint64_t count;
    int fd = eventfd(0, EFD_NONBLOCK);
    struct doorbell d = { 0x5a, HOLE_AT, 4, fd, 1, 0 };
    (void)state;
    machine_create(m, code, sizeof code);
    go_flat(m);
    assert_int_equal(call(m->pt, IOEVENTFD, &d), 0);
    reg_set(m->vp[0], 0, R_RSI, HOLE_AT);
    reg_set(m->vp[0], 0, R_RBX, 0x5b);
    expect_access(m, UNMAPPED, HOLE_AT, 1, code, 2);
    assert_int_equal(read(fd, &count, 8), -1);
    reg_set(m->vp[0], 0, R_RBX, 0x5a);
    expect_access(m, UNMAPPED, HOLE_AT, 0, code + 4, 2);
    assert_int_equal(read(fd, &count, 8), 8);
    assert_int_equal(count, 2);
    d.flags = 5;
    assert_int_equal(call(m->pt, IOEVENTFD, &d), 0);
    d.flags = d.bytes = 0; /* any value, any size */
    assert_int_equal(call(m->pt, IOEVENTFD, &d), 0);
    reg_set(m->vp[0], 0, R_RIP, CODE_AT);
    reg_set(m->vp[0], 0, R_RBX, 1);
    expect_access(m, UNMAPPED, HOLE_AT, 0, code + 4, 2);
    assert_int_equal(read(fd, &count, 8), 8);
    d.flags = 4;
    assert_int_equal(call(m->pt, IOEVENTFD, &d), 0);
    reg_set(m->vp[0], 0, R_RIP, CODE_AT);
    expect_access(m, UNMAPPED, HOLE_AT, 1, code, 2);
    close(fd);
    machine_close(m);
}

static uint64_t tsc_of(const struct machine *m)
{
    return reg_get(m->vp[0], 0, 0x80000);
}

/* While time stands still the TSC does, and the VP executes nothing but heeds signals; all goes on from there. */
static void test_freeze(void **state)
{
    static const uint8_t out[] = { 0xee };
    struct machine mm, *m = &mm;
    struct sigaction kick = { .sa_handler = on_kick };
    pthread_t thread;
    void *result;
    uint64_t on = 1, off = 0, value = 7, clock = 0;
    int error;
    (void)state;
    sigaction(SIGUSR1, &kick, NULL);
    machine_create(m, out, sizeof out);
    assert_int_equal(property(m->pt, 0x44, 0x60009, &clock, &error), 0);
    assert_int_equal(property(m->pt, 0x45, 0x30003, &value, &error), 0xa);
    uint64_t before = tsc_of(m);
    assert_int_equal(property(m->pt, 0x45, 0x30003, &on, &error), 0);
    assert_int_equal(property(m->pt, 0x45, 0x30003, &on, &error), 0);
    assert_int_equal(property(m->pt, 0x44, 0x30003, &value, &error), 0);
    assert_int_equal(value, 1);
    uint64_t frozen = tsc_of(m);
    assert_true(frozen >= before);
    nanosleep(&(struct timespec){ .tv_nsec = 20000000 }, NULL);
    assert_int_equal(tsc_of(m), frozen);
    assert_int_equal(pthread_create(&thread, NULL, runner, m), 0);
    do {
        pthread_kill(thread, SIGUSR1);
        nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
    } while (pthread_tryjoin_np(thread, &result));
    assert_int_equal((intptr_t)result, -EINTR);
    assert_int_equal(tsc_of(m), frozen);
    /* one that waits for the thaw */
    assert_int_equal(pthread_create(&thread, NULL, runner, m), 0);
    struct timespec t0, t1;
    clock_gettime(CLOCK_MONOTONIC, &t0);
    assert_int_equal(property(m->pt, 0x45, 0x30003, &off, &error), 0);
    assert_int_equal(pthread_join(thread, &result), 0);
    expect_out(m, CODE_AT);
    uint64_t after = tsc_of(m);
    clock_gettime(CLOCK_MONOTONIC, &t1);
    uint64_t ns = (uint64_t)(t1.tv_sec - t0.tv_sec) * 1000000000u + (uint64_t)(t1.tv_nsec - t0.tv_nsec);
    assert_true(after > frozen);
    assert_true((after - frozen) / (clock / 1000000) <= ns / 1000 + 1000); /* none of the time that it stood still */
    machine_close(m);
}

static void *second_runner(void *arg)
{
    struct machine *m = arg;
    static uint8_t message[256];
    int r = call(m->vp[1], RUN, message);
    memcpy(m->message, message, sizeof message);
    return (void *)(intptr_t)r;
}

/* The second VP is in RUN_VP from the start, and a start-up IPI lets it go. */
static void test_startup(void **state)
{
    struct machine mm, *m = &mm;
    pthread_t thread;
    void *result;
    int error;
    (void)state;
    machine_create(m, "\xf4", 1);
    m->vp[1] = vp_create(m, 1);
    m->ram[0x3000] = 0xee;
    assert_int_equal(pthread_create(&thread, NULL, second_runner, m), 0);
    assert_int_equal(assert_interrupt(m, 6, 0, 1, 3, &error), 0);
    assert_int_equal(pthread_join(thread, &result), 0);
    assert_int_equal((intptr_t)result, 0);
    assert_int_equal(TYPE, 0x80010000);
    assert_int_equal(P(0, 4), 1);
    assert_int_equal(P(24, 8), 0);
    assert_int_equal(P(8, 8), 0x3000);
    machine_close(m);
}

const struct CMUnitTest mshv_run_tests[] = {
    cmocka_unit_test(test_add_and_out),      cmocka_unit_test(test_strings),         cmocka_unit_test(test_holes),
    cmocka_unit_test(test_mapped_meanwhile), cmocka_unit_test(test_triple_fault),    cmocka_unit_test(test_delivery_into_hole),
    cmocka_unit_test(test_translate),        cmocka_unit_test(test_halt_and_signal), cmocka_unit_test(test_interrupts),
    cmocka_unit_test(test_startup),          cmocka_unit_test(test_irqfd),           cmocka_unit_test(test_early_signal),
    cmocka_unit_test(test_freeze),           cmocka_unit_test(test_ioeventfd),
};
const size_t mshv_run_test_count = sizeof mshv_run_tests / sizeof mshv_run_tests[0];
