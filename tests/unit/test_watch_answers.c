/* SPDX-License-Identifier: MIT */
/*
 * Answers of tools that give an instruction what it gets, bring something else in its place, or end the guest; several tools with different ones; tools that go
 * without one. On the real engine, with the results of the instruction.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <string.h>

#include "core/hold.h"
#include "core/vcpu.h"
#include "core/vm.h"
#include "tests/unit/watched.h"
#include "transport/inproc.h"

GUEST_CODE(rdmsr, ".code16\n mov $0x12345678, %ecx\n rdmsr\n out %al, $0x10");
GUEST_CODE(cpuid, ".code16\n mov $0x40000000, %eax\n mov $3, %ecx\n cpuid\n out %al, $0x10");
GUEST_CODE(call, ".code16\n mov $0x77, %eax\n vmmcall\n out %al, $0x10");
GUEST_CODE(in, ".code16\n mov $0x11223344, %eax\n in $0x80, %al\n mov %eax, %ebx\n in $0x82, %eax\n out %al, $0x10");
GUEST_CODE(insb, ".code16\n cld\n mov $0x8000, %di\n mov $5, %cx\n mov $0x81, %dx\n rep insb\n out %al, $0x10");
GUEST_CODE(load, ".code16\n mov 0x8000, %eax\n incw 0x8010\n mov $1, %ecx\n lock xaddl %ecx, 0x8020\n lock btsl $4, 0x8030\n setc %bl\n mov 0x8ffe, %edx\n"
                 "cld\n mov $0x8000, %si\n mov $0x9100, %di\n mov $3, %cx\n rep movsb\n out %al, $0x10");
GUEST_CODE(sse, ".code16\n mov %cr4, %eax\n or $0x200, %ax\n mov %eax, %cr4\n movdqu 0x8008, %xmm0\n movdqu %xmm0, 0x9200\n out %al, $0x10");
GUEST_CODE(execute, ".code16\n call 1f\n out %al, $0x10\n .org 0x100 + code_execute\n1: mov $5, %cx\n ret\n 2: mov $6, %cx\n ret");
GUEST_CODE(sti, ".code16\n mov %cr0, %eax\n mov %eax, %cr0\n mov $1, %bx\n mov 0x600, %cx\n sti\n nop\n nop\n mov 0x600, %dx\n out %al, $0x10");
GUEST_CODE(divide, ".code16\n xor %cx, %cx\n div %cx\n mov $9, %bx\n out %al, $0x10");
GUEST_CODE(skip_handler, ".code16\n incw 0x602\n push %bp\n mov %sp, %bp\n addw $2, 2(%bp)\n pop %bp\n iret");
GUEST_CODE(many, ".code16\n mov $10, %cx\n1: incw 0x8000\n loop 1b\n incw 0x8000\n out %al, $0x10");
GUEST_CODE(tables, ".code64\n mov 0x8000, %eax\n mov %eax, 0x8010\n out %al, $0x10");
GUEST_CODE(self, ".code16\n nop\n nop\n mov 0x1000, %al\n mov %al, 0x1080\n out %al, $0x10");

#define UD_HANDLER_AT 0x3400u

static struct watch_reply give(uint64_t value)
{
    return (struct watch_reply){ .answer = WATCH_EMULATE, .value = value };
}

static struct watch_reply give_bytes(gva_t at, const void *data, unsigned bytes)
{
    struct watch_reply r = { .answer = WATCH_EMULATE, .data_at = at, .data_bytes = bytes };
    memcpy(r.data, data, bytes);
    return r;
}

static void expect_refused(struct watched *g, const struct watch_record *r, const struct watch_reply *reply)
{
    assert_int_equal(look_reply(g->l, r->vcpu, r->question, reply), -EINVAL);
}

/* ---- what it gets ---- */

/* An MSR that no processor has, and its #GP never happens. */
static void test_msr(void **state)
{
    (void)state;
    struct watched g;
    struct watch_record r;
    WATCHED_CREATE(&g, rdmsr);
    watched_ask(&g, WATCH_MSR_READ | WATCH_EXCEPTION);
    watched_start(&g);
    watched_expect(&g, &r, WATCH_MSR_READ, 0x12345678, 0, 0);
    assert_int_equal(r.event.bytes, 2);
    expect_refused(&g, &r, &(struct watch_reply){ .answer = WATCH_CHANGE });
    expect_refused(&g, &r, &(struct watch_reply){ .answer = WATCH_EMULATE, .data_bytes = 8 });
    expect_refused(&g, &r, &(struct watch_reply){ .answer = WATCH_ANSWERS });
    watched_reply(&g, &r, &(const struct watch_reply){ .answer = WATCH_EMULATE, .value = 0x1122334455667788 });
    watched_expect_end(&g);
    assert_int_equal(real_guest_regs(&g.real).rax, 0x55667788);
    assert_int_equal(real_guest_regs(&g.real).rdx, 0x11223344);
    watched_destroy(&g);
}

static void test_cpuid(void **state)
{
    (void)state;
    static const uint32_t leaf[4] = { 1, 0x6c6c6548, 0x6f, 0x80000000 };
    struct watched g;
    struct watch_record r;
    WATCHED_CREATE(&g, cpuid);
    watched_ask(&g, WATCH_CPUID);
    watched_start(&g);
    watched_expect(&g, &r, WATCH_CPUID, 0x40000000, 0, 3);
    struct watch_reply reply = give_bytes(0, leaf, 15);
    expect_refused(&g, &r, &reply);
    reply.data_bytes = 16;
    memcpy(reply.data, leaf, 16);
    watched_reply(&g, &r, &reply);
    watched_expect_end(&g);
    struct kvm_regs regs = real_guest_regs(&g.real);
    assert_int_equal(regs.rax, leaf[0]);
    assert_int_equal(regs.rbx, leaf[1]);
    assert_int_equal(regs.rcx, leaf[2]);
    assert_int_equal(regs.rdx, leaf[3]);
    watched_destroy(&g);
}

static void test_hypercall(void **state)
{
    (void)state;
    struct watched g;
    struct watch_record r;
    WATCHED_CREATE(&g, call);
    watched_ask(&g, WATCH_HYPERCALL);
    watched_start(&g);
    watched_expect(&g, &r, WATCH_HYPERCALL, 0x77, 0, 0);
    struct watch_reply reply = give(0x12345);
    watched_reply(&g, &r, &reply);
    watched_expect_end(&g);
    assert_int_equal(real_guest_regs(&g.real).rax, 0x12345);
    watched_destroy(&g);
}

/* The client, whose ports they are, sees nothing of it. */
static void test_port(void **state)
{
    (void)state;
    struct watched g;
    struct watch_record r;
    WATCHED_CREATE(&g, in);
    watched_ask(&g, WATCH_PORT);
    watched_start(&g);
    watched_expect(&g, &r, WATCH_PORT, 0x80, 0, 0);
    struct watch_reply reply = give(0xabcd);
    watched_reply(&g, &r, &reply);
    watched_expect(&g, &r, WATCH_PORT, 0x82, 0, 0);
    reply = give(0xdeadbeef);
    watched_reply(&g, &r, &reply);
    watched_expect(&g, &r, WATCH_PORT, 0x10, 0, 0xef);
    expect_refused(&g, &r, &reply);
    watched_answer(&g, &r, WATCH_CONTINUE, 0);
    watched_expect_end(&g);
    assert_int_equal(real_guest_regs(&g.real).rbx, 0x112233cd);
    assert_int_equal(real_guest_regs(&g.real).rax, 0xdeadbeef);
    assert_int_equal(g.n_debug_port, 0);
    watched_destroy(&g);
}

/* Three elements of five, then one, then the rest from the client. */
static void test_port_string(void **state)
{
    (void)state;
    struct watched g;
    struct watch_record r;
    WATCHED_CREATE(&g, insb);
    watched_ask(&g, WATCH_PORT);
    watched_start(&g);
    watched_expect(&g, &r, WATCH_PORT, 0x81, 0, 0);
    struct watch_reply reply = give_bytes(0, "abc", 3);
    watched_reply(&g, &r, &reply);
    watched_expect(&g, &r, WATCH_PORT, 0x81, 0, 0);
    assert_int_equal((uint16_t)r.gpr[GPR_RCX], 2);
    reply = give('d');
    watched_reply(&g, &r, &reply);
    watched_expect(&g, &r, WATCH_PORT, 0x81, 0, 0);
    watched_answer(&g, &r, WATCH_CONTINUE, 0);
    watched_expect(&g, &r, WATCH_PORT, 0x10, 0, 0);
    watched_answer(&g, &r, WATCH_CONTINUE, 0);
    watched_expect_end(&g);
    assert_memory_equal(g.real.ram + DATA_AT, "abcd\x42", 5);
    assert_int_equal((uint16_t)real_guest_regs(&g.real).rdi, DATA_AT + 5);
    watched_destroy(&g);
}

static void expect_given(struct watched *g, unsigned access, gpa_t gpa, unsigned bytes, gva_t at, const void *data, unsigned data_bytes)
{
    struct watch_record r;
    struct watch_reply reply = give_bytes(at, data, data_bytes);
    watched_expect(g, &r, WATCH_ACCESS, 0, 0, 0);
    assert_int_equal(r.event.access, access);
    assert_int_equal(r.event.gpa, gpa);
    assert_int_equal(r.event.bytes, bytes);
    watched_reply(g, &r, &reply);
}

/* Plain, half covered, read and written, locked, across pages, in a string: results as if memory had held it, and memory keeps what nobody wrote. */
static void test_loads(void **state)
{
    (void)state;
    struct watched g;
    const unsigned rw = WATCH_READ | WATCH_WRITE;
    WATCHED_CREATE(&g, load);
    memset(g.real.ram + DATA_AT, 0xee, 0x2000);
    watched_ask_range(&g, DATA_AT, DATA_AT + 0x10ff, WATCH_READ);
    watched_start(&g);
    expect_given(&g, WATCH_READ, DATA_AT, 4, DATA_AT + 2, "\x11\x22", 2);
    expect_given(&g, rw, DATA_AT + 0x10, 2, DATA_AT, "0123456789abcdef\xff\x00", 18);
    expect_given(&g, rw, DATA_AT + 0x20, 4, DATA_AT + 0x20, "\x05\0\0\0", 4);
    expect_given(&g, rw, DATA_AT + 0x30, 4, DATA_AT + 0x30, "\x10\0\0\0", 4);
    expect_given(&g, WATCH_READ, DATA_AT + 0xffe, 2, DATA_AT + 0xffe, "\x01\x02", 2);
    expect_given(&g, WATCH_READ, DATA_AT + 0x1000, 2, DATA_AT + 0x1000, "\x03", 1);
    expect_given(&g, WATCH_READ, DATA_AT, 1, DATA_AT, "x", 1);
    watched_expect_access(&g, WATCH_READ, DATA_AT + 1, 1, WATCH_CONTINUE);
    expect_given(&g, WATCH_READ, DATA_AT + 2, 1, DATA_AT, "uvw", 3);
    watched_expect_end(&g);
    struct kvm_regs regs = real_guest_regs(&g.real);
    assert_int_equal((uint32_t)regs.rax, 0x2211eeee);
    assert_int_equal((uint32_t)regs.rdx, 0xee030201);
    assert_int_equal((uint8_t)regs.rbx, 1);
    assert_int_equal(*(uint16_t *)(g.real.ram + DATA_AT + 0x10), 0x100);
    assert_int_equal(*(uint32_t *)(g.real.ram + DATA_AT + 0x20), 6);
    assert_int_equal(*(uint32_t *)(g.real.ram + DATA_AT + 0x30), 0x10);
    assert_memory_equal(g.real.ram + DATA_AT, "\xee\xee\xee\xee", 4);
    assert_memory_equal(g.real.ram + 0x9100, "x\xeew\xee", 4);
    watched_destroy(&g);
}

static void test_vector_load(void **state)
{
    (void)state;
    struct watched g;
    WATCHED_CREATE(&g, sse);
    memset(g.real.ram + DATA_AT, 'm', 0x100);
    watched_ask_range(&g, DATA_AT, DATA_AT + 0xff, WATCH_READ);
    watched_start(&g);
    expect_given(&g, WATCH_READ, DATA_AT + 8, 16, DATA_AT + 12, "given bytes all over the place", 30);
    watched_expect_end(&g);
    assert_memory_equal(g.real.ram + 0x9200, "mmmmgiven bytes ", 16);
    watched_destroy(&g);
}

/* Another instruction than the one in memory, once; the next time memory's. */
static void test_code(void **state)
{
    (void)state;
    struct watched g;
    WATCHED_CREATE(&g, execute);
    watched_ask_range(&g, CODE_AT + 0x100, CODE_AT + 0x100, WATCH_EXECUTE);
    for (unsigned i = 0; i < 2; i++) {
        struct kvm_regs regs = { .rip = CODE_AT, .rflags = 2, .rsp = 0x7000 };
        assert_int_equal(vitrine_ioctl(g.real.cpu_fd, KVM_SET_REGS, &regs), 0);
        watched_start(&g);
        if (i == 0)
            expect_given(&g, WATCH_EXECUTE, CODE_AT + 0x100, 1, CODE_AT + 0x100, "\xb9\x34\x12", 3);
        else
            watched_expect_access(&g, WATCH_EXECUTE, CODE_AT + 0x100, 1, WATCH_CONTINUE);
        watched_expect_end(&g);
        assert_int_equal((uint16_t)real_guest_regs(&g.real).rcx, i ? 5 : 0x1234);
        atomic_store(&g.is_done, false);
    }
    watched_destroy(&g);
}

/* ---- what comes instead ---- */

static void set_ud_handler(struct watched *g)
{
    memcpy(g->real.ram + UD_HANDLER_AT, code_skip_handler, (size_t)(code_skip_handler_end - code_skip_handler));
    memcpy(g->real.ram + 4 * VEC_UD, &(uint32_t){ UD_HANDLER_AT }, 4);
}

static struct watch_reply exception(uint8_t vector)
{
    return (struct watch_reply){ .answer = WATCH_INJECT, .injection = { .vector = vector } };
}

static struct watch_reply interrupt(uint8_t vector)
{
    return (struct watch_reply){ .answer = WATCH_INJECT, .injection = { .is_interrupt = true, .vector = vector } };
}

/* The load is not made; the handler of #UD sees its address, and the load is asked about again when that returns. */
static void test_exception_instead(void **state)
{
    (void)state;
    struct watched g;
    struct watch_record r;
    struct watch_reply ud = exception(VEC_UD), nmi = exception(VEC_NMI), none = exception(32), low = interrupt(3);
    WATCHED_CREATE(&g, access);
    watched_ask_range(&g, DATA_AT, DATA_AT, WATCH_READ);
    watched_ask(&g, WATCH_INJECTED | WATCH_EXCEPTION);
    watched_start(&g);
    watched_expect(&g, &r, WATCH_ACCESS, 0, 0, 0);
    expect_refused(&g, &r, &nmi);
    expect_refused(&g, &r, &none);
    expect_refused(&g, &r, &low);
    watched_reply(&g, &r, &ud);
    watched_expect(&g, &r, WATCH_INJECTED, VEC_UD, 0, 0);
    assert_int_equal(r.rip, CODE_AT);
    watched_answer(&g, &r, WATCH_CONTINUE, 0);
    watched_expect(&g, &r, WATCH_EXCEPTION, VEC_UD, 0, 0);
    assert_int_equal(g.real.ram[COUNT_AT], 0);
    watched_answer(&g, &r, WATCH_CONTINUE, 0);
    watched_expect_access(&g, WATCH_READ, DATA_AT, 2, WATCH_CONTINUE);
    watched_expect_end(&g);
    assert_int_equal(g.real.ram[COUNT_AT], 1);
    watched_destroy(&g);
}

/* #DE becomes #UD, whose handler goes on behind the instruction. */
static void test_exception_replaced(void **state)
{
    (void)state;
    struct watched g;
    struct watch_record r;
    struct watch_reply ud = exception(VEC_UD);
    WATCHED_CREATE(&g, divide);
    set_ud_handler(&g);
    watched_ask(&g, WATCH_EXCEPTION);
    watched_start(&g);
    watched_expect(&g, &r, WATCH_EXCEPTION, VEC_DE, 0, 0);
    watched_reply(&g, &r, &ud);
    watched_expect(&g, &r, WATCH_EXCEPTION, VEC_UD, 0, 0);
    watched_answer(&g, &r, WATCH_CONTINUE, 0);
    watched_expect_end(&g);
    assert_int_equal(g.real.ram[COUNT_AT], 0);
    assert_int_equal(g.real.ram[0x602], 1);
    assert_int_equal(real_guest_regs(&g.real).rbx, 9);
    watched_destroy(&g);
}

/* A page fault that the tool makes up: CR2 and error code are what it says. */
static void test_page_fault(void **state)
{
    (void)state;
    struct watched g;
    struct watch_record r;
    struct kvm_sregs s;
    struct watch_reply pf = exception(VEC_PF);
    pf.injection.has_code = pf.injection.has_address = true;
    pf.injection.code = 6;
    pf.injection.address = 0x123456789000;
    WATCHED_CREATE(&g, access);
    watched_ask(&g, WATCH_EXCEPTION);
    watched_ask_range(&g, DATA_AT, DATA_AT, WATCH_READ);
    watched_start(&g);
    watched_expect(&g, &r, WATCH_ACCESS, 0, 0, 0);
    watched_reply(&g, &r, &pf);
    watched_expect(&g, &r, WATCH_EXCEPTION, VEC_PF, 6, 0x123456789000);
    watched_answer(&g, &r, WATCH_CONTINUE, 0);
    watched_expect_access(&g, WATCH_READ, DATA_AT, 2, WATCH_CONTINUE);
    watched_expect_end(&g);
    assert_int_equal(vitrine_ioctl(g.real.cpu_fd, KVM_GET_SREGS, &s), 0);
    assert_int_equal(s.cr2, 0x123456789000);
    watched_destroy(&g);
}

/* The instruction goes on, and the interrupt comes when the guest takes it: behind STI and its shadow. */
static void test_interrupt_queued(void **state)
{
    (void)state;
    struct watched g;
    struct watch_record r;
    struct watch_reply irq = interrupt(0x55);
    WATCHED_CREATE(&g, sti);
    watched_ask(&g, WATCH_CR);
    watched_start(&g);
    watched_expect(&g, &r, WATCH_CR, 0, 0x60000010, 0x60000010);
    struct look_listener *other;
    struct look_filter f = { .kinds = WATCH_INJECTED, .last_index = UINT32_MAX };
    assert_int_equal(look_listener_create(g.real.vm, &other), 0);
    assert_true(look_subscribe(other, &f, NULL, 0) > 0);
    watched_reply(&g, &r, &irq);
    watched_expect_end(&g);
    assert_int_equal((uint16_t)real_guest_regs(&g.real).rcx, 0);
    assert_int_equal((uint16_t)real_guest_regs(&g.real).rdx, 1);
    uint64_t dropped;
    assert_int_equal(look_listener_next(other, &r, 1, &dropped), 1);
    assert_int_equal(r.event.index, 0x55);
    look_listener_destroy(other);
    watched_destroy(&g);
}

/* Another vector in the place of the one that was on its way. */
static void test_interrupt_replaced(void **state)
{
    (void)state;
    struct watched g;
    struct watch_record r;
    struct watch_reply irq = interrupt(0x66);
    WATCHED_CREATE(&g, sti);
    assert_int_equal(vitrine_ioctl(g.real.cpu_fd, KVM_INTERRUPT, &(struct kvm_interrupt){ 0x33 }), 0);
    watched_ask(&g, WATCH_INTERRUPT);
    watched_start(&g);
    watched_expect(&g, &r, WATCH_INTERRUPT, 0x33, 0, 0);
    watched_reply(&g, &r, &irq);
    watched_expect(&g, &r, WATCH_INTERRUPT, 0x66, 0, 0);
    watched_answer(&g, &r, WATCH_CONTINUE, 0);
    watched_expect_end(&g);
    assert_int_equal(g.real.ram[COUNT_AT], 1);
    watched_destroy(&g);
}

/* The client sees a shutdown; should it run the vCPU again, the same is asked again. */
static void test_crash(void **state)
{
    (void)state;
    struct watched g;
    struct watch_record r;
    WATCHED_CREATE(&g, access);
    watched_ask_range(&g, DATA_AT + 4, DATA_AT + 4, WATCH_READ | WATCH_WRITE);
    for (unsigned i = 0; i < 2; i++) {
        watched_start(&g);
        watched_expect(&g, &r, WATCH_ACCESS, 0, 0, 0);
        watched_answer(&g, &r, WATCH_CRASH, 0);
        assert_false(watched_next(&g, &r));
        watched_join(&g);
        assert_int_equal(g.real.run->exit_reason, KVM_EXIT_SHUTDOWN);
        assert_int_equal(g.real.ram[DATA_AT + 4], 0);
        atomic_store(&g.is_done, false);
    }
    watched_start(&g);
    watched_expect_access(&g, WATCH_READ | WATCH_WRITE, DATA_AT + 4, 2, WATCH_CONTINUE);
    watched_expect_end(&g);
    watched_destroy(&g);
}

/* ---- several, and their ends ---- */

/* Of each two answers the stricter one holds, whoever gives it first. */
static void test_strictest(void **state)
{
    (void)state;
    static const enum watch_answer pairs[][2] = { { WATCH_CONTINUE, WATCH_EMULATE }, { WATCH_EMULATE, WATCH_DENY }, { WATCH_DENY, WATCH_CRASH } };
    for (unsigned i = 0; i < 6; i++) {
        struct watched g;
        struct watch_record r, other_r;
        struct look_listener *other;
        struct look_filter f = { .kinds = WATCH_MSR_READ, .is_asking = true, .last_index = UINT32_MAX };
        uint64_t dropped;
        WATCHED_CREATE(&g, rdmsr);
        assert_int_equal(look_listener_create(g.real.vm, &other), 0);
        assert_true(look_subscribe(other, &f, NULL, 0) > 0);
        watched_ask(&g, WATCH_MSR_READ);
        watched_start(&g);
        watched_expect(&g, &r, WATCH_MSR_READ, 0x12345678, 0, 0);
        assert_int_equal(look_listener_next(other, &other_r, 1, &dropped), 1);
        assert_int_equal(other_r.question, r.question);
        watched_answer(&g, &r, pairs[i / 2][i % 2], 0x99);
        assert_int_equal(look_answer(other, 0, r.question, pairs[i / 2][!(i % 2)], 0x99), 0);
        assert_false(watched_next(&g, &r));
        watched_join(&g);
        assert_int_equal(g.real.run->exit_reason, i >= 4 ? KVM_EXIT_SHUTDOWN : KVM_EXIT_IO);
        assert_int_equal(real_guest_regs(&g.real).rax, i < 2 ? 0x99 : 0);
        look_listener_destroy(other);
        watched_destroy(&g);
    }
}

/* A tool goes without an answer, whatever the question: what was asked about happens. */
static void check_goes(const uint8_t *code, const uint8_t *end, uint32_t kinds, unsigned n_answered)
{
    struct watched g;
    struct watch_record r;
    watched_create(&g, code, end);
    set_ud_handler(&g);
    if (kinds & WATCH_ACCESS)
        watched_ask_range(&g, DATA_AT, DATA_AT + 0xfff, WATCH_READ | WATCH_WRITE);
    if (kinds & ~WATCH_ACCESS)
        watched_ask(&g, kinds & ~WATCH_ACCESS);
    watched_start(&g);
    for (unsigned i = 0; i <= n_answered; i++) {
        assert_true(watched_next(&g, &r));
        assert_true(r.question);
        struct watch_reply ud = exception(VEC_UD);
        if (i < n_answered)
            watched_reply(&g, &r, &ud);
    }
    look_listener_destroy(g.l);
    assert_int_equal(look_listener_create(g.real.vm, &g.l), 0);
    assert_false(watched_next(&g, &r));
    watched_join(&g);
    assert_int_equal(g.real.run->exit_reason, KVM_EXIT_IO);
    assert_int_equal(g.real.ram[0x602], n_answered);
    watched_destroy(&g);
}

static void test_tool_goes(void **state)
{
    (void)state;
    check_goes(code_call, code_call_end, WATCH_HYPERCALL, 0);
    check_goes(code_cpuid, code_cpuid_end, WATCH_CPUID, 0);
    check_goes(code_in, code_in_end, WATCH_PORT, 0);
    check_goes(code_access, code_access_end, WATCH_ACCESS, 0);
    check_goes(code_cr, code_cr_end, WATCH_CR, 0);
    check_goes(code_cr, code_cr_end, WATCH_FLUSH, 0);
    check_goes(code_many, code_many_end, WATCH_STEP, 0);
    check_goes(code_many, code_many_end, WATCH_VCPU, 0);
    check_goes(code_divide, code_divide_end, WATCH_EXCEPTION | WATCH_INJECTED, 1); /* with what it injected on its way */
}

/* ---- filters, permissions ---- */

/* Of ten: the first of each four, at most two in all; of eleven, only those of one instruction. */
static void test_samples(void **state)
{
    (void)state;
    const struct look_filter filter[] = {
        { .kinds = WATCH_ACCESS, .last_index = UINT32_MAX, .every = 4 },
        { .kinds = WATCH_ACCESS, .last_index = UINT32_MAX, .every = 4, .count = 2 },
        { .kinds = WATCH_ACCESS, .last_index = UINT32_MAX, .has_rips = true, .first_rip = CODE_AT + 5, .last_rip = CODE_AT + 0x100 },
        { .kinds = WATCH_ACCESS, .last_index = UINT32_MAX, .has_rips = true, .first_rip = 0, .last_rip = CODE_AT + 4, .every = 10 },
    };
    static const unsigned n_expected[] = { 3, 2, 1, 1 };
    struct watched g;
    struct watch_record r[16];
    uint64_t dropped;
    WATCHED_CREATE(&g, many);
    assert_int_equal(look_subscribe(g.l, &(struct look_filter){ .kinds = WATCH_CR, .has_rips = true, .first_rip = 1 }, NULL, 0), -EINVAL);
    for (unsigned i = 0; i < 4; i++) {
        struct kvm_regs regs = { .rip = CODE_AT, .rflags = 2 };
        int number = look_subscribe(g.l, &filter[i], &(struct look_range){ DATA_AT, DATA_AT + 1, WATCH_WRITE }, 1);
        assert_true(number > 0);
        assert_int_equal(vitrine_ioctl(g.real.cpu_fd, KVM_SET_REGS, &regs), 0);
        assert_int_equal(vitrine_ioctl(g.real.cpu_fd, KVM_RUN, NULL), 0);
        assert_int_equal(look_listener_next(g.l, r, 16, &dropped), n_expected[i]);
        assert_int_equal(look_unsubscribe(g.l, (unsigned)number), 0);
    }
    assert_int_equal(*(uint16_t *)(g.real.ram + DATA_AT), 44);
    watched_destroy(&g);
}

/* The CPU sets accessed and dirty bits in tables that are watched for everything, and nobody is told. */
static void test_table_walks(void **state)
{
    (void)state;
    struct watched g;
    WATCHED_CREATE(&g, tables);
    watched_long_mode(&g, 0);
    watched_ask_range(&g, WATCHED_TABLES_AT, WATCHED_TABLES_AT + 0x2fff, WATCH_READ | WATCH_WRITE);
    watched_start(&g);
    watched_expect_end(&g);
    assert_int_equal(g.real.ram[WATCHED_TABLES_AT] & 0x20, 0x20);
    assert_int_equal(g.real.ram[WATCHED_TABLES_AT + 0x2000] & 0x60, 0x60);
    watched_destroy(&g);
}

/* A page that may only be executed: its code runs, and what it does to itself is told. */
static void test_execute_only(void **state)
{
    (void)state;
    struct watched g;
    WATCHED_CREATE(&g, self);
    watched_ask_range(&g, CODE_AT, CODE_AT + 0xfff, WATCH_READ | WATCH_WRITE);
    watched_start(&g);
    expect_given(&g, WATCH_READ, CODE_AT, 1, CODE_AT, "\x5a", 1);
    watched_expect_access(&g, WATCH_WRITE, CODE_AT + 0x80, 1, WATCH_CONTINUE);
    watched_expect_end(&g);
    assert_int_equal(g.real.ram[CODE_AT + 0x80], 0x5a);
    watched_destroy(&g);
}

/* A page that may be written and not read. */
static void test_write_without_read(void **state)
{
    (void)state;
    struct watched g;
    WATCHED_CREATE(&g, access);
    watched_ask_range(&g, DATA_AT, DATA_AT + 0x1fff, WATCH_READ);
    watched_start(&g);
    watched_expect_access(&g, WATCH_READ, DATA_AT, 2, WATCH_CONTINUE);
    watched_expect_access(&g, WATCH_READ | WATCH_WRITE, DATA_AT + 4, 2, WATCH_CONTINUE);
    watched_expect_access(&g, WATCH_READ | WATCH_WRITE, DATA_AT + 8, 4, WATCH_CONTINUE);
    watched_expect_end(&g);
    assert_int_equal(*(uint16_t *)(g.real.ram + DATA_AT + 0x800), 0x5a5a);
    watched_destroy(&g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_msr),
        cmocka_unit_test(test_cpuid),
        cmocka_unit_test(test_hypercall),
        cmocka_unit_test(test_port),
        cmocka_unit_test(test_port_string),
        cmocka_unit_test(test_loads),
        cmocka_unit_test(test_vector_load),
        cmocka_unit_test(test_code),
        cmocka_unit_test(test_exception_instead),
        cmocka_unit_test(test_exception_replaced),
        cmocka_unit_test(test_page_fault),
        cmocka_unit_test(test_interrupt_queued),
        cmocka_unit_test(test_interrupt_replaced),
        cmocka_unit_test(test_crash),
        cmocka_unit_test(test_strictest),
        cmocka_unit_test(test_tool_goes),
        cmocka_unit_test(test_samples),
        cmocka_unit_test(test_table_walks),
        cmocka_unit_test(test_execute_only),
        cmocka_unit_test(test_write_without_read),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
