/* SPDX-License-Identifier: MIT */
/*
 * Paravirtual features that need another CPU or a moment that a client cannot choose: the steal time page around sleep, kicks, IPIs by hypercall.
 */
#include "chip_fixture.h"

#define MSR_STEAL_TIME 0x4b564d03u
#define PAGE_AT 0x1000u
#define AWAY_AT (PAGE_AT + 16)

static void test_sleep_and_flush(void **state)
{
    (void)state;
    const struct chip_ops *chip = vm->chip;
    assert_int_equal(chip->msr_write(cpu[1], MSR_STEAL_TIME, PAGE_AT | 1, true), 0);
    assert_false(chip->vcpu_run_enter(cpu[1]));
    chip->vcpu_sleep(cpu[1]);
    assert_int_equal(ram[AWAY_AT], 1);
    ram[AWAY_AT] |= 2; /* another CPU's request instead of an IPI */
    chip->vcpu_sleep(cpu[1]);
    assert_int_equal(ram[AWAY_AT], 3); /* woken for nothing and asleep again: the request stands */
    assert_true(chip->vcpu_run_enter(cpu[1]));
    assert_int_equal(ram[AWAY_AT], 0);
    assert_false(chip->vcpu_run_enter(cpu[1]));
    chip->vcpu_sleep(cpu[1]);
    assert_false(chip->vcpu_run_enter(cpu[1]));
    /* A restored page asks before the CPU has run here. */
    ram[AWAY_AT] = 3;
    assert_int_equal(chip->msr_write(cpu[1], MSR_STEAL_TIME, PAGE_AT | 1, true), 0);
    assert_true(chip->vcpu_run_enter(cpu[1]));
    /* INIT takes the page away. */
    chip->lapic_reset(cpu[1], true);
    chip->vcpu_sleep(cpu[1]);
    assert_int_equal(ram[AWAY_AT], 0);
    /* A page that is not there hurts nobody. */
    assert_int_equal(chip->msr_write(cpu[1], MSR_STEAL_TIME, RAM_BYTES | 1, true), 0);
    assert_false(chip->vcpu_run_enter(cpu[1]));
    chip->vcpu_sleep(cpu[1]);
    assert_false(chip->vcpu_run_enter(cpu[1]));
}

static int64_t call(uint64_t nr, uint64_t a0, uint64_t a1, uint64_t a2, uint64_t a3, bool is_long)
{
    const uint64_t args[4] = { a0, a1, a2, a3 };
    return vm->chip->hypercall(cpu[0], nr, args, is_long);
}

static void test_calls(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 3; i++)
        lapic_enable(cpu[i]);
    atomic_store(&cpu[2]->requests, 0);
    assert_int_equal(call(5, 0, 2, 0, 0, true), 0);
    assert_true(atomic_load(&cpu[2]->ev.is_kicked));
    assert_true(atomic_load(&cpu[2]->requests) & VREQ_EVENT);
    assert_int_equal(call(5, 0, VM_VCPU_IDS, 0, 0, true), 0);

    assert_int_equal(call(10, 7, 0, 0, 0x4041, true), 3);
    for (unsigned i = 0; i < 3; i++)
        assert_int_equal(vm->chip->irq_peek(cpu[i]), 0x41);
    /* The second word begins 64 or 32 ids after the first. */
    assert_int_equal(call(10, 0, 1, (uint32_t)-62, 0x4042, true), 0);
    assert_int_equal(call(10, 0, 7, 0, 0x4042, false), 0);
    assert_int_equal(call(10, 0xff, 0xff, 1, 0x4042, true), 2);
    assert_int_equal(vm->chip->irq_peek(cpu[0]), 0x41);
    assert_int_equal(vm->chip->irq_peek(cpu[2]), 0x42);
    assert_int_equal(call(10, 1, 0, 0, 0x4842, true), -22); /* logical destinations are not for this call */
    /* NMIs go by it too. */
    assert_int_equal(call(10, 2, 0, 0, 0x4400, true), 1);
    assert_int_equal(atomic_load(&cpu[1]->ev.nmi_pending), 1);
}

#define CASE(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = { CASE(test_sleep_and_flush), CASE(test_calls) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
