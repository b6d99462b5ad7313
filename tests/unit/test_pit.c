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

/* The first nanosecond by which `ticks` have gone by. */
static uint64_t ticks_ns(uint64_t ticks)
{
    return (ticks * 1000000000 + 1193181) / 1193182;
}

static unsigned read_latched(unsigned channel)
{
    out8(0x43, (uint8_t)(channel << 6));
    unsigned low = in8((uint16_t)(0x40 + channel));
    return low | (unsigned)in8((uint16_t)(0x40 + channel)) << 8;
}

static void test_counting(void **state)
{
    (void)state;
    out8(0x43, 0xb0); /* channel 2, mode 0 */
    out8(0x42, 0xff);
    out8(0x42, 0xff);
    assert_int_equal(read_latched(2), 0xffff);
    hand_clock_step_ns(ticks_ns(5966) - 1);
    assert_int_equal(read_latched(2), 0xffff - 5965);
    hand_clock_step_ns(1);
    assert_int_equal(read_latched(2), 0xffff - 5966);
    out8(0x43, 0x80); /* what is latched stays until it is read */
    hand_clock_step_ns(MS);
    unsigned low = in8(0x42);
    assert_int_equal(low | (unsigned)in8(0x42) << 8, 0xffff - 5966);
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
    hand_clock_step_ns(ticks_ns(2896) - 1);
    assert_int_equal(in8(0x61) & 0x23, 3);
    hand_clock_step_ns(1);
    assert_int_equal(in8(0x61) & 0x23, 0x23);
    uint8_t refresh = in8(0x61) & 0x10;
    for (unsigned i = 0; i < 8; i++) {
        hand_clock_step_ns(1 << 14);
        assert_int_equal(in8(0x61) & 0x10, refresh ^= 0x10);
    }
}

static void test_oneshot(void **state)
{
    (void)state;
    program(0, 2386); /* 2 ms */
    hand_clock_step_ns(ticks_ns(2386) - 1);
    assert_int_equal(vm->chip->irq_take(cpu[0]), -1);
    hand_clock_step_ns(1);
    assert_int_equal(vm->chip->irq_take(cpu[0]), 0x20);
    out8(0x20, 0x20);
    hand_clock_step_ns(1000 * MS);
    assert_int_equal(vm->chip->irq_take(cpu[0]), -1);
}

/* Takes and ends interrupts until there is none. */
static unsigned take_all(void)
{
    unsigned n = 0;
    while (vm->chip->irq_take(cpu[0]) == 0x20) {
        n++;
        out8(0x20, 0x20);
        hand_clock_step_ns(0);
    }
    return n;
}

/* Ticks that came while the guest did not look are all delivered in the end, and those of a guest that looks at their time. */
static void test_reinjection(void **state)
{
    (void)state;
    program(2, 2386);
    hand_clock_step_ns(ticks_ns(20 * 2386) - 1);
    assert_int_equal(take_all(), 19);
    for (unsigned i = 0; i < 8; i++) {
        hand_clock_step_ns(1);
        assert_int_equal(take_all(), 1);
        hand_clock_step_ns(ticks_ns((21 + i) * 2386) - ticks_ns((20 + i) * 2386) - 1);
        assert_int_equal(take_all(), 0);
    }
    assert_int_equal(pit_set_reinject(vm, false), 0);
    hand_clock_step_ns(1);
    hand_clock_step_ns(ticks_ns(15 * 2386));
    assert_int_equal(take_all(), 1); /* all but one are lost */
    for (unsigned i = 0; i < 8; i++) {
        hand_clock_step_ns(ticks_ns(2386));
        assert_int_equal(take_all(), 1);
    }
}

/* A tick that nothing takes must not stop the later ones. */
static void test_masked_then_unmasked(void **state)
{
    (void)state;
    uint32_t index = 0x10, rte = 0x45;
    out8(0x21, 0xff);
    program(2, 2386);
    hand_clock_step_ns(4 * ticks_ns(2386));
    lapic_enable(cpu[0]);
    bus_write(&vm->mmio, cpu[0], 0xfec00000, 4, &index);
    bus_write(&vm->mmio, cpu[0], 0xfec00010, 4, &rte);
    assert_int_equal(vm->chip->irq_take(cpu[0]), -1);
    for (unsigned i = 0; i < 3; i++) {
        hand_clock_step_ns(ticks_ns(2386));
        assert_int_equal(vm->chip->irq_take(cpu[0]), 0x45);
        reg_write(cpu[0], LREG_EOI, 0);
        hand_clock_step_ns(0);
        assert_int_equal(vm->chip->irq_take(cpu[0]), -1);
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
    hand_clock_step_ns(1000 * MS);
    assert_int_equal(vm->chip->irq_take(cpu[0]), -1);
    s.flags = 0;
    assert_int_equal(pit_state_set(vm, &s), 0);
    hand_clock_step_ns(ticks_ns(2386) - 1);
    assert_int_equal(vm->chip->irq_take(cpu[0]), -1);
    hand_clock_step_ns(1);
    assert_int_equal(vm->chip->irq_take(cpu[0]), 0x20);
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, setup_pit, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(test_counting), CASE(test_speaker), CASE(test_oneshot), CASE(test_reinjection), CASE(test_masked_then_unmasked), CASE(test_state),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
