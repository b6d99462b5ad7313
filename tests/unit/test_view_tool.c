/* SPDX-License-Identifier: MIT */
/*
 * Views of guest memory by <vitrine/inspect.h> over the socket, on a guest of this process: what is set is seen, told and answered, and goes with a tool that
 * is killed. What views do is test_view's business.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/unit/real_guest.h"
#include "vitrine/inspect.h"

#define RAM_BYTES 0x10000u

extern const uint8_t code[], code_end[];
__asm__(".pushsection .rodata\n code: .code16\n"
        "1: incw 0x500\n mov %cx, 0x502\n jmp 1b\n"
        "code_end: .code64\n .popsection");

static struct real_guest guest;
static pthread_t client_thread;
static struct vitrine_vm *vm;

static int set_up(void **state)
{
    (void)state;
    real_guest_create(&guest, RAM_BYTES, code, (size_t)(code_end - code), false);
    client_thread = real_guest_start(&guest);
    vm = real_guest_open();
    return vm ? 0 : -1;
}

static int tear_down(void **state)
{
    (void)state;
    vitrine_vm_close(vm);
    real_guest_kick_until_ended(&guest, client_thread);
    real_guest_destroy(&guest);
    return 0;
}

static void wait_moving(void)
{
    real_guest_wait_moving(&guest, 0x500);
}

static void next_access(struct vitrine_vm *from, struct vitrine_event *e, int view)
{
    assert_int_equal(vitrine_vm_next_events(from, e, 1, 60000, NULL), 1);
    assert_int_equal(e->kind, VITRINE_ON_ACCESS);
    assert_int_equal(e->index, view);
    assert_int_equal(e->access, VITRINE_WRITE);
    assert_int_equal(e->gpa, 0x502);
    assert_int_equal(e->bytes, 2);
}

/* The guest counts at 0x500 and stores at 0x502. In the view these are in a page that is added. */
static void test_views(void **state)
{
    (void)state;
    struct vitrine_event e;
    struct vitrine_vm_info info;
    struct vitrine_slot slot[2];
    struct vitrine_page page[2] = { { .gpa = 0, .access = VITRINE_READ | VITRINE_EXECUTE }, { .gpa = 0x1000, .access = VITRINE_EXECUTE } };
    uint16_t word = 0x1234;
    int view = vitrine_view_create(vm);
    assert_int_equal(view, 1);
    assert_int_equal(vitrine_vm_info(vm, &info), 0);
    assert_int_equal(info.n_views, 1);
    assert_int_equal(vitrine_page_add(vm, 0x80000), 0);
    assert_int_equal(vitrine_page_add(vm, 0x80000), -1);
    assert_int_equal(errno, EEXIST);
    assert_int_equal(vitrine_vm_info(vm, &info), 0);
    assert_int_equal(info.memory_bytes, RAM_BYTES);
    assert_int_equal(vitrine_vm_slots(vm, slot, 2), 2);
    assert_int_equal(slot[1].gpa, 0x80000);
    assert_int_equal(slot[1].flags, VITRINE_SLOT_TOOLS);
    assert_int_equal(vitrine_mem_write(vm, 0x80500, &word, 2), 2);
    assert_int_equal(vitrine_view_remap(vm, (unsigned)view, 0, 0x80000), 0);
    assert_int_equal(vitrine_view_set_access(vm, (unsigned)view, page, 2), 0);
    page[0].writeable = 0xffffffef; /* all but 0x200 to 0x27f */
    assert_int_equal(vitrine_view_set_writeable(vm, (unsigned)view, page, 1), 0);
    page[0].writeable = page[1].access = 0;
    assert_int_equal(vitrine_view_get(vm, (unsigned)view, page, 2), 0);
    assert_int_equal(page[0].writeable, 0xffffffef);
    assert_int_equal(page[1].access, VITRINE_EXECUTE);
    assert_int_equal(vitrine_view_switch(vm, 0, (unsigned)view), 0);
    assert_int_equal(vitrine_view_of(vm, 0), view);
    uint16_t then = *(volatile uint16_t *)(guest.ram + 0x500), now;
    do
        assert_int_equal(vitrine_mem_read(vm, 0x80500, &now, 2), 2);
    while (now == word);
    page[0].writeable = 0xfffffbff; /* all but 0x500 to 0x57f */
    assert_int_equal(vitrine_view_set_writeable(vm, (unsigned)view, page, 1), 0);
    assert_int_equal(vitrine_vm_next_events(vm, &e, 1, 60000, NULL), 1);
    if (e.access == (VITRINE_READ | VITRINE_WRITE)) { /* the counter's */
        assert_int_equal(vitrine_vm_answer(vm, &e, VITRINE_CONTINUE, 0), 0);
        next_access(vm, &e, view);
    }
    assert_int_equal(*(volatile uint16_t *)(guest.ram + 0x500), then);
    assert_int_equal(vitrine_page_remove(vm, 0x80000), 0); /* back to its own memory, still denied */
    assert_int_equal(vitrine_vm_answer(vm, &e, VITRINE_RETRY, 0), 0);
    next_access(vm, &e, view);
    assert_int_equal(vitrine_view_destroy(vm, (unsigned)view), 0);
    assert_int_equal(vitrine_view_switch(vm, 0, (unsigned)view), -1);
    assert_int_equal(errno, ENOENT);
    assert_int_equal(vitrine_view_set_access(vm, 0, page, VITRINE_PAGES_MAX + 1), -1);
    assert_int_equal(errno, E2BIG);
    assert_int_equal(vitrine_view_of(vm, 0), 0);
    assert_int_equal(vitrine_vm_answer(vm, &e, VITRINE_CONTINUE, 0), 0);
    wait_moving();
    assert_int_not_equal(*(volatile uint16_t *)(guest.ram + 0x500), then);
}

/* A child has the vCPU in a view of its own, on a page of its own, with everything denied, and is killed. */
static void test_tool_with_views_killed(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 4; i++) {
        int ready[2];
        char byte, parent[32];
        snprintf(parent, sizeof parent, "%d", (int)getpid());
        assert_int_equal(pipe(ready), 0);
        pid_t tool = fork();
        if (tool == 0) {
            struct vitrine_event e;
            struct vitrine_vm *other = vitrine_vm_open(parent);
            struct vitrine_page page[16];
            int view = other ? vitrine_view_create(other) : -1;
            for (unsigned k = 0; k < 16; k++)
                page[k] = (struct vitrine_page){ .gpa = k * 0x1000 };
            if (view < 0 || vitrine_page_add(other, 0x90000) || vitrine_view_remap(other, (unsigned)view, 0, 0x90000) ||
                vitrine_view_switch(other, 0, (unsigned)view) || (i % 2 && vitrine_view_set_access(other, (unsigned)view, page, 16)) ||
                (i % 2 && vitrine_vm_next_events(other, &e, 1, 60000, NULL) != 1))
                _exit(1);
            if (write(ready[1], "", 1) != 1)
                _exit(1);
            for (;;)
                pause();
        }
        close(ready[1]);
        assert_int_equal(read(ready[0], &byte, 1), 1);
        close(ready[0]);
        kill(tool, SIGKILL);
        waitpid(tool, NULL, 0);
        wait_moving();
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test_setup_teardown(test_views, set_up, tear_down),
                                        cmocka_unit_test_setup_teardown(test_tool_with_views_killed, set_up, tear_down) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
