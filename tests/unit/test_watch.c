/* SPDX-License-Identifier: MIT */
/*
 * Events of the real engine: a small guest does one thing of each kind; a listener is told with exact values, before it happens, and continues, denies or
 * changes it. Filters and ends are in test_watch_ends.c. How page events leave instructions' results alone is shown by tests/diff --watch.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <string.h>

#include "core/hold.h"
#include "tests/unit/watched.h"
#include "transport/inproc.h"

#define GDT_AT 0x4000u
#define LSTAR_AT 0x3800u

GUEST_CODE(msr, ".code16\n mov $0xc0000082, %ecx\n mov $0x11223344, %eax\n mov $0x55, %edx\n wrmsr\n rdmsr\n out %al, $0x10");
GUEST_CODE(int3, ".code16\n int3\n mov $7, %bx\n out %al, $0x10");
GUEST_CODE(cpuid, ".code16\n mov $1, %eax\n mov $3, %ecx\n cpuid\n out %al, $0x10");
GUEST_CODE(xsetbv,
           ".code16\n mov %cr4, %eax\n or $0x40000, %eax\n mov %eax, %cr4\n xor %ecx, %ecx\n xor %edx, %edx\n mov $3, %eax\n xsetbv\n xgetbv\n out %al, $0x10");
GUEST_CODE(tables, ".code16\n sgdt 0x8000\n lidt 0x8010\n out %al, $0x10");
GUEST_CODE(hypercall, ".code16\n mov $0x77, %eax\n vmcall\n out %al, $0x10");
GUEST_CODE(port, ".code16\n mov $0x21, %al\n out %al, $0x80\n in $0x81, %al\n out %al, $0x10");
GUEST_CODE(fault, ".code16\n xor %cx, %cx\n div %cx\n mov $9, %bx\n out %al, $0x10");
GUEST_CODE(int80, ".code16\n mov $0x1234, %eax\n int $0x80\n int $0x81\n out %al, $0x10");
GUEST_CODE(port_strings, ".code16\n cld\n mov $0x8000, %si\n mov $0x80, %dx\n mov $3, %cx\n rep outsb\n mov $0x8100, %di\n mov $0x81, %dx\n mov $2, %cx\n"
                         " rep insb\n mov %cx, %bx\n mov %si, %ax\n mov %di, %cx\n out %al, $0x10");
GUEST_CODE(step, ".code16\n mov $1, %bx\n inc %bx\n jmp 1f\n nop\n1: inc %bx\n out %al, $0x10");
GUEST_CODE(execute, ".code16\n mov $1, %bx\n call 1f\n inc %bx\n out %al, $0x10\n .org 0x100 + code_execute\n1: mov $5, %cx\n ret");
GUEST_CODE(syscall, ".code64\n mov $0x27, %eax\n syscall\n ud2");
GUEST_CODE(entry, ".code64\n mov $0x99, %ebx\n out %al, $0x10");

static void note_cr0(struct vcpu *v, void *arg)
{
    *(uint64_t *)arg = v->cpu.cr0;
}

static void note_rip(struct vcpu *v, void *arg)
{
    *(uint64_t *)arg = v->cpu.rip;
}

static void test_cr0(void **state)
{
    (void)state;
    for (enum watch_answer a = WATCH_CONTINUE; a <= WATCH_RETRY; a++) {
        struct watched g;
        struct watch_record r;
        uint64_t now = 0;
        WATCHED_CREATE(&g, cr0);
        watched_ask(&g, WATCH_CR);
        watched_start(&g);
        watched_expect(&g, &r, WATCH_CR, 0, 0x60000010, 0x60000030);
        assert_int_equal(r.rip, CODE_AT + 7);
        assert_int_equal(r.cpl, 0);
        assert_int_equal(r.gpr[GPR_RAX], 0x60000030);
        hold_call(g.real.vm->vcpu[0], note_cr0, &now); /* the vCPU waits and can be looked at */
        assert_int_equal(now, 0x60000010);
        watched_answer(&g, &r, a, 0x60000018);
        if (a == WATCH_RETRY) {
            watched_expect(&g, &r, WATCH_CR, 0, 0x60000010, 0x60000030);
            watched_answer(&g, &r, WATCH_CONTINUE, 0);
        }
        watched_expect_end(&g);
        assert_int_equal(real_guest_regs(&g.real).rbx, a == WATCH_DENY ? 0x60000010 : a == WATCH_CHANGE ? 0x60000018 : 0x60000030);
        watched_destroy(&g);
    }
}

static void test_other_crs(void **state)
{
    (void)state;
    struct watched g;
    struct watch_record r;
    WATCHED_CREATE(&g, cr);
    watched_ask(&g, WATCH_CR);
    watched_start(&g);
    watched_expect(&g, &r, WATCH_CR, 3, 0, 0x5000);
    watched_answer(&g, &r, WATCH_CHANGE, 0x6000);
    watched_expect(&g, &r, WATCH_CR, 4, 0, 4);
    watched_answer(&g, &r, WATCH_CONTINUE, 0);
    watched_expect(&g, &r, WATCH_CR, 0, 0x60000010, 0x60000010);
    watched_answer(&g, &r, WATCH_CONTINUE, 0);
    watched_expect(&g, &r, WATCH_CR, 0, 0x60000010, 0x60000018);
    watched_answer(&g, &r, WATCH_CONTINUE, 0);
    watched_expect_end(&g);
    assert_int_equal(real_guest_regs(&g.real).rdx, 0x6000);
    watched_destroy(&g);
}

static void test_msr(void **state)
{
    (void)state;
    struct watched g;
    struct watch_record r;
    WATCHED_CREATE(&g, msr);
    watched_ask(&g, WATCH_MSR_WRITE | WATCH_MSR_READ);
    watched_start(&g);
    watched_expect(&g, &r, WATCH_MSR_WRITE, 0xc0000082, 0, 0x5511223344);
    watched_answer(&g, &r, WATCH_CHANGE, 0x1000);
    watched_expect(&g, &r, WATCH_MSR_READ, 0xc0000082, 0, 0);
    assert_int_equal(look_answer(g.l, 0, r.question, WATCH_CHANGE, 1), -EINVAL);
    watched_answer(&g, &r, WATCH_CONTINUE, 0);
    watched_expect_end(&g);
    assert_int_equal(real_guest_regs(&g.real).rax, 0x1000);
    assert_int_equal(real_guest_regs(&g.real).rdx, 0);
    watched_destroy(&g);
}

static void test_int3(void **state)
{
    (void)state;
    for (enum watch_answer a = WATCH_CONTINUE; a <= WATCH_DENY; a++) {
        struct watched g;
        struct watch_record r;
        WATCHED_CREATE(&g, int3);
        watched_ask(&g, WATCH_INT3);
        watched_start(&g);
        watched_expect(&g, &r, WATCH_INT3, 0, 0, 0);
        assert_int_equal(r.rip, CODE_AT);
        watched_answer(&g, &r, a, 0);
        watched_expect_end(&g);
        assert_int_equal(g.real.ram[COUNT_AT], a == WATCH_CONTINUE);
        assert_int_equal(real_guest_regs(&g.real).rbx, 7);
        watched_destroy(&g);
    }
}

static void test_cpuid(void **state)
{
    (void)state;
    struct watched g;
    struct watch_record r;
    WATCHED_CREATE(&g, cpuid);
    watched_ask(&g, WATCH_CPUID);
    watched_start(&g);
    watched_expect(&g, &r, WATCH_CPUID, 1, 0, 3);
    watched_answer(&g, &r, WATCH_DENY, 0);
    watched_expect_end(&g);
    assert_int_equal(real_guest_regs(&g.real).rax, 1); /* skipped */
    assert_int_equal(real_guest_regs(&g.real).rcx, 3);
    watched_destroy(&g);
}

static void test_xsetbv(void **state)
{
    (void)state;
    struct watched g;
    struct watch_record r;
    WATCHED_CREATE(&g, xsetbv);
    watched_ask(&g, WATCH_XSETBV);
    watched_start(&g);
    watched_expect(&g, &r, WATCH_XSETBV, 0, 1, 3);
    watched_answer(&g, &r, WATCH_CHANGE, 1);
    watched_expect_end(&g);
    assert_int_equal(real_guest_regs(&g.real).rax, 1);
    watched_destroy(&g);
}

static void test_tables(void **state)
{
    (void)state;
    struct watched g;
    struct watch_record r;
    WATCHED_CREATE(&g, tables);
    watched_ask(&g, WATCH_TABLE);
    watched_start(&g);
    watched_expect(&g, &r, WATCH_TABLE, WATCH_GDTR, 0, 0);
    assert_int_equal(r.event.access, WATCH_READ);
    watched_answer(&g, &r, WATCH_CONTINUE, 0);
    watched_expect(&g, &r, WATCH_TABLE, WATCH_IDTR, 0, 0);
    assert_int_equal(r.event.access, WATCH_WRITE);
    watched_answer(&g, &r, WATCH_DENY, 0);
    watched_expect_end(&g);
    struct kvm_sregs sregs;
    assert_int_equal(vitrine_ioctl(g.real.cpu_fd, KVM_GET_SREGS, &sregs), 0);
    assert_int_equal(*(uint16_t *)(g.real.ram + DATA_AT), 0xffff); /* the limit after reset */
    assert_int_equal(sregs.idt.limit, 0xffff);
    watched_destroy(&g);
}

static void test_hypercall(void **state)
{
    (void)state;
    struct watched g;
    struct watch_record r;
    WATCHED_CREATE(&g, hypercall);
    watched_ask(&g, WATCH_HYPERCALL);
    watched_start(&g);
    watched_expect(&g, &r, WATCH_HYPERCALL, 0x77, 0, 0);
    watched_answer(&g, &r, WATCH_DENY, 0);
    watched_expect_end(&g);
    assert_int_equal(real_guest_regs(&g.real).rax, 0x77);
    watched_destroy(&g);
}

/* Exits to the client still happen, once. */
static void test_port(void **state)
{
    (void)state;
    struct watched g;
    struct watch_record r;
    WATCHED_CREATE(&g, port);
    watched_ask(&g, WATCH_PORT);
    watched_start(&g);
    watched_expect(&g, &r, WATCH_PORT, 0x80, 0, 0x21);
    assert_int_equal(r.event.access, WATCH_WRITE);
    assert_int_equal(r.event.bytes, 1);
    watched_answer(&g, &r, WATCH_CONTINUE, 0);
    watched_expect(&g, &r, WATCH_PORT, 0x81, 0, 0);
    assert_int_equal(r.event.access, WATCH_READ);
    watched_answer(&g, &r, WATCH_CONTINUE, 0);
    watched_expect(&g, &r, WATCH_PORT, 0x10, 0, 0x42);
    watched_answer(&g, &r, WATCH_CONTINUE, 0);
    watched_expect_end(&g);
    watched_destroy(&g);
}

/* #DE comes again and again until the tool gives CX another value, as a handler would. */
static void mend_cx(struct vcpu *v, void *arg)
{
    (void)arg;
    v->cpu.gpr[GPR_RCX] = 1;
}

static void test_exception(void **state)
{
    (void)state;
    struct watched g;
    struct watch_record r;
    WATCHED_CREATE(&g, fault);
    watched_ask(&g, WATCH_EXCEPTION);
    watched_start(&g);
    for (unsigned i = 0; i < 3; i++) {
        watched_expect(&g, &r, WATCH_EXCEPTION, VEC_DE, 0, 0);
        assert_int_equal(r.rip, CODE_AT + 2);
        watched_answer(&g, &r, WATCH_DENY, 0);
    }
    watched_expect(&g, &r, WATCH_EXCEPTION, VEC_DE, 0, 0);
    watched_answer(&g, &r, WATCH_CONTINUE, 0); /* the handler returns to the DIV */
    watched_expect(&g, &r, WATCH_EXCEPTION, VEC_DE, 0, 0);
    assert_int_equal(g.real.ram[COUNT_AT], 1);
    hold_call(g.real.vm->vcpu[0], mend_cx, NULL);
    watched_answer(&g, &r, WATCH_DENY, 0);
    watched_expect_end(&g);
    assert_int_equal(real_guest_regs(&g.real).rbx, 9);
    watched_destroy(&g);
}

static void test_interrupt(void **state)
{
    (void)state;
    for (enum watch_answer a = WATCH_CONTINUE; a <= WATCH_DENY; a++) {
        struct watched g;
        struct watch_record r;
        struct kvm_regs regs;
        WATCHED_CREATE(&g, int3);
        regs = real_guest_regs(&g.real);
        regs.rflags |= 0x200;
        regs.rip = CODE_AT + 1;
        assert_int_equal(vitrine_ioctl(g.real.cpu_fd, KVM_SET_REGS, &regs), 0);
        assert_int_equal(vitrine_ioctl(g.real.cpu_fd, KVM_INTERRUPT, &(struct kvm_interrupt){ 0x33 }), 0);
        watched_ask(&g, WATCH_INTERRUPT);
        watched_start(&g);
        watched_expect(&g, &r, WATCH_INTERRUPT, 0x33, 0, 0);
        assert_int_equal(r.rip, CODE_AT + 1);
        watched_answer(&g, &r, a, 0);
        watched_expect_end(&g);
        assert_int_equal(g.real.ram[COUNT_AT], a == WATCH_CONTINUE);
        watched_destroy(&g);
    }
}

/* Both wait: the NMI is told first, nothing else happens before its answer, and the interrupt is told when the NMI's handler has returned. */
static void test_nmi_and_interrupt(void **state)
{
    (void)state;
    struct watched g;
    struct watch_record r;
    WATCHED_CREATE(&g, int3);
    struct kvm_regs regs = real_guest_regs(&g.real);
    regs.rflags |= 0x200;
    regs.rip = CODE_AT + 1;
    assert_int_equal(vitrine_ioctl(g.real.cpu_fd, KVM_SET_REGS, &regs), 0);
    assert_int_equal(vitrine_ioctl(g.real.cpu_fd, KVM_INTERRUPT, &(struct kvm_interrupt){ 0x33 }), 0);
    assert_int_equal(vitrine_ioctl(g.real.cpu_fd, KVM_NMI, NULL), 0);
    watched_ask(&g, WATCH_INTERRUPT);
    watched_start(&g);
    for (unsigned i = 0; i < 2; i++) {
        uint64_t rip = 0;
        watched_expect(&g, &r, WATCH_INTERRUPT, i ? 0x33 : VEC_NMI, 0, 0);
        assert_int_equal(g.real.ram[COUNT_AT], i);
        hold_call(g.real.vm->vcpu[0], note_rip, &rip);
        assert_int_equal(rip, r.rip);
        watched_answer(&g, &r, WATCH_CONTINUE, 0);
    }
    watched_expect_end(&g);
    assert_int_equal(g.real.ram[COUNT_AT], 2);
    watched_destroy(&g);
}

/* A trap after an instruction that leaves for the client: the client gets its exit, once, and the trap is told. */
static void test_trap_after_exit(void **state)
{
    (void)state;
    static const uint16_t at[] = { 2, 4, 6, 8 };
    struct watched g;
    struct watch_record r;
    WATCHED_CREATE(&g, port);
    struct kvm_regs regs = real_guest_regs(&g.real);
    regs.rflags |= 0x100;
    assert_int_equal(vitrine_ioctl(g.real.cpu_fd, KVM_SET_REGS, &regs), 0);
    watched_ask(&g, WATCH_EXCEPTION);
    watched_ask_range(&g, 0x6000, 0x6fff, WATCH_WRITE); /* the stack of the delivery */
    watched_start(&g);
    unsigned n = 0, n_writes = 0;
    while (watched_next(&g, &r)) {
        assert_in_range(n, 0, 4);
        assert_int_equal(r.rip, CODE_AT + at[r.event.kind == WATCH_ACCESS ? n - 1 : n]);
        if (r.event.kind == WATCH_ACCESS) {
            n_writes++;
        } else {
            assert_int_equal(r.event.index, VEC_DB);
            assert_int_equal(r.event.value, 0x4000);
            assert_int_equal(g.real.ram[COUNT_AT], n);
            n++;
        }
        watched_answer(&g, &r, WATCH_CONTINUE, 0);
    }
    watched_join(&g);
    assert_int_equal(n, 4);
    assert_in_range(n_writes, 3, 12);
    assert_int_equal(g.n_debug_port, 1);
    assert_int_equal((uint8_t)real_guest_regs(&g.real).rax, 0x42);
    watched_destroy(&g);
}

static void test_int80(void **state)
{
    (void)state;
    struct watched g;
    struct watch_record r;
    WATCHED_CREATE(&g, int80);
    watched_ask(&g, WATCH_SYSCALL);
    watched_start(&g);
    watched_expect(&g, &r, WATCH_SYSCALL, WATCH_BY_INT80, 0, 0x1234);
    watched_answer(&g, &r, WATCH_CONTINUE, 0);
    watched_expect_end(&g);
    assert_int_equal(g.real.ram[COUNT_AT], 2);
    watched_destroy(&g);
}

static void test_step(void **state)
{
    (void)state;
    static const uint16_t at[] = { 0, 3, 4, 7, 8 };
    struct watched g;
    struct watch_record r;
    WATCHED_CREATE(&g, step);
    watched_ask(&g, WATCH_STEP);
    watched_start(&g);
    for (unsigned i = 0; i < 5; i++) {
        watched_expect(&g, &r, WATCH_STEP, 0, 0, 0);
        assert_int_equal(r.rip, CODE_AT + at[i]);
        assert_int_equal(r.gpr[GPR_RBX], i == 0 ? 0 : i == 1 ? 1 : i < 4 ? 2 : 3);
        watched_answer(&g, &r, i == 3 ? WATCH_DENY : WATCH_CONTINUE, 0);
        if (i == 3) {
            i++;
            watched_expect(&g, &r, WATCH_STEP, 0, 0, 0);
            assert_int_equal(r.gpr[GPR_RBX], 2);
            watched_answer(&g, &r, WATCH_CONTINUE, 0);
        }
    }
    watched_expect_end(&g);
    watched_destroy(&g);
}

static void test_access(void **state)
{
    (void)state;
    struct watched g;
    WATCHED_CREATE(&g, access);
    memcpy(g.real.ram + DATA_AT, "\x11\x22\x33\x44\xff\x00\x00\x00\x05\x00\x00\x00", 12);
    watched_ask_range(&g, DATA_AT, DATA_AT + 0xff, WATCH_READ | WATCH_WRITE);
    watched_ask_range(&g, DATA_AT + 0x1000, DATA_AT + 0x1000, WATCH_WRITE);
    watched_start(&g);
    watched_expect_access(&g, WATCH_READ, DATA_AT, 2, WATCH_CONTINUE);
    watched_expect_access(&g, WATCH_WRITE, DATA_AT + 2, 2, WATCH_DENY);
    watched_expect_access(&g, WATCH_READ | WATCH_WRITE, DATA_AT + 4, 2, WATCH_CONTINUE);
    watched_expect_access(&g, WATCH_READ | WATCH_WRITE, DATA_AT + 8, 4, WATCH_CONTINUE);
    watched_expect_access(&g, WATCH_WRITE, DATA_AT + 0x1000, 2, WATCH_CONTINUE); /* REP STOSW: only the second word; 0x8800 is in the page, not in the range */
    watched_expect_end(&g);
    assert_int_equal(g.real.ram[DATA_AT + 2], 0x33);
    assert_int_equal(*(uint16_t *)(g.real.ram + DATA_AT + 4), 0x100);
    assert_int_equal(*(uint16_t *)(g.real.ram + DATA_AT + 0xffe), 0x2211);
    assert_int_equal(*(uint16_t *)(g.real.ram + DATA_AT + 0x1000), 0x2211);
    assert_int_equal(*(uint16_t *)(g.real.ram + DATA_AT + 0x800), 0x5a5a);
    assert_int_equal((uint16_t)real_guest_regs(&g.real).rcx, 0);
    watched_destroy(&g);
}

/* Elements one by one; the client has its exits, once each. Denied: the rest of the instruction is not done, and no port is read for it. */
static void test_port_strings(void **state)
{
    (void)state;
    for (enum watch_answer a = WATCH_CONTINUE; a <= WATCH_DENY; a++) {
        struct watched g;
        WATCHED_CREATE(&g, port_strings);
        watched_ask_range(&g, DATA_AT, DATA_AT + 0xfff, WATCH_READ | WATCH_WRITE);
        watched_start(&g);
        for (unsigned i = 0; i < 3; i++)
            watched_expect_access(&g, WATCH_READ, DATA_AT + i, 1, WATCH_CONTINUE);
        watched_expect_access(&g, WATCH_WRITE, DATA_AT + 0x100, 1, WATCH_CONTINUE);
        watched_expect_access(&g, WATCH_WRITE, DATA_AT + 0x101, 1, a);
        watched_expect_end(&g);
        struct kvm_regs regs = real_guest_regs(&g.real);
        assert_int_equal(g.n_debug_port, 3);
        assert_int_equal(regs.rbx, a == WATCH_DENY);
        assert_int_equal((uint16_t)regs.rax, DATA_AT + 3);
        assert_int_equal((uint16_t)regs.rcx, DATA_AT + 0x101 + (a != WATCH_DENY));
        assert_int_equal(g.real.ram[DATA_AT + 0x100], 0x42);
        assert_int_equal(g.real.ram[DATA_AT + 0x101], a == WATCH_DENY ? 0 : 0x42);
        watched_destroy(&g);
    }
}

static void test_execute(void **state)
{
    (void)state;
    struct watched g;
    WATCHED_CREATE(&g, execute);
    watched_ask_range(&g, CODE_AT + 0x100, CODE_AT + 0x100, WATCH_EXECUTE);
    watched_start(&g);
    watched_expect_access(&g, WATCH_EXECUTE, CODE_AT + 0x100, 1, WATCH_DENY); /* MOV is skipped, RET is not */
    watched_expect_end(&g);
    assert_int_equal(real_guest_regs(&g.real).rbx, 2);
    assert_int_equal((uint16_t)real_guest_regs(&g.real).rcx, 0);
    watched_destroy(&g);
}

/* Pushing an interrupt's frame to a watched stack: asked, then delivered, once. */
static void test_delivery_to_watched_stack(void **state)
{
    (void)state;
    struct watched g;
    WATCHED_CREATE(&g, fault);
    struct kvm_regs regs = real_guest_regs(&g.real);
    regs.rflags |= 0x200;
    regs.rip = CODE_AT + 4;
    assert_int_equal(vitrine_ioctl(g.real.cpu_fd, KVM_SET_REGS, &regs), 0);
    assert_int_equal(vitrine_ioctl(g.real.cpu_fd, KVM_INTERRUPT, &(struct kvm_interrupt){ 0x33 }), 0);
    watched_ask_range(&g, 0x6000, 0x6fff, WATCH_WRITE);
    watched_ask(&g, WATCH_INTERRUPT);
    watched_start(&g);
    struct watch_record r;
    watched_expect(&g, &r, WATCH_INTERRUPT, 0x33, 0, 0);
    watched_answer(&g, &r, WATCH_CONTINUE, 0);
    unsigned n = 0;
    for (; watched_next(&g, &r); n++) {
        assert_int_equal(r.event.kind, WATCH_ACCESS);
        assert_in_range(r.event.gpa, 0x7000 - 6, 0x7000 - 1);
        assert_int_equal(r.rip, CODE_AT + 4);
        watched_answer(&g, &r, WATCH_CONTINUE, 0);
    }
    assert_in_range(n, 1, 3);
    watched_join(&g);
    assert_int_equal(g.real.ram[COUNT_AT], 1);
    assert_int_equal(real_guest_regs(&g.real).rsp, 0x7000);
    assert_int_equal(real_guest_regs(&g.real).rbx, 9);
    watched_destroy(&g);
}

/* SYSCALL in long mode: identity-mapped 2 MiB, flat segments. */
static void test_syscall(void **state)
{
    (void)state;
    struct watched g;
    struct watch_record r;
    struct {
        struct kvm_msrs head;
        struct kvm_msr_entry entry[2];
    } msrs = { .head.nmsrs = 2, .entry = { { .index = 0xc0000081, .data = 0x0008ull << 32 }, { .index = 0xc0000082, .data = LSTAR_AT } } };
    WATCHED_CREATE(&g, syscall);
    memcpy(g.real.ram + LSTAR_AT, code_entry, (size_t)(code_entry_end - code_entry));
    watched_long_mode(&g, 3);
    assert_int_equal(vitrine_ioctl(g.real.cpu_fd, KVM_SET_MSRS, &msrs), 2);
    watched_ask(&g, WATCH_SYSCALL);
    watched_start(&g);
    watched_expect(&g, &r, WATCH_SYSCALL, WATCH_BY_SYSCALL, 0, 0x27);
    assert_int_equal(r.cpl, 3);
    assert_int_equal(r.cr3, WATCHED_TABLES_AT);
    watched_answer(&g, &r, WATCH_CONTINUE, 0);
    watched_expect_end(&g);
    assert_int_equal(real_guest_regs(&g.real).rbx, 0x99);
    watched_destroy(&g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cr0),
        cmocka_unit_test(test_other_crs),
        cmocka_unit_test(test_msr),
        cmocka_unit_test(test_int3),
        cmocka_unit_test(test_cpuid),
        cmocka_unit_test(test_xsetbv),
        cmocka_unit_test(test_tables),
        cmocka_unit_test(test_hypercall),
        cmocka_unit_test(test_port),
        cmocka_unit_test(test_exception),
        cmocka_unit_test(test_interrupt),
        cmocka_unit_test(test_nmi_and_interrupt),
        cmocka_unit_test(test_trap_after_exit),
        cmocka_unit_test(test_int80),
        cmocka_unit_test(test_step),
        cmocka_unit_test(test_access),
        cmocka_unit_test(test_port_strings),
        cmocka_unit_test(test_execute),
        cmocka_unit_test(test_delivery_to_watched_stack),
        cmocka_unit_test(test_syscall),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
