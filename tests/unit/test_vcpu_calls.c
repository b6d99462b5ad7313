/* SPDX-License-Identifier: MIT */
/*
 * What <vitrine/inspect.h> does with one vCPU, over the socket, on a guest of this process: pausing, holds that end with their handle, single steps of one that
 * runs or halts, MSRs, XSAVE, XCR0, memory by linear addresses.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <unistd.h>

#include "core/vcpu.h"
#include "core/vm.h"
#include "tests/unit/real_guest.h"
#include "vitrine/inspect.h"

#define RAM_BYTES 0x10000u
#define COUNT_AT 0x500u
#define NMIS_AT 0x504u
#define IVT_NMI 8u
#define NMI_HANDLER_AT (REAL_GUEST_CODE_AT + 0x100)

static const uint8_t code_count[] = { 0xff, 0x06, 0x00, 0x05, 0x90, 0xeb, 0xf9 };                   /* 1: inc word [500h]; nop; jmp 1b */
static const uint8_t code_halt[] = { 0xf4, 0xff, 0x06, 0x00, 0x05, 0xeb, 0xf9 };                    /* 1: hlt; inc word [500h]; jmp 1b */
static const uint8_t code_nmi[] = { 0xff, 0x06, 0x04, 0x05, 0xcf };                                 /* inc word [504h]; iret */
static const uint8_t code_ports[] = { 0xe4, 0x80, 0xe6, 0x80, 0xff, 0x06, 0x00, 0x05, 0xeb, 0xf6 }; /* 1: in al, 80h; out 80h, al; inc word [500h]; jmp 1b */
#define INSNS_OF_TURN 3u

static struct real_guest guest;
static pthread_t client_thread;
static struct vitrine_vm *vm;

static void begin(const uint8_t *code, size_t bytes)
{
    const uint16_t handler = NMI_HANDLER_AT;
    real_guest_create(&guest, RAM_BYTES, code, bytes, true);
    memcpy(guest.ram + IVT_NMI, &handler, sizeof handler);
    memcpy(guest.ram + NMI_HANDLER_AT, code_nmi, sizeof code_nmi);
    client_thread = real_guest_start(&guest);
    vm = real_guest_open();
    assert_non_null(vm);
}

static void end(void)
{
    real_guest_end(&guest, client_thread, vm);
}

static int set_up(void **state)
{
    (void)state;
    begin(code_count, sizeof code_count);
    return 0;
}

static int set_up_halt(void **state)
{
    (void)state;
    begin(code_halt, sizeof code_halt);
    return 0;
}

static int set_up_ports(void **state)
{
    (void)state;
    begin(code_ports, sizeof code_ports);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    end();
    return 0;
}

static uint16_t word(uint32_t at)
{
    return *(volatile uint16_t *)(guest.ram + at);
}

/* What is not moving for ever cannot be shown; 5 ms are some hundred thousand turns of the guest. */
static void assert_still(void)
{
    uint16_t before = word(COUNT_AT);
    usleep(5000);
    assert_int_equal(word(COUNT_AT), before);
}

static void wait_moving(void)
{
    real_guest_wait_moving(&guest, COUNT_AT);
}

static void test_pause(void **state)
{
    (void)state;
    wait_moving();
    for (unsigned i = 0; i < 2; i++)
        assert_int_equal(vitrine_vcpu_pause(vm, 0), 0);
    assert_still();
    assert_int_equal(vitrine_vcpu_resume(vm, 0), 0);
    wait_moving();
    /* Paused as a whole, and resumed one by one. */
    assert_int_equal(vitrine_vm_pause(vm), 0);
    assert_still();
    assert_int_equal(vitrine_vcpu_resume(vm, 0), 0);
    wait_moving();
    /* The other way round. */
    assert_int_equal(vitrine_vcpu_pause(vm, 0), 0);
    assert_still();
    assert_int_equal(vitrine_vm_resume(vm), 0);
    wait_moving();
    assert_int_equal(vitrine_vcpu_pause(vm, 1), -1);
    assert_int_equal(errno, ENOENT);
}

static void test_hold(void **state)
{
    (void)state;
    struct vitrine_vm *other = real_guest_open();
    assert_int_equal(vitrine_vcpu_hold(other, 0), 0);
    assert_int_equal(vitrine_vcpu_hold(other, 0), 0);
    assert_int_equal(vitrine_vm_hold(other), 0);
    assert_still();
    assert_int_equal(vitrine_vcpu_release(vm, 0), -1); /* not this handle's */
    assert_int_equal(errno, EINVAL);
    assert_int_equal(vitrine_vcpu_release(other, 0), 0);
    assert_int_equal(vitrine_vm_release(other), 0);
    assert_still();
    vitrine_vm_close(other);
    wait_moving();
}

static uint64_t rip_now(void)
{
    struct vitrine_regs regs;
    assert_int_equal(vitrine_vcpu_get_regs(vm, 0, &regs), 0);
    return regs.rip;
}

static void send_nmi(void)
{
    atomic_store(&guest.v->ev.nmi_pending, 1);
    vcpu_request(guest.v, VREQ_EVENT);
}

static void test_step(void **state)
{
    (void)state;
    assert_int_equal(vitrine_vcpu_step(vm, 0, 1, -1), -1);
    assert_int_equal(errno, EINVAL);
    assert_int_equal(vitrine_vcpu_pause(vm, 0), 0);
    while (rip_now() != REAL_GUEST_CODE_AT)
        assert_int_equal(vitrine_vcpu_step(vm, 0, 1, -1), 1);
    static const uint64_t next[INSNS_OF_TURN] = { 4, 5, 0 };
    uint16_t before = word(COUNT_AT);
    for (unsigned i = 0; i < 9; i++) {
        assert_int_equal(vitrine_vcpu_step(vm, 0, 1, -1), 1);
        assert_int_equal(rip_now(), REAL_GUEST_CODE_AT + next[i % INSNS_OF_TURN]);
        assert_int_equal((uint16_t)(word(COUNT_AT) - before), 1 + i / INSNS_OF_TURN);
    }
    before = word(COUNT_AT);
    send_nmi(); /* waits */
    assert_int_equal(vitrine_vcpu_step(vm, 0, 3000, -1), 3000);
    assert_int_equal((uint16_t)(word(COUNT_AT) - before), 3000 / INSNS_OF_TURN);
    assert_int_equal(rip_now(), REAL_GUEST_CODE_AT);
    assert_int_equal(word(NMIS_AT), 0);
    assert_still();
    assert_int_equal(vitrine_vcpu_resume(vm, 0), 0);
    real_guest_wait_moving(&guest, COUNT_AT);
    while (word(NMIS_AT) != 1)
        usleep(100);
}

/* It is halted: nothing can be executed until something wakes it, and then that is delivered. */
static void test_step_halted(void **state)
{
    (void)state;
    while (atomic_load(&guest.v->mp_state) != MP_HALTED)
        usleep(100);
    assert_int_equal(vitrine_vm_hold(vm), 0);
    assert_int_equal(vitrine_vcpu_step(vm, 0, 1, 20), 0);
    send_nmi();
    assert_int_equal(vitrine_vcpu_step(vm, 0, 1, -1), 1);
    assert_int_equal(word(NMIS_AT), 1);
    assert_int_equal(rip_now(), NMI_HANDLER_AT + 4);
    assert_int_equal(vitrine_vcpu_step(vm, 0, 2, -1), 2); /* IRET and what follows HLT */
    assert_int_equal(word(COUNT_AT), 1);
    assert_int_equal(vitrine_vcpu_step(vm, 0, 2, -1), 2); /* JMP and HLT */
    assert_int_equal(vitrine_vcpu_step(vm, 0, 1, 20), 0);
    assert_int_equal(vitrine_vm_release(vm), 0);
    send_nmi();
    while (word(NMIS_AT) != 2 || word(COUNT_AT) != 2)
        usleep(100);
}

/* Instructions that the client has to finish are one step each, and it runs the vCPU meanwhile. */
static void test_step_ports(void **state)
{
    (void)state;
    assert_int_equal(vitrine_vcpu_pause(vm, 0), 0);
    while (rip_now() != REAL_GUEST_CODE_AT)
        assert_int_equal(vitrine_vcpu_step(vm, 0, 1, -1), 1);
    static const uint64_t next[] = { 2, 4, 8, 0 };
    uint16_t before = word(COUNT_AT);
    for (unsigned i = 0; i < 12; i++) {
        assert_int_equal(vitrine_vcpu_step(vm, 0, 1, -1), 1);
        assert_int_equal(rip_now(), REAL_GUEST_CODE_AT + next[i % 4]);
    }
    assert_int_equal((uint16_t)(word(COUNT_AT) - before), 3);
    assert_int_equal(vitrine_vcpu_step(vm, 0, 400, -1), 400);
    assert_int_equal((uint16_t)(word(COUNT_AT) - before), 103);
    assert_int_equal(vitrine_vcpu_resume(vm, 0), 0);
    wait_moving();
}

/* An exception is no interrupt: it comes before the instruction that would be next. */
static void test_step_exception(void **state)
{
    (void)state;
    const struct vitrine_injection fault = { .vector = 6 };
    const uint16_t handler = NMI_HANDLER_AT;
    memcpy(guest.ram + 4 * fault.vector, &handler, sizeof handler);
    assert_int_equal(vitrine_vcpu_pause(vm, 0), 0);
    uint64_t before = rip_now();
    assert_int_equal(vitrine_vcpu_inject(vm, 0, &fault), 0);
    assert_int_equal(vitrine_vcpu_step(vm, 0, 1, -1), 1);
    assert_int_equal(rip_now(), NMI_HANDLER_AT + 4);
    assert_int_equal(word(NMIS_AT), 1);
    assert_int_equal(vitrine_vcpu_step(vm, 0, 1, -1), 1);
    assert_int_equal(rip_now(), before);
    assert_int_equal(vitrine_vcpu_resume(vm, 0), 0);
    wait_moving();
}

/* A tool that has to answer comes first. */
static void test_step_asked(void **state)
{
    (void)state;
    const struct vitrine_subscription steps = { .kinds = VITRINE_ON_STEP, .flags = VITRINE_SUBSCRIBE_ASK, .last_index = UINT32_MAX };
    struct vitrine_vm *other = real_guest_open();
    struct vitrine_event e;
    assert_int_equal(vitrine_vcpu_pause(vm, 0), 0);
    int number = vitrine_vm_subscribe(other, &steps, NULL, 0);
    assert_true(number > 0);
    for (unsigned i = 0; i < 2; i++) {
        assert_int_equal(vitrine_vcpu_step(vm, 0, 1, -1), -1);
        assert_int_equal(errno, EBUSY);
    }
    assert_int_equal(vitrine_vm_next_events(other, &e, 1, 60000, NULL), 1);
    assert_int_equal(e.rip, rip_now());
    assert_int_equal(vitrine_vm_unsubscribe(other, number), 0);
    assert_int_equal(vitrine_vm_answer(other, &e, VITRINE_CONTINUE, 0), 0);
    assert_int_equal(vitrine_vcpu_step(vm, 0, 1, -1), 1);
    vitrine_vm_close(other);
    assert_int_equal(vitrine_vcpu_resume(vm, 0), 0);
    wait_moving();
}

#define NO_SUCH_MSR 0x12345u

static void test_msrs(void **state)
{
    (void)state;
    struct vitrine_regs regs;
    struct vitrine_msr msr[4] = { { .index = 0xc0000082, .value = 0xffffffff81000000 },
                                  { .index = NO_SUCH_MSR, .value = 1 },
                                  { .index = 0xc0000082, .value = 1ull << 63 },
                                  { .index = 0x277, .value = 0x0007040600070406 } };
    assert_int_equal(vitrine_vcpu_set_msrs(vm, 0, msr, 4), 0);
    assert_int_equal(msr[0].error, 0);
    assert_int_equal(msr[1].error, ENOENT);
    assert_int_equal(msr[2].error, EINVAL);
    assert_int_equal(msr[3].error, 0);
    memset(msr, 0, sizeof msr);
    msr[0].index = 0xc0000082;
    msr[1].index = NO_SUCH_MSR;
    msr[2].index = 0x1b;
    assert_int_equal(vitrine_vcpu_get_msrs(vm, 0, msr, 3), 0);
    assert_int_equal(msr[0].value, 0xffffffff81000000);
    assert_int_equal(msr[1].error, ENOENT);
    assert_int_equal(vitrine_vcpu_get_regs(vm, 0, &regs), 0);
    assert_int_equal(regs.lstar, msr[0].value);
    assert_int_equal(regs.pat, 0x0007040600070406);
    assert_int_equal(regs.apic_base, msr[2].value);
    static struct vitrine_msr many[3000];
    for (unsigned i = 0; i < 3000; i++)
        many[i].index = i % 2 ? 0xc0000082 : NO_SUCH_MSR;
    assert_int_equal(vitrine_vcpu_get_msrs(vm, 0, many, 3000), 0);
    for (unsigned i = 0; i < 3000; i++)
        assert_int_equal(i % 2 ? many[i].value == 0xffffffff81000000 : many[i].error == ENOENT, 1);
}

static void test_xsave(void **state)
{
    (void)state;
    struct vitrine_xsave area, again;
    struct vitrine_regs regs;
    assert_int_equal(vitrine_vcpu_get_xsave(vm, 0, &area), 0);
    uint64_t components;
    memcpy(&components, area.area + 512, 8);
    components |= 2;
    memcpy(area.area + 512, &components, 8);
    for (unsigned i = 0; i < 256; i++)
        area.area[160 + i] = (uint8_t)(i * 7 + 1); /* XMM0 to XMM15 */
    assert_int_equal(vitrine_vcpu_set_xsave(vm, 0, &area), 0);
    wait_moving();
    assert_int_equal(vitrine_vcpu_get_xsave(vm, 0, &again), 0);
    assert_memory_equal(area.area + 160, again.area + 160, 256);
    area.area[520] = 1; /* the compacted format */
    assert_int_equal(vitrine_vcpu_set_xsave(vm, 0, &area), -1);
    assert_int_equal(errno, EINVAL);
    assert_int_equal(vitrine_vcpu_get_regs(vm, 0, &regs), 0);
    assert_int_equal(regs.xcr0, 1);
    regs.xcr0 = 3;
    assert_int_equal(vitrine_vcpu_set_regs(vm, 0, &regs), 0);
    assert_int_equal(vitrine_vcpu_get_regs(vm, 0, &regs), 0);
    assert_int_equal(regs.xcr0, 3);
    regs.xcr0 = 2; /* without x87 */
    assert_int_equal(vitrine_vcpu_set_regs(vm, 0, &regs), -1);
    assert_int_equal(errno, EINVAL);
}

/* Without paging, and with a table that maps only its first page and one at 4 MiB. */
static void test_linear(void **state)
{
    (void)state;
    struct vitrine_translation why;
    struct vitrine_regs regs;
    uint8_t bytes[64];
    assert_int_equal(vitrine_vcpu_mem_read(vm, 0, RAM_BYTES - 16, bytes, 64, &why), 16);
    assert_int_equal(vitrine_vcpu_mem_read(vm, 0, RAM_BYTES, bytes, 64, &why), -1);
    assert_int_equal(errno, EFAULT);
    assert_int_equal(why.result, VITRINE_WALK_OK);
    uint32_t *directory = (void *)(guest.ram + 0x8000), *table = (void *)(guest.ram + 0x9000);
    directory[1] = 0x9003;
    table[0] = 0xa003;
    table[1] = 0xc003; /* not where the first one ends */
    memset(guest.ram + 0xaff8, 0x11, 8);
    memset(guest.ram + 0xc000, 0x22, 8);
    assert_int_equal(vitrine_vcpu_pause(vm, 0), 0);
    assert_int_equal(vitrine_vcpu_get_regs(vm, 0, &regs), 0);
    struct vitrine_regs paging = regs;
    paging.cr3 = 0x8000;
    paging.cr0 |= 0x80000001;
    assert_int_equal(vitrine_vcpu_set_regs(vm, 0, &paging), 0);
    assert_int_equal(vitrine_vcpu_mem_read(vm, 0, 0x400ff8, bytes, 16, &why), 16);
    assert_true(bytes[0] == 0x11 && bytes[7] == 0x11 && bytes[8] == 0x22 && bytes[15] == 0x22);
    assert_int_equal(vitrine_vcpu_mem_write(vm, 0, 0x400fff, "ab", 2, NULL), 2);
    assert_true(guest.ram[0xafff] == 'a' && guest.ram[0xc000] == 'b');
    assert_int_equal(vitrine_vcpu_mem_read(vm, 0, 0x401ff0, bytes, 64, &why), 16);
    assert_int_equal(vitrine_vcpu_mem_read(vm, 0, 0x402000, bytes, 64, &why), -1);
    assert_int_equal(errno, EFAULT);
    assert_int_equal(why.result, VITRINE_WALK_NOT_PRESENT);
    assert_int_equal(why.level, 1);
    assert_int_equal(vitrine_vcpu_set_regs(vm, 0, &regs), 0);
    assert_int_equal(vitrine_vcpu_resume(vm, 0), 0);
    wait_moving();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_pause, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_hold, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_step, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_step_halted, set_up_halt, tear_down),
        cmocka_unit_test_setup_teardown(test_step_ports, set_up_ports, tear_down),
        cmocka_unit_test_setup_teardown(test_step_exception, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_step_asked, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_msrs, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_xsave, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_linear, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
