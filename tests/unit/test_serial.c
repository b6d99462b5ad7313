/* SPDX-License-Identifier: MIT */
/*
 * The guest's console from the chip to the host's descriptor: UART registers and interrupts, the escape key, the watcher of lines.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>
#include <unistd.h>

#include "vmm/console.h"
#include "vmm/serial.h"

static struct serial s;
static unsigned edges, n_sent, rooms;
static bool level;
static uint8_t sent[64];

static void line_set(void *machine, unsigned gsi, bool is_up)
{
    (void)machine;
    assert_int_equal(gsi, SERIAL_IRQ);
    edges += is_up && !level;
    level = is_up;
}

static void output(void *sink, uint8_t byte)
{
    (void)sink;
    sent[n_sent++ % sizeof(sent)] = byte;
}

static void room(void *sink)
{
    (void)sink;
    rooms++;
}

static uint8_t in(unsigned reg)
{
    uint64_t value = ~0ull;

    serial_access(&s, reg, 1, false, &value);
    return (uint8_t)value;
}

static void out(unsigned reg, uint8_t value)
{
    uint64_t v = value;

    serial_access(&s, reg, 1, true, &v);
}

static int setup(void **state)
{
    static const struct line_ops ops = { .set = line_set };

    (void)state;
    serial_init(&s, &ops);
    s.output = output;
    s.room = room;
    edges = n_sent = rooms = 0;
    level = false;
    return 0;
}

static void test_transmit(void **state)
{
    (void)state;
    assert_int_equal(in(5), 0x60);
    out(0, 'A');
    assert_int_equal(n_sent, 1);
    assert_int_equal(edges, 0);
    out(1, 2); /* transmitter interrupt: empty already */
    assert_true(level);
    assert_int_equal(in(2) & 15, 2);
    assert_false(level); /* reading it acknowledges */
    assert_int_equal(in(2) & 15, 1);
    out(0, 'B');
    assert_true(level);
    assert_int_equal(edges, 2);
}

static void test_divisor_and_scratch(void **state)
{
    (void)state;
    out(3, 0x83);
    out(0, 0x0c);
    out(1, 0x01);
    assert_int_equal(in(0), 0x0c);
    assert_int_equal(in(1), 0x01);
    out(3, 0x03);
    assert_int_equal(n_sent, 0);
    out(7, 0x5a);
    assert_int_equal(in(7), 0x5a);
    out(1, 0xff);
    assert_int_equal(in(1), 0x0f); /* bits that a 16550 lacks stay clear */
    out(2, 1);
    assert_int_equal(in(2) & 0xc0, 0xc0);
}

static void test_receive(void **state)
{
    (void)state;
    serial_input(&s, (const uint8_t *)"xyz", 3);
    assert_int_equal(in(5) & 1, 0); /* nobody reads yet */
    assert_int_equal(in(0), 0);
    out(1, 1);
    assert_true(level);
    assert_int_equal(in(2) & 15, 4);
    assert_int_equal(in(0), 'x');
    assert_int_equal(in(0), 'y');
    assert_true(level);
    assert_int_equal(in(0), 'z');
    assert_false(level);
    assert_int_equal(in(5) & 1, 0);
}

static void test_polling_reader(void **state)
{
    (void)state;
    serial_input(&s, (const uint8_t *)"q", 1);
    for (unsigned i = 0; i < 100 && !(in(5) & 1); i++)
        ;
    assert_int_equal(in(0), 'q');
}

static void test_full_ring(void **state)
{
    uint8_t bytes[4096];

    (void)state;
    memset(bytes, 'a', sizeof(bytes));
    serial_input(&s, bytes, serial_room(&s));
    assert_int_equal(serial_room(&s), 0);
    out(1, 1);
    in(0);
    assert_int_equal(rooms, 1);
    assert_int_equal(serial_room(&s), 1);
}

static void test_loopback(void **state)
{
    (void)state;
    out(4, 0x1a);
    assert_int_equal(in(6) & 0xf0, 0x90);
    out(0, 'L');
    assert_int_equal(n_sent, 0);
    assert_int_equal(in(5) & 1, 1);
    assert_int_equal(in(0), 'L');
}

static void test_escape_key(void **state)
{
    uint8_t text[] = "a\001\001b\001zc", quit[] = "d\001xe", half[] = "\001", rest[] = "x";
    _Atomic int is_ending = 0;
    struct console c;
    enum console_key key;

    (void)state;
    console_init(&c, -1, -1, NULL, &is_ending);
    assert_int_equal(console_filter(&c, quit, 4, &key), 4); /* piped input is left alone */
    c.is_tty = true;
    assert_int_equal(console_filter(&c, text, sizeof(text) - 1, &key), 4);
    assert_memory_equal(text, "a\001bc", 4);
    assert_int_equal(key, CONSOLE_KEY_NONE);
    assert_int_equal(console_filter(&c, quit, 4, &key), 1);
    assert_int_equal(key, CONSOLE_KEY_QUIT);
    assert_int_equal(console_filter(&c, half, 1, &key), 0);
    assert_int_equal(console_filter(&c, rest, 1, &key), 0);
    assert_int_equal(key, CONSOLE_KEY_QUIT);
    console_fini(&c);
}

static enum watch_event feed(struct watch *w, const char *text)
{
    enum watch_event last = WATCH_NONE;

    for (; *text; text++) {
        enum watch_event event = watch_byte(w, (uint8_t)*text);

        if (event != WATCH_NONE)
            last = event;
    }
    return last;
}

static void test_watch(void **state)
{
    struct watch w;

    (void)state;
    watch_init(&w, "READY");
    assert_int_equal(feed(&w, "grep Kernel panic - not syncing\n"), WATCH_NONE);
    assert_int_equal(feed(&w, "[x] Kernel panic - not syncing\n"), WATCH_NONE);
    assert_int_equal(w.marker_ns, 0);
    feed(&w, "  it is READ");
    assert_int_equal(w.marker_ns, 0);
    feed(&w, "Y");
    assert_true(w.marker_ns && w.marker_ns == w.line_ns);
    assert_int_equal(feed(&w, "\n[   12.5] ---[ end Kernel panic\n"), WATCH_NONE);
    assert_int_equal(feed(&w, "[   12.5] Kernel panic - not syncing: boo\r\n"), WATCH_PANIC);
    assert_string_equal(w.panic, "Kernel panic - not syncing: boo");
    assert_int_equal(feed(&w, "[   12.6] ---[ end Kernel panic - not syncing: boo ]---\n"), WATCH_PANIC_END);
}

static void test_console_pipe(void **state)
{
    _Atomic int is_ending = 0;
    struct console c;
    char buf[16];
    int fds[2];

    (void)state;
    assert_int_equal(pipe(fds), 0);
    console_init(&c, -1, fds[1], NULL, &is_ending);
    console_output(&c, 'h');
    assert_true(console_has_output(&c));
    console_flush_ready(&c);
    assert_int_equal(read(fds[0], buf, sizeof(buf)), 1);
    console_output(&c, 'i');
    console_output(&c, '\n'); /* a line goes out at once */
    assert_int_equal(read(fds[0], buf, sizeof(buf)), 2);
    close(fds[1]);
    console_output(&c, '\n');
    assert_int_not_equal(c.error, 0);
    close(fds[0]);
    console_fini(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_transmit, setup),
        cmocka_unit_test_setup(test_divisor_and_scratch, setup),
        cmocka_unit_test_setup(test_receive, setup),
        cmocka_unit_test_setup(test_polling_reader, setup),
        cmocka_unit_test_setup(test_full_ring, setup),
        cmocka_unit_test_setup(test_loopback, setup),
        cmocka_unit_test(test_escape_key),
        cmocka_unit_test(test_watch),
        cmocka_unit_test(test_console_pipe),
    };

    return cmocka_run_group_tests_name("serial", tests, NULL, NULL);
}
