/* SPDX-License-Identifier: MIT */
/*
 * Views of guest memory by <vitrine/inspect.h> over the socket, on a guest of this process: what is set is seen, told and answered, and goes with a tool that
 * is killed; pages of files that tools lend. What views do is test_view's business.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mman.h>
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
    vm = real_guest_begin(&guest, RAM_BYTES, code, (size_t)(code_end - code), &client_thread);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    real_guest_end(&guest, client_thread, vm);
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
            int fd = memfd_create("lent", MFD_CLOEXEC);
            if (view < 0 || ftruncate(fd, 4096) || vitrine_page_lend(other, 0, fd, 0) || vitrine_page_add(other, 0x90000) ||
                vitrine_view_remap(other, (unsigned)view, 0, 0x90000) || vitrine_view_switch(other, 0, (unsigned)view) ||
                (i % 2 && vitrine_view_set_access(other, (unsigned)view, page, 16)) || (i % 2 && vitrine_vm_next_events(other, &e, 1, 60000, NULL) != 1))
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

static int page_file(uint8_t **at)
{
    int fd = memfd_create("lent", MFD_CLOEXEC);
    assert_int_equal(ftruncate(fd, 2 * 4096), 0);
    *at = mmap(NULL, 2 * 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    assert_true(*at != MAP_FAILED);
    return fd;
}

static uint16_t word_at(const uint8_t *page, unsigned at)
{
    return *(const volatile uint16_t *)(page + at);
}

static void wait_word_moving(const uint8_t *page, unsigned at)
{
    for (uint16_t before = word_at(page, at); word_at(page, at) == before;)
        usleep(100);
}

/* The page in which the guest counts is one of a file's, and its own again; then one where it has no memory. */
static void test_lend(void **state)
{
    (void)state;
    uint8_t *page, byte = 0x5a;
    struct vitrine_slot slot[4];
    struct vitrine_vm_info info;
    char self[32];
    int fd = page_file(&page);
    snprintf(self, sizeof self, "%d", (int)getpid());
    struct vitrine_vm *other = vitrine_vm_open(self);
    assert_int_equal(vitrine_page_lend(vm, 0, fd, 4096), 0);
    uint16_t then = word_at(guest.ram, 0x500);
    wait_word_moving(page + 4096, 0x500);
    assert_int_equal(word_at(guest.ram, 0x500), then);
    assert_int_equal(word_at(page, 0x500), 0); /* the file's other page */
    assert_int_equal(vitrine_vm_slots(vm, slot, 4), 1);
    assert_int_equal(vitrine_vm_info(vm, &info), 0);
    assert_int_equal(info.n_slots, 1);
    assert_int_equal(vitrine_page_lend(vm, 0, fd, 0), -1);
    assert_int_equal(errno, EEXIST);
    assert_int_equal(vitrine_page_add(vm, 0), -1);
    assert_int_equal(errno, EEXIST);
    assert_int_equal(vitrine_page_lend(other, 0, fd, 0), -1);
    assert_int_equal(errno, EBUSY);
    assert_int_equal(vitrine_page_remove(other, 0), -1);
    assert_int_equal(errno, ENOENT);
    assert_int_equal(vitrine_page_remove(vm, 0), 0);
    assert_int_equal(vitrine_page_remove(vm, 0), -1);
    wait_moving();
    then = word_at(page + 4096, 0x500);
    wait_moving();
    assert_int_equal(word_at(page + 4096, 0x500), then);

    assert_int_equal(vitrine_page_lend(vm, 0x80000, fd, 0), 0);
    assert_int_equal(vitrine_mem_write(other, 0x80123, &byte, 1), 1);
    assert_int_equal(page[0x123], byte);
    assert_int_equal(vitrine_page_lend(vm, 0x80000, fd, 0), -1);
    assert_int_equal(errno, EEXIST);
    vitrine_vm_close(vm);
    while (vitrine_mem_read(other, 0x80123, &byte, 1) == 1)
        usleep(1000);
    vm = other;
    wait_moving();
    munmap(page, 2 * 4096);
    close(fd);
}

static void refused(int fd, uint64_t gpa, uint64_t offset, int error)
{
    assert_int_equal(vitrine_page_lend(vm, gpa, fd, offset), -1);
    assert_int_equal(errno, error);
}

static void test_lend_what_cannot_be(void **state)
{
    (void)state;
    uint8_t *page;
    char path[32];
    int fd = page_file(&page), ends[2];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    int readable = open(path, O_RDONLY | O_CLOEXEC), named = open(path, O_PATH | O_CLOEXEC), null = open("/dev/null", O_RDWR | O_CLOEXEC);
    assert_int_equal(pipe(ends), 0);
    refused(-1, 0, 0, EBADF);
    refused(readable, 0, 0, EACCES);
    refused(named, 0, 0, EACCES);
    refused(null, 0, 0, EINVAL);
    refused(ends[0], 0, 0, EINVAL);
    refused(guest.vm_fd, 0, 0, EINVAL);
    refused(fd, 0, 2 * 4096, EINVAL);
    refused(fd, 0, 1, EINVAL);
    refused(fd, 0, ~0ull << 12, EINVAL);
    refused(fd, 0, 1ull << 63, EINVAL);
    refused(fd, 1, 0, EINVAL);
    refused(fd, 1ull << 52, 0, EINVAL);
    refused(fd, ~0ull << 12, 0, EINVAL);
    wait_moving();
    assert_int_equal(vitrine_page_lend(vm, 0, fd, 0), 0);
    wait_word_moving(page, 0x500);
    const int all[] = { readable, named, null, ends[0], ends[1], fd };
    for (unsigned i = 0; i < sizeof all / sizeof *all; i++)
        close(all[i]);
    munmap(page, 2 * 4096);
}

/* Whose the file is makes it shorter: the guest goes on, on a page of zeroes. */
static void test_lent_page_vanishes(void **state)
{
    (void)state;
    uint8_t *page;
    uint16_t before = 0, now;
    int fd = page_file(&page);
    assert_int_equal(vitrine_page_lend(vm, 0x80000, fd, 0), 0);
    assert_int_equal(vitrine_view_remap(vm, 0, 0, 0x80000), 0);
    wait_word_moving(page, 0x500);
    assert_int_equal(ftruncate(fd, 0), 0);
    for (unsigned seen = 0; seen < 2; before = now) { /* until the guest has been there, nobody can read it */
        ssize_t n = vitrine_mem_read(vm, 0x80500, &now, 2);
        seen += n == 2 && seen == 0;
        seen += n == 2 && seen == 1 && now != before;
    }
    assert_int_equal(vitrine_page_remove(vm, 0x80000), 0);
    wait_moving();
    munmap(page, 2 * 4096);
    close(fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test_setup_teardown(test_views, set_up, tear_down),
                                        cmocka_unit_test_setup_teardown(test_lend, set_up, tear_down),
                                        cmocka_unit_test_setup_teardown(test_lend_what_cannot_be, set_up, tear_down),
                                        cmocka_unit_test_setup_teardown(test_lent_page_vanishes, set_up, tear_down),
                                        cmocka_unit_test_setup_teardown(test_tool_with_views_killed, set_up, tear_down) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
