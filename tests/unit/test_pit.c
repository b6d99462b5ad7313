/* SPDX-License-Identifier: MIT */
/*
 * 8254: byte order, latches, read-back, ticks on GSI 0, reinjection, the speaker port, state.
 */
#include <errno.h>

#include "chip_fixture.h"

static int setup_pit(void **state)
{
    setup(state);
    assert_int_equal(pit_create(vm, PIT_SPEAKER_DUMMY), 0);
    assert_int_equal(pit_create(vm, 0), -EEXIST);
    out8(0x20, 0x11);
    out8(0x21, 0x20);
    out8(0x21, 0x04);
    out8(0x21, 0x01);
    return 0;
}

static void program(unsigned mode, uint16_t count)
{
    out8(0x43, (uint8_t)(0x30 | mode << 1));
    out8(0x40, (uint8_t)count);
    out8(0x40, (uint8_t)(count >> 8));
}

static void test_counting(void **state)
{
    (void)state;
    out8(0x43, 0xb0); /* channel 2, mode 0 */
    out8(0x42, 0xff);
    out8(0x42, 0xff);
    uint64_t start = timer_now_ns();
    out8(0x43, 0x80);
    unsigned a = in8(0x42);
    a |= (unsigned)in8(0x42) << 8;
    sleep_ms(5);
    out8(0x43, 0x80);
    uint64_t ticks = (timer_now_ns() - start) * 1193182 / 1000000000;
    unsigned b = in8(0x42);
    b |= (unsigned)in8(0x42) << 8;
    if (ticks < 65000) /* else this thread slept through a whole turn */
        assert_in_range(a - b, 5900, ticks + 1);
    out8(0x43, 0xe8); /* status of channel 2 */
    assert_int_equal(in8(0x42) & 0x3f, 0x30);
    out8(0x43, 0x98); /* low byte only, mode 4 */
    out8(0x42, 0x10);
    struct pit_state s;
    assert_int_equal(pit_state_get(vm, &s), 0);
    assert_int_equal(s.channels[2].count, 0x10);
    assert_int_equal(s.channels[2].mode, 4);
}

static void test_speaker(void **state)
{
    (void)state;
    out8(0x61, 0);
    assert_int_equal(in8(0x61) & 3, 0);
    out8(0x43, 0xb0);
    out8(0x61, 3);
    out8(0x42, 0x50);
    out8(0x42, 0x0b); /* 2896 ticks: 2.4 ms */
    assert_int_equal(in8(0x61) & 0x23, 3);
    sleep_ms(4);
    assert_int_equal(in8(0x61) & 0x23, 0x23);
    unsigned seen = 0;
    for (unsigned i = 0; i < 2000 && seen != 3; i++) {
        seen |= in8(0x61) & 0x10 ? 2 : 1;
        struct timespec t = { 0, 1000 };
        nanosleep(&t, NULL);
    }
    assert_int_equal(seen, 3);
}

static void test_oneshot(void **state)
{
    (void)state;
    program(0, 2386); /* 2 ms */
    assert_int_equal(vm->chip->irq_peek(cpu[0]), -1);
    assert_int_equal(wait_irq(cpu[0]), 0x20);
    out8(0x20, 0x20);
    sleep_ms(6);
    assert_int_equal(vm->chip->irq_peek(cpu[0]), -1);
}

/* Ticks that came while the guest did not look are all delivered in the end. */
static void test_reinjection(void **state)
{
    (void)state;
    unsigned n = 0;
    uint64_t start = timer_now_ns();
    program(2, 2386);
    sleep_ms(40);
    while (n < 28 && timer_now_ns() - start < 2000000000) {
        if (vm->chip->irq_take(cpu[0]) == 0x20) {
            n++;
            out8(0x20, 0x20);
        }
    }
    assert_int_equal(n, 28); /* 56 ms of ticks: none was lost in the 40 ms without a taker, none came early */
    assert_true(timer_now_ns() - start >= 54000000);
    assert_int_equal(pit_set_reinject(vm, false), 0);
    start = timer_now_ns();
    vm->chip->irq_take(cpu[0]);
    out8(0x20, 0x20);
    sleep_ms(30);
    n = 0;
    while (timer_now_ns() - start < 32000000 || n == 0) {
        if (vm->chip->irq_take(cpu[0]) == 0x20) {
            n++;
            out8(0x20, 0x20);
        }
    }
    assert_in_range(n, 1, 5 + (timer_now_ns() - start - 30000000) / 2000000);
}

/* A tick that nothing takes must not stop the later ones. */
static void test_masked_then_unmasked(void **state)
{
    (void)state;
    uint32_t index = 0x10, rte = 0x45;
    out8(0x21, 0xff);
    program(2, 2386);
    sleep_ms(8);
    lapic_enable(cpu[0]);
    bus_write(&vm->mmio, cpu[0], 0xfec00000, 4, &index);
    bus_write(&vm->mmio, cpu[0], 0xfec00010, 4, &rte);
    for (unsigned i = 0; i < 3; i++) {
        assert_int_equal(wait_irq(cpu[0]), 0x45);
        reg_write(cpu[0], LREG_EOI, 0);
    }
}

static void test_state(void **state)
{
    (void)state;
    struct pit_state s;
    program(2, 2386);
    assert_int_equal(pit_state_get(vm, &s), 0);
    assert_int_equal(s.channels[0].mode, 2);
    assert_int_equal(s.channels[0].count, 2386);
    s.flags |= PIT_FLAG_HPET_LEGACY;
    assert_int_equal(pit_state_set(vm, &s), 0);
    vm->chip->irq_take(cpu[0]);
    out8(0x20, 0x20);
    sleep_ms(6);
    assert_int_equal(vm->chip->irq_peek(cpu[0]), -1);
    s.flags = 0;
    assert_int_equal(pit_state_set(vm, &s), 0);
    assert_int_equal(wait_irq(cpu[0]), 0x20);
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, setup_pit, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(test_counting), CASE(test_speaker), CASE(test_oneshot), CASE(test_reinjection), CASE(test_masked_then_unmasked), CASE(test_state),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
