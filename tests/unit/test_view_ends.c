/* SPDX-License-Identifier: MIT */
/*
 * Views of guest memory, and several tools that have some: whose denials and remappings hold, pages that tools add, what is refused, and that everything a tool
 * has set goes with it, whatever the vCPU was doing. What views do is in test_view.c.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "core/vcpu.h"
#include "core/vm.h"
#include "introspect/memory.h"
#include "introspect/view.h"
#include "tests/unit/watched.h"
#include "transport/inproc.h"

#define RWX (WATCH_READ | WATCH_WRITE | WATCH_EXECUTE)
#define OTHER_AT 0xa000u
#define ADDED_AT 0x100000u

GUEST_CODE(once, ".code16\n mov 0x8000, %ax\n mov %ax, 0x602\n out %al, $0x10");
GUEST_CODE(copy_loop, ".code16\n1: mov 0x8000, %ax\n mov %ax, 0x602\n incw 0x600\n jmp 1b");

static int allow(struct look_listener *l, unsigned view, gpa_t gpa, unsigned access)
{
    return look_view_set_access(l, view, &(struct look_page){ .gpa = gpa, .access = access }, 1);
}

/* The next thing that this listener is told, within a minute. */
static void next_of(struct look_listener *l, struct watch_record *r)
{
    uint64_t dropped;
    for (unsigned i = 0; i < 600; i++) {
        if (look_listener_next(l, r, 1, &dropped))
            return;
        struct pollfd p = { .fd = look_listener_fd(l), .events = POLLIN };
        poll(&p, 1, 100);
    }
    fail_msg("nothing is told for a minute");
}

static void test_refused(void **state)
{
    (void)state;
    struct watched g;
    struct look_page page[2] = { { .gpa = DATA_AT }, { .gpa = 0x40000 } };
    WATCHED_CREATE(&g, once);
    assert_int_equal(look_view_set_access(g.l, 0, page, 2), -EFAULT); /* one of them: none is changed */
    assert_int_equal(look_view_get(g.l, 0, page, 2), 0);
    assert_int_equal(page[0].access, RWX);
    assert_int_equal(page[0].writeable, ~0u);
    assert_int_equal(allow(g.l, 0, DATA_AT + 1, 0), -EINVAL);
    assert_int_equal(allow(g.l, 0, DATA_AT, 8), -EINVAL);
    assert_int_equal(allow(g.l, 0, 1ull << 52, 0), -EINVAL);
    assert_int_equal(allow(g.l, 1, DATA_AT, 0), -ENOENT);
    assert_int_equal(allow(g.l, VIEWS_MAX, DATA_AT, 0), -ENOENT);
    assert_int_equal(look_view_get(g.l, 7, page, 1), -ENOENT);
    assert_int_equal(look_view_destroy(g.l, 0), -ENOENT);
    assert_int_equal(look_view_destroy(g.l, 1), -ENOENT);
    assert_int_equal(look_view_switch(g.l, 0, 1), -ENOENT);
    assert_int_equal(look_view_switch(g.l, 1, 0), -ENXIO);
    assert_int_equal(look_view_of(g.l, 1), -ENXIO);
    assert_int_equal(look_view_remap(g.l, 0, DATA_AT, 0x40000), -EFAULT);
    assert_int_equal(look_view_remap(g.l, 0, DATA_AT + 8, OTHER_AT), -EINVAL);
    assert_int_equal(look_page_add(g.l, DATA_AT), -EEXIST);
    assert_int_equal(look_page_add(g.l, ADDED_AT + 1), -EINVAL);
    assert_int_equal(look_page_add(g.l, 1ull << 52), -EINVAL);
    assert_int_equal(look_page_remove(g.l, ADDED_AT), -ENOENT);
    for (int i = 1; i < (int)VIEWS_MAX; i++)
        assert_int_equal(look_view_create(g.l), i);
    assert_int_equal(look_view_create(g.l), -ENOSPC);
    assert_int_equal(look_view_count(g.real.vm), VIEWS_MAX - 1);
    assert_int_equal(look_view_destroy(g.l, 5), 0);
    assert_int_equal(look_view_create(g.l), 5);
    watched_destroy(&g);
}

/* Two tools: denials of view 0 add up, each is told of its own; to each, the other's view is view 0. */
static void test_two_tools(void **state)
{
    (void)state;
    struct watched g;
    struct look_listener *second;
    struct watch_record r, r2;
    WATCHED_CREATE(&g, copy_loop);
    assert_int_equal(look_listener_create(g.real.vm, &second), 0);
    int view = look_view_create(g.l);
    assert_int_equal(allow(g.l, 0, DATA_AT, WATCH_WRITE), 0);
    assert_int_equal(allow(second, 0, DATA_AT, WATCH_EXECUTE), 0);
    watched_start(&g);
    watched_expect(&g, &r, WATCH_ACCESS, 0, 0, 0);
    next_of(second, &r2);
    assert_int_equal(r2.event.gpa, DATA_AT);
    assert_int_equal(look_view_switch(g.l, 0, (unsigned)view), 0);
    assert_int_equal(look_view_of(g.l, 0), view);
    assert_int_equal(look_view_of(second, 0), 0);
    int other_view = look_view_create(second);
    assert_int_equal(allow(second, (unsigned)view, DATA_AT, 0), -ENOENT);
    assert_int_equal(look_view_destroy(second, (unsigned)view), -ENOENT);
    assert_int_equal(look_view_switch(second, 0, (unsigned)other_view), -EBUSY);
    assert_int_equal(look_view_switch(second, 0, 0), 0);
    assert_int_equal(look_view_of(g.l, 0), view);
    watched_answer(&g, &r, WATCH_RETRY, 0);
    assert_int_equal(look_answer(second, 0, r2.question, WATCH_CONTINUE, 0), 0);
    /* In the first one's view the second one's denial holds, and the first one's own view 0 does not. */
    for (unsigned i = 0; i < 3; i++) {
        next_of(second, &r2);
        assert_int_equal(r2.event.index, 0);
        assert_int_equal(r2.event.gpa, DATA_AT);
        assert_int_equal(look_answer(second, 0, r2.question, WATCH_CONTINUE, 0), 0);
    }
    /* A denial of both again, one that comes before the view and one that comes after. */
    next_of(second, &r2);
    assert_int_equal(allow(g.l, (unsigned)view, DATA_AT, 0), 0);
    assert_int_equal(look_answer(second, 0, r2.question, WATCH_RETRY, 0), 0);
    watched_expect(&g, &r, WATCH_ACCESS, (unsigned)view, 0, 0);
    next_of(second, &r2);
    assert_int_equal(r2.event.index, 0);
    assert_int_equal(allow(second, 0, OTHER_AT, 0), 0);
    assert_int_equal(look_view_remap(second, 0, OTHER_AT, DATA_AT), 0);
    assert_int_equal(look_view_remap(g.l, 0, OTHER_AT, DATA_AT), -EBUSY);
    assert_int_equal(look_view_remap(g.l, (unsigned)view, OTHER_AT, DATA_AT), 0);
    /* One goes; the other one's stays. */
    look_listener_destroy(second);
    watched_answer(&g, &r, WATCH_CONTINUE, 0);
    watched_expect(&g, &r, WATCH_ACCESS, (unsigned)view, 0, 0);
    assert_int_equal(look_view_remap(g.l, 0, OTHER_AT, DATA_AT), 0);
    assert_int_equal(look_view_destroy(g.l, (unsigned)view), 0);
    watched_answer(&g, &r, WATCH_RETRY, 0);
    watched_expect(&g, &r, WATCH_ACCESS, 0, 0, 0);
    assert_int_equal(allow(g.l, 0, DATA_AT, RWX), 0);
    watched_answer(&g, &r, WATCH_CONTINUE, 0);
    real_guest_wait_moving(&g.real, COUNT_AT);
    watched_stop(&g);
    watched_destroy(&g);
}

/* Whose remapping holds: the view's owner's before what others want of view 0. */
static void test_whose_remapping(void **state)
{
    (void)state;
    struct watched g;
    struct look_listener *second;
    WATCHED_CREATE(&g, once);
    *(uint16_t *)(g.real.ram + DATA_AT) = 1;
    *(uint16_t *)(g.real.ram + OTHER_AT) = 2;
    *(uint16_t *)(g.real.ram + OTHER_AT + 0x1000) = 3;
    assert_int_equal(look_listener_create(g.real.vm, &second), 0);
    assert_int_equal(look_view_remap(second, 0, DATA_AT, OTHER_AT), 0);
    int view = look_view_create(g.l); /* what the second one wants holds there too */
    static const uint16_t expected[] = { 2, 2, 3, 2, 1 };
    for (unsigned i = 0; i < 5; i++) {
        if (i == 1)
            assert_int_equal(look_view_switch(g.l, 0, (unsigned)view), 0);
        if (i == 2)
            assert_int_equal(look_view_remap(g.l, (unsigned)view, DATA_AT, OTHER_AT + 0x1000), 0);
        if (i == 3)
            assert_int_equal(look_view_remap(g.l, (unsigned)view, DATA_AT, DATA_AT), 0);
        if (i == 4)
            look_listener_destroy(second);
        struct kvm_regs regs = { .rip = CODE_AT, .rflags = 2 };
        assert_int_equal(vitrine_ioctl(g.real.cpu_fd, KVM_SET_REGS, &regs), 0);
        assert_int_equal(vitrine_ioctl(g.real.cpu_fd, KVM_RUN, NULL), 0);
        assert_int_equal(*(uint16_t *)(g.real.ram + 0x602), expected[i]);
    }
    watched_destroy(&g);
}

static bool has_memory(const struct watched *g, gpa_t gpa)
{
    struct memslot s;
    return look_memory_slot(g->real.vm, gpa, &s);
}

/* A page that a tool adds, fills and puts in the place of another; it goes when it is removed, and gives way to the client's memory. */
static void test_added_page(void **state)
{
    (void)state;
    struct watched g;
    uint16_t value = 7;
    WATCHED_CREATE(&g, copy_loop);
    *(uint16_t *)(g.real.ram + DATA_AT) = 1;
    watched_start(&g);
    for (unsigned i = 0; i < 3; i++) {
        assert_int_equal(look_page_add(g.l, ADDED_AT), 0);
        assert_int_equal(look_page_add(g.l, ADDED_AT), -EEXIST);
        assert_int_equal(look_memory_write(g.real.vm, ADDED_AT, &value, 2), 2);
        assert_int_equal(look_view_remap(g.l, 0, DATA_AT, ADDED_AT), 0);
        while (*(volatile uint16_t *)(g.real.ram + 0x602) != 7)
            usleep(100);
        if (i < 2) {
            assert_int_equal(look_page_remove(g.l, ADDED_AT), 0);
            assert_int_equal(look_page_remove(g.l, ADDED_AT), -ENOENT);
            assert_false(has_memory(&g, ADDED_AT));
            while (*(volatile uint16_t *)(g.real.ram + 0x602) != 1)
                usleep(100);
        }
    }
    static uint16_t clients[2048] __attribute__((aligned(4096))) = { 9 };
    struct kvm_userspace_memory_region region = { .slot = 3, .guest_phys_addr = ADDED_AT, .memory_size = 0x1000, .userspace_addr = (uintptr_t)clients };
    assert_int_equal(vitrine_ioctl(g.real.vm_fd, KVM_SET_USER_MEMORY_REGION, &region), 0);
    while (*(volatile uint16_t *)(g.real.ram + 0x602) != 9)
        usleep(100);
    watched_stop(&g);
    assert_int_equal(look_memory_read(g.real.vm, ADDED_AT, &value, 2), 2);
    assert_int_equal(value, 9);
    watched_destroy(&g); /* the client's memory stays */
}

/* A tool goes that has views with a vCPU in one of them, denials, remappings and pages: while the vCPU waits for it, and while it runs. */
static void test_tool_goes(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 4; i++) {
        struct watched g;
        struct look_listener *tool;
        struct watch_record r;
        WATCHED_CREATE(&g, copy_loop);
        *(uint16_t *)(g.real.ram + DATA_AT) = 1;
        *(uint16_t *)(g.real.ram + OTHER_AT) = 2;
        assert_int_equal(look_listener_create(g.real.vm, &tool), 0);
        int view = look_view_create(tool);
        assert_int_equal(look_page_add(tool, ADDED_AT), 0);
        assert_int_equal(look_page_add(tool, ADDED_AT + 0x1000), 0);
        assert_int_equal(look_view_remap(tool, (unsigned)view, DATA_AT, i & 1 ? ADDED_AT : OTHER_AT), 0);
        /* Somebody else's remapping to a page of the tool's ends with that page. */
        assert_int_equal(look_view_remap(g.l, 0, OTHER_AT, ADDED_AT + 0x1000), 0);
        for (gpa_t gpa = OTHER_AT; gpa < 0x40000; gpa += 0x1000)
            assert_int_equal(allow(tool, 0, gpa, WATCH_EXECUTE), 0);
        assert_int_equal(look_view_switch(tool, 0, (unsigned)view), 0);
        watched_start(&g);
        real_guest_wait_moving(&g.real, COUNT_AT);
        if (i & 2) {
            assert_int_equal(allow(tool, (unsigned)view, 0, WATCH_READ), 0);
            next_of(tool, &r);
            assert_int_equal(r.event.index, view);
        }
        look_listener_destroy(tool);
        assert_int_equal(atomic_load(&g.real.v->view), 0);
        assert_int_equal(look_view_count(g.real.vm), 0);
        assert_false(has_memory(&g, ADDED_AT));
        assert_null(atomic_load(&g.real.vm->view.map[0]));
        assert_int_equal(atomic_load(&g.real.vm->watch.kinds), 0);
        while (*(volatile uint16_t *)(g.real.ram + 0x602) != 1)
            usleep(100);
        real_guest_wait_moving(&g.real, COUNT_AT);
        watched_stop(&g);
        watched_destroy(&g);
    }
}

/* The VM goes first. */
static void test_vm_goes(void **state)
{
    (void)state;
    struct watched g;
    struct watch_record r;
    uint64_t dropped;
    WATCHED_CREATE(&g, once);
    int view = look_view_create(g.l);
    assert_int_equal(look_page_add(g.l, ADDED_AT), 0);
    assert_int_equal(allow(g.l, 0, DATA_AT, 0), 0);
    assert_int_equal(look_view_remap(g.l, (unsigned)view, DATA_AT, ADDED_AT), 0);
    assert_int_equal(look_view_switch(g.l, 0, (unsigned)view), 0);
    real_guest_destroy(&g.real);
    assert_false(look_listener_has_vm(g.l));
    assert_int_equal(look_listener_next(g.l, &r, 1, &dropped), 0);
    assert_int_equal(look_view_create(g.l), -ESRCH);
    assert_int_equal(allow(g.l, 0, DATA_AT, 0), -ESRCH);
    assert_int_equal(look_page_remove(g.l, ADDED_AT), -ESRCH);
    look_listener_destroy(g.l);
}

/* Ten thousand pages, one call each, under a vCPU that runs; then all of them back in one call. */
static void test_many_pages(void **state)
{
    (void)state;
    enum { N = 10000 };
    static struct look_page page[N];
    struct watched g;
    struct watch_record r;
    WATCHED_CREATE(&g, copy_loop);
    void *more = mmap(NULL, (size_t)N << 12, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    struct kvm_userspace_memory_region region = {
        .slot = 1, .guest_phys_addr = 1ull << 32, .memory_size = (uint64_t)N << 12, .userspace_addr = (uintptr_t)more
    };
    assert_int_equal(vitrine_ioctl(g.real.vm_fd, KVM_SET_USER_MEMORY_REGION, &region), 0);
    watched_start(&g);
    for (unsigned i = 0; i < N; i++) {
        page[i] = (struct look_page){ .gpa = (1ull << 32) + ((uint64_t)i << 12), .access = RWX };
        assert_int_equal(allow(g.l, 0, page[i].gpa, WATCH_READ), 0);
    }
    real_guest_wait_moving(&g.real, COUNT_AT);
    assert_int_equal(allow(g.l, 0, DATA_AT, 0), 0);
    watched_expect(&g, &r, WATCH_ACCESS, 0, 0, 0);
    assert_int_equal(look_view_set_access(g.l, 0, page, N), 0);
    assert_int_equal(look_view_get(g.l, 0, page, N), 0);
    for (unsigned i = 0; i < N; i++)
        assert_int_equal(page[i].access, RWX);
    assert_int_equal(allow(g.l, 0, DATA_AT, RWX), 0);
    watched_answer(&g, &r, WATCH_RETRY, 0);
    real_guest_wait_moving(&g.real, COUNT_AT);
    watched_stop(&g);
    watched_destroy(&g);
    munmap(more, (size_t)N << 12);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_refused),   cmocka_unit_test(test_two_tools), cmocka_unit_test(test_whose_remapping), cmocka_unit_test(test_added_page),
        cmocka_unit_test(test_tool_goes), cmocka_unit_test(test_vm_goes),   cmocka_unit_test(test_many_pages),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
