/* SPDX-License-Identifier: MIT */
/*
 * Events of the real engine that are no instruction's own, or of instructions that test_watch.c leaves out: TLB flushes, returns from system calls, #DB and
 * INT1, what becomes of a vCPU, injections, control registers that change by other means than MOV. Each is told with exact values.
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

#define USER_AT 0x3800u
#define SMBASE 0x30000u
#define GDT_AT 0x4000u
#define TSS_AT 0x5000u

GUEST_CODE(flush, ".code16\n invlpg 0x9123\n mov $0x5000, %eax\n mov %eax, %cr3\n mov %cr4, %ecx\n or $0x80, %cx\n mov %ecx, %cr4\n"
                  "mov %cr3, %edx\n out %al, $0x10");
GUEST_CODE(invpcid, ".code16\n mov $2, %eax\n invpcid 0x8000, %eax\n out %al, $0x10");
GUEST_CODE(paging, ".code64\n mov %cr0, %rax\n mov %rax, %cr0\n xor $0x10000, %eax\n mov %rax, %cr0\n out %al, $0x10");
GUEST_CODE(pcid,
           ".code64\n mov %cr4, %rax\n bts $17, %rax\n mov %rax, %cr4\n mov %cr3, %rax\n mov %rax, %cr3\n bts $63, %rax\n mov %rax, %cr3\n out %al, $0x10");
GUEST_CODE(sysret, ".code64\n mov $0x3800, %ecx\n mov $0x3002, %r11d\n mov $0x31, %eax\n sysretq");
GUEST_CODE(sysexit, ".code64\n mov $0x3800, %edx\n mov $0x7000, %ecx\n mov $0x32, %eax\n sysexitq");
GUEST_CODE(user, ".code64\n mov $0x77, %ebx\n out %al, $0x10");
GUEST_CODE(int1, ".code16\n mov $1, %bx\n .byte 0xf1\n mov $2, %bx\n out %al, $0x10");
GUEST_CODE(halt, ".code16\n mov $3, %bx\n hlt\n out %al, $0x10");
GUEST_CODE(spin, ".code16\n1: incw 0x8000\n cmpw $0, 0x8002\n je 1b\n out %al, $0x10");
GUEST_CODE(smi, ".code16\n mov %cr4, %eax\n or $4, %al\n mov %eax, %cr4\n1: cmpw $0, 0x8002\n je 1b\n out %al, $0x10");
GUEST_CODE(handler_smi, ".code16\n rsm");
GUEST_CODE(task, ".code32\n mov $1, %ebx\n ljmp $0x18, $0\n .org 0x80 + code_task\n mov $5, %ecx\n out %al, $0x10");

static void test_flush(void **state)
{
    (void)state;
    for (enum watch_answer a = WATCH_CONTINUE; a <= WATCH_DENY; a++) {
        struct watched g;
        struct watch_record r;
        WATCHED_CREATE(&g, flush);
        watched_ask(&g, WATCH_FLUSH);
        watched_start(&g);
        watched_expect(&g, &r, WATCH_FLUSH, WATCH_FLUSH_INVLPG, 0, 0x9123);
        assert_int_equal(r.event.bytes, 5);
        watched_answer(&g, &r, WATCH_CONTINUE, 0);
        watched_expect(&g, &r, WATCH_FLUSH, WATCH_FLUSH_CR3, 0, 0x5000);
        assert_int_equal(look_answer(g.l, 0, r.question, WATCH_CHANGE, 0), -EINVAL);
        watched_answer(&g, &r, a, 0);
        watched_expect(&g, &r, WATCH_FLUSH, WATCH_FLUSH_CR4, 0, 0x80);
        watched_answer(&g, &r, WATCH_CONTINUE, 0);
        watched_expect_end(&g);
        assert_int_equal(real_guest_regs(&g.real).rdx, a == WATCH_CONTINUE ? 0x5000 : 0);
        watched_destroy(&g);
    }
}

/* One instruction, two kinds: what the first question changes is what the second one tells. */
static void test_flush_of_changed(void **state)
{
    (void)state;
    struct watched g;
    struct watch_record r;
    WATCHED_CREATE(&g, flush);
    watched_ask(&g, WATCH_FLUSH | WATCH_CR);
    watched_start(&g);
    watched_expect(&g, &r, WATCH_FLUSH, WATCH_FLUSH_INVLPG, 0, 0x9123);
    watched_answer(&g, &r, WATCH_CONTINUE, 0);
    watched_expect(&g, &r, WATCH_CR, 3, 0, 0x5000);
    watched_answer(&g, &r, WATCH_CHANGE, 0x6000);
    watched_expect(&g, &r, WATCH_FLUSH, WATCH_FLUSH_CR3, 0, 0x6000);
    watched_answer(&g, &r, WATCH_CONTINUE, 0);
    watched_expect(&g, &r, WATCH_CR, 4, 0, 0x80);
    watched_answer(&g, &r, WATCH_DENY, 0);
    watched_expect_end(&g);
    assert_int_equal(real_guest_regs(&g.real).rdx, 0x6000);
    watched_destroy(&g);
}

static void test_flush_others(void **state)
{
    (void)state;
    struct watched g;
    struct watch_record r;
    WATCHED_CREATE(&g, paging);
    watched_long_mode(&g, 0);
    watched_ask(&g, WATCH_FLUSH);
    watched_start(&g);
    watched_expect(&g, &r, WATCH_FLUSH, WATCH_FLUSH_CR0, 0x80000031, 0x80010031); /* the write of the same value flushes nothing */
    watched_answer(&g, &r, WATCH_CONTINUE, 0);
    watched_expect_end(&g);
    watched_destroy(&g);

    uint32_t leaf1[4], leaf7[4];
    WATCHED_CREATE(&g, pcid);
    watched_long_mode(&g, 0);
    vcpu_cpuid(g.real.v, 1, 0, leaf1);
    watched_ask(&g, WATCH_FLUSH);
    if (leaf1[2] >> 17 & 1) {
        watched_start(&g);
        watched_expect(&g, &r, WATCH_FLUSH, WATCH_FLUSH_CR4, 0x20, 0x20020);
        watched_answer(&g, &r, WATCH_CONTINUE, 0);
        watched_expect(&g, &r, WATCH_FLUSH, WATCH_FLUSH_CR3, WATCHED_TABLES_AT, WATCHED_TABLES_AT);
        watched_answer(&g, &r, WATCH_CONTINUE, 0);
        watched_expect_end(&g); /* with its bit 63 the last MOV flushes nothing */
    } else {
        print_message("this processor has no PCIDs\n");
    }
    watched_destroy(&g);

    WATCHED_CREATE(&g, invpcid);
    vcpu_cpuid(g.real.v, 7, 0, leaf7);
    memcpy(g.real.ram + DATA_AT, &(uint64_t[2]){ 0x123, 0x456 }, 16);
    watched_ask(&g, WATCH_FLUSH);
    watched_start(&g);
    if (leaf7[1] >> 10 & 1) {
        watched_expect(&g, &r, WATCH_FLUSH, WATCH_FLUSH_INVPCID, 2 | 0x123 << 16, 0x456);
        watched_answer(&g, &r, WATCH_CONTINUE, 0);
        watched_expect_end(&g);
    } else {
        print_message("this processor has no INVPCID\n");
        watched_stop(&g);
    }
    watched_destroy(&g);
}

static void set_msrs(struct watched *g)
{
    struct {
        struct kvm_msrs head;
        struct kvm_msr_entry entry[2];
    } msrs = { .head.nmsrs = 2, .entry = { { .index = 0xc0000081, .data = 0x0020ull << 48 | 0x0008ull << 32 }, { .index = 0x174, .data = 8 } } };
    assert_int_equal(vitrine_ioctl(g->real.cpu_fd, KVM_SET_MSRS, &msrs), 2);
}

static void check_return(const uint8_t *code, const uint8_t *end, uint32_t index, uint64_t rax)
{
    struct watched g;
    struct watch_record r;
    watched_create(&g, code, end);
    memcpy(g.real.ram + USER_AT, code_user, (size_t)(code_user_end - code_user));
    watched_long_mode(&g, 0);
    set_msrs(&g);
    struct kvm_regs regs = real_guest_regs(&g.real);
    regs.rflags = 0x3002;
    assert_int_equal(vitrine_ioctl(g.real.cpu_fd, KVM_SET_REGS, &regs), 0);
    watched_ask(&g, WATCH_SYSRET | WATCH_SYSCALL);
    watched_start(&g);
    watched_expect(&g, &r, WATCH_SYSRET, index, 0, rax);
    assert_int_equal(r.cpl, 0);
    watched_answer(&g, &r, WATCH_CONTINUE, 0);
    watched_expect_end(&g);
    assert_int_equal(real_guest_regs(&g.real).rbx, 0x77);
    watched_destroy(&g);
}

static void test_returns(void **state)
{
    (void)state;
    check_return(code_sysret, code_sysret_end, WATCH_BY_SYSRET, 0x31);
    check_return(code_sysexit, code_sysexit_end, WATCH_BY_SYSEXIT, 0x32);
}

static void test_int1(void **state)
{
    (void)state;
    for (enum watch_answer a = WATCH_CONTINUE; a <= WATCH_DENY; a++) {
        struct watched g;
        struct watch_record r;
        WATCHED_CREATE(&g, int1);
        watched_ask(&g, WATCH_DEBUG | WATCH_EXCEPTION);
        watched_start(&g);
        watched_expect(&g, &r, WATCH_DEBUG, WATCH_DEBUG_INT1, 0, 0);
        assert_int_equal(r.rip, CODE_AT + 3);
        assert_int_equal(r.event.bytes, 1);
        watched_answer(&g, &r, a, 0);
        watched_expect_end(&g);
        assert_int_equal(g.real.ram[COUNT_AT], a == WATCH_CONTINUE);
        assert_int_equal(real_guest_regs(&g.real).rbx, 2);
        watched_destroy(&g);
    }
}

/* A hardware breakpoint: told as what it is, then as the exception that it is too; the handler runs unless it is denied. */
static void test_breakpoint(void **state)
{
    (void)state;
    for (enum watch_answer a = WATCH_CONTINUE; a <= WATCH_DENY; a++) {
        struct watched g;
        struct watch_record r;
        struct kvm_debugregs dr;
        WATCHED_CREATE(&g, access);
        assert_int_equal(vitrine_ioctl(g.real.cpu_fd, KVM_GET_DEBUGREGS, &dr), 0);
        dr.db[0] = DATA_AT + 2;
        dr.dr7 = 0x400 | 1 | 1 << 16 | 1 << 18; /* two bytes, written */
        assert_int_equal(vitrine_ioctl(g.real.cpu_fd, KVM_SET_DEBUGREGS, &dr), 0);
        watched_ask(&g, WATCH_DEBUG | WATCH_EXCEPTION);
        watched_start(&g);
        watched_expect(&g, &r, WATCH_DEBUG, WATCH_DEBUG_EXCEPTION, 0, 1);
        assert_int_equal(r.rip, CODE_AT + 6);
        watched_answer(&g, &r, a, 0);
        if (a == WATCH_CONTINUE) {
            watched_expect(&g, &r, WATCH_EXCEPTION, VEC_DB, 0, 1);
            watched_answer(&g, &r, WATCH_CONTINUE, 0);
        }
        watched_expect_end(&g);
        assert_int_equal(g.real.ram[COUNT_AT], a == WATCH_CONTINUE);
        watched_destroy(&g);
    }
}

/* From INIT over SIPI to HLT, which is denied; the first run is told before. */
static void test_vcpu(void **state)
{
    (void)state;
    struct watched g;
    struct watch_record r;
    WATCHED_CREATE(&g, halt);
    struct vcpu *v = g.real.v;
    g.real.vm->boot_cpu_id = 5;
    atomic_store(&v->sipi_vector, CODE_AT >> 12);
    vcpu_request(v, VREQ_INIT | VREQ_SIPI);
    watched_ask(&g, WATCH_VCPU);
    watched_start(&g);
    watched_expect(&g, &r, WATCH_VCPU, WATCH_VCPU_CREATED, 0, 0);
    watched_answer(&g, &r, WATCH_CONTINUE, 0);
    watched_expect(&g, &r, WATCH_VCPU, WATCH_VCPU_RESET, 0, 0);
    assert_int_equal(r.rip, CODE_AT);
    watched_answer(&g, &r, WATCH_CONTINUE, 0);
    watched_expect(&g, &r, WATCH_VCPU, WATCH_VCPU_STARTED, 0, CODE_AT >> 12);
    assert_int_equal(r.rip, 0xfff0);
    watched_answer(&g, &r, WATCH_CONTINUE, 0);
    watched_expect(&g, &r, WATCH_VCPU, WATCH_VCPU_HALTED, 0, 0);
    assert_int_equal(r.gpr[GPR_RBX], 3);
    watched_answer(&g, &r, WATCH_DENY, 0);
    watched_expect_end(&g);
    watched_destroy(&g);
}

/* An INIT that is denied leaves everything as it was. A hold is told without a question. */
static void test_vcpu_goes_on(void **state)
{
    (void)state;
    struct watched g;
    struct watch_record r;
    uint64_t dropped;
    WATCHED_CREATE(&g, spin);
    watched_start(&g);
    real_guest_wait_moving(&g.real, DATA_AT);
    watched_ask(&g, WATCH_VCPU);
    vcpu_request(g.real.v, VREQ_INIT);
    watched_expect(&g, &r, WATCH_VCPU, WATCH_VCPU_RESET, 0, 0);
    watched_answer(&g, &r, WATCH_DENY, 0);
    real_guest_wait_moving(&g.real, DATA_AT);
    hold_vcpu(g.real.v);
    assert_int_equal(look_listener_next(g.l, &r, 1, &dropped), 1);
    assert_int_equal(r.event.kind, WATCH_VCPU);
    assert_int_equal(r.event.index, WATCH_VCPU_PAUSED);
    assert_int_equal(r.question, 0);
    hold_release_vcpu(g.real.v);
    g.real.ram[DATA_AT + 2] = 1;
    watched_expect_end(&g);
    watched_destroy(&g);
}

static void inject(struct vcpu *v, void *arg)
{
    *(int *)arg = inject_into(v, &(struct injection){ .vector = VEC_UD }, false);
}

static void inject_irq(struct vcpu *v, void *arg)
{
    *(int *)arg = inject_into(v, &(struct injection){ .is_interrupt = true, .vector = 0x44 }, false);
}

/* Out of the blue: told what is delivered; a second one does not fit. An interrupt waits for the guest. */
static void test_injected(void **state)
{
    (void)state;
    struct watched g;
    struct watch_record r;
    int result;
    WATCHED_CREATE(&g, spin);
    watched_start(&g);
    real_guest_wait_moving(&g.real, DATA_AT);
    watched_ask(&g, WATCH_INJECTED);
    hold_call(g.real.v, inject, &result);
    assert_int_equal(result, 0);
    watched_expect(&g, &r, WATCH_INJECTED, VEC_UD, 0, 0);
    assert_int_equal(g.real.ram[COUNT_AT], 0);
    hold_call(g.real.v, inject, &result);
    assert_int_equal(result, -EBUSY);
    watched_answer(&g, &r, WATCH_CONTINUE, 0);
    real_guest_wait_moving(&g.real, DATA_AT);
    assert_int_equal(g.real.ram[COUNT_AT], 1);

    hold_call(g.real.v, inject_irq, &result);
    assert_int_equal(result, 0);
    hold_call(g.real.v, inject_irq, &result);
    assert_int_equal(result, -EBUSY);
    real_guest_wait_moving(&g.real, DATA_AT);
    assert_int_equal(g.real.ram[COUNT_AT], 1); /* IF is clear */
    watched_stop(&g);
    struct kvm_regs regs = real_guest_regs(&g.real);
    regs.rflags |= 0x200;
    assert_int_equal(vitrine_ioctl(g.real.cpu_fd, KVM_SET_REGS, &regs), 0);
    watched_start(&g);
    watched_expect(&g, &r, WATCH_INJECTED, 0x44, 0, 0);
    watched_answer(&g, &r, WATCH_DENY, 0);
    real_guest_wait_moving(&g.real, DATA_AT);
    assert_int_equal(g.real.ram[COUNT_AT], 1);
    g.real.ram[DATA_AT + 2] = 1;
    watched_expect_end(&g);
    watched_destroy(&g);
}

static void inject_nmi(struct vcpu *v, void *arg)
{
    *(int *)arg = inject_into(v, &(struct injection){ .is_interrupt = true, .vector = VEC_NMI }, false);
}

static void inject_bp(struct vcpu *v, void *arg)
{
    *(int *)arg = inject_into(v, &(struct injection){ .vector = VEC_BP }, false);
}

/* An NMI, whatever IF is; and #BP, as if the NOP at rip were INT3. */
static void test_injected_others(void **state)
{
    (void)state;
    struct watched g;
    struct watch_record r;
    int result;
    WATCHED_CREATE(&g, spin);
    memset(g.real.ram + CODE_AT, 0x90, 2);
    memcpy(g.real.ram + CODE_AT + 2, code_spin, (size_t)(code_spin_end - code_spin));
    watched_ask(&g, WATCH_INJECTED);
    hold_call(g.real.v, inject_bp, &result);
    assert_int_equal(result, 0);
    watched_start(&g);
    watched_expect(&g, &r, WATCH_INJECTED, VEC_BP, 0, 0);
    assert_int_equal(r.rip, CODE_AT);
    watched_answer(&g, &r, WATCH_CONTINUE, 0);
    real_guest_wait_moving(&g.real, DATA_AT);
    assert_int_equal(g.real.ram[COUNT_AT], 1);
    assert_int_equal(*(uint16_t *)(g.real.ram + 0x7000 - 6), CODE_AT + 1); /* where the handler returned to */
    hold_call(g.real.v, inject_nmi, &result);
    assert_int_equal(result, 0);
    watched_expect(&g, &r, WATCH_INJECTED, VEC_NMI, 0, 0);
    watched_answer(&g, &r, WATCH_CONTINUE, 0);
    real_guest_wait_moving(&g.real, DATA_AT);
    assert_int_equal(g.real.ram[COUNT_AT], 2);
    g.real.ram[DATA_AT + 2] = 1;
    watched_expect_end(&g);
    watched_destroy(&g);
}

/* No handler: what became of it is told, to the end. */
static void test_injected_escalates(void **state)
{
    (void)state;
    static const uint32_t then[] = { VEC_GP, VEC_DF };
    struct watched g;
    struct watch_record r;
    struct kvm_sregs s;
    int result;
    WATCHED_CREATE(&g, spin);
    assert_int_equal(vitrine_ioctl(g.real.cpu_fd, KVM_GET_SREGS, &s), 0);
    s.idt.limit = 3;
    assert_int_equal(vitrine_ioctl(g.real.cpu_fd, KVM_SET_SREGS, &s), 0);
    watched_ask(&g, WATCH_INJECTED);
    hold_call(g.real.v, inject, &result);
    watched_start(&g);
    watched_expect(&g, &r, WATCH_INJECTED, VEC_UD, 0, 0);
    watched_answer(&g, &r, WATCH_CONTINUE, 0);
    for (unsigned i = 0; i < 2; i++) {
        assert_true(watched_next(&g, &r));
        assert_int_equal(r.event.kind, WATCH_INJECTED);
        assert_int_equal(r.event.index, then[i]);
        assert_int_equal(r.question, 0);
    }
    assert_false(watched_next(&g, &r));
    watched_join(&g);
    assert_int_equal(g.real.run->exit_reason, KVM_EXIT_SHUTDOWN);
    watched_destroy(&g);
}

static void expect_told_cr(struct watched *g, uint32_t index, uint64_t old_value, uint64_t value)
{
    struct watch_record r;
    assert_true(watched_next(g, &r));
    assert_int_equal(r.event.kind, WATCH_CR);
    assert_int_equal(r.event.index, index);
    assert_int_equal(r.event.old_value, old_value);
    assert_int_equal(r.event.value, value);
    assert_int_equal(r.question, 0);
}

/* System management mode loses CR4 and RSM brings it back. */
static void test_smi(void **state)
{
    (void)state;
    struct watched g;
    struct watch_record r;
    WATCHED_CREATE(&g, smi);
    assert_int_equal(vm_set_memslot(g.real.vm, 1 << MEMSLOT_SPACE_SHIFT, 0, 0, g.real.ram_bytes, g.real.ram), 0);
    memcpy(g.real.ram + SMBASE + 0x8000, code_handler_smi, (size_t)(code_handler_smi_end - code_handler_smi));
    watched_ask(&g, WATCH_CR);
    watched_start(&g);
    watched_expect(&g, &r, WATCH_CR, 4, 0, 4);
    atomic_store(&g.real.v->ev.smi_pending, true);
    vcpu_request(g.real.v, VREQ_EVENT);
    watched_answer(&g, &r, WATCH_CONTINUE, 0);
    expect_told_cr(&g, 4, 4, 0);
    expect_told_cr(&g, 4, 0, 4);
    g.real.ram[DATA_AT + 2] = 1;
    watched_expect_end(&g);
    watched_destroy(&g);
}

/* A task switch sets CR0.TS: told when it has happened. */
static void test_task_switch(void **state)
{
    (void)state;
    /* Code, data, the new task at 0x5200, the old one. */
    static const uint64_t gdt[] = { 0, 0x00cf9b000000ffff, 0x00cf93000000ffff, 0x0000890052000067, 0x00008b0050000067 };
    struct watched g;
    struct kvm_sregs s;
    WATCHED_CREATE(&g, task);
    memcpy(g.real.ram + GDT_AT, gdt, sizeof gdt);
    uint32_t *tss = (uint32_t *)(void *)(g.real.ram + TSS_AT + 0x200);
    tss[8] = CODE_AT + 0x80;
    tss[9] = 2;
    tss[14] = 0x7000;
    for (unsigned i = 18; i < 24; i++)
        tss[i] = i == 19 ? 8 : 0x10;
    assert_int_equal(vitrine_ioctl(g.real.cpu_fd, KVM_GET_SREGS, &s), 0);
    s.cr0 |= 1;
    s.gdt.base = GDT_AT;
    s.gdt.limit = sizeof gdt - 1;
    s.tr = (struct kvm_segment){ .base = TSS_AT, .limit = 0x67, .selector = 0x20, .type = 11, .present = 1 };
    s.cs = (struct kvm_segment){ .limit = ~0u, .selector = 8, .type = 11, .present = 1, .s = 1, .db = 1, .g = 1 };
    s.ss = s.ds = s.es = (struct kvm_segment){ .limit = ~0u, .selector = 0x10, .type = 3, .present = 1, .s = 1, .db = 1, .g = 1 };
    assert_int_equal(vitrine_ioctl(g.real.cpu_fd, KVM_SET_SREGS, &s), 0);
    watched_ask(&g, WATCH_CR);
    watched_start(&g);
    expect_told_cr(&g, 0, s.cr0, s.cr0 | 8);
    watched_expect_end(&g);
    assert_int_equal(real_guest_regs(&g.real).rcx, 5);
    watched_destroy(&g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_flush),
        cmocka_unit_test(test_flush_of_changed),
        cmocka_unit_test(test_flush_others),
        cmocka_unit_test(test_returns),
        cmocka_unit_test(test_int1),
        cmocka_unit_test(test_breakpoint),
        cmocka_unit_test(test_vcpu),
        cmocka_unit_test(test_vcpu_goes_on),
        cmocka_unit_test(test_injected),
        cmocka_unit_test(test_injected_others),
        cmocka_unit_test(test_injected_escalates),
        cmocka_unit_test(test_smi),
        cmocka_unit_test(test_task_switch),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
