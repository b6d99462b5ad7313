/* SPDX-License-Identifier: MIT */
/*
 * Events by <vitrine/inspect.h> over the socket, on a guest of this process: told, looked at, answered; what cannot be is refused; a tool that is killed while
 * it holds a vCPU up lets it go. What is told is test_watch's business.
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
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/unit/real_guest.h"
#include "transport/inproc.h"
#include "vitrine/inspect.h"

#define RAM_BYTES 0x10000u

extern const uint8_t code[], code_end[];
__asm__(".pushsection .rodata\n code: .code16\n"
        "1: incw 0x500\n mov %cr0, %eax\n xor $0x20, %eax\n mov %eax, %cr0\n mov %cr0, %ebx\n mov %bx, 0x502\n jmp 1b\n"
        "code_end: .code64\n .popsection");
#define AT_WRITE (REAL_GUEST_CODE_AT + 11) /* the MOV to CR0 */

static struct real_guest guest;
static pthread_t client_thread;
static struct vitrine_vm *vm;

static void *client(void *arg)
{
    (void)arg;
    while (!guest.run->immediate_exit)
        vitrine_ioctl(guest.cpu_fd, KVM_RUN, NULL);
    return NULL;
}

static int set_up(void **state)
{
    (void)state;
    char self[32];
    real_guest_create(&guest, RAM_BYTES, code, (size_t)(code_end - code), false);
    pthread_create(&client_thread, NULL, client, NULL);
    snprintf(self, sizeof self, "%d", (int)getpid());
    vm = vitrine_vm_open(self);
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

static const struct vitrine_subscription on_cr0 = { .kinds = VITRINE_ON_CR, .flags = VITRINE_SUBSCRIBE_ASK, .last_index = 0 };

static void next(struct vitrine_event *e)
{
    assert_int_equal(vitrine_vm_next_events(vm, e, 1, 60000, NULL), 1);
    assert_int_equal(e->kind, VITRINE_ON_CR);
    assert_int_equal(e->index, 0);
    assert_int_equal(e->rip, AT_WRITE);
    assert_int_equal(e->old_value ^ e->value, 0x20);
}

static void test_answers(void **state)
{
    (void)state;
    struct vitrine_event e, again;
    struct vitrine_regs regs;
    struct vitrine_vcpu_info info;
    int number = vitrine_vm_subscribe(vm, &on_cr0, NULL, 0);
    assert_true(number > 0);
    next(&e);
    assert_int_equal(vitrine_vm_next_events(vm, &again, 1, 0, NULL), 0);
    assert_int_equal(vitrine_vm_vcpus(vm, &info, 1), 1);
    assert_int_equal(info.is_held, 1);
    assert_int_equal(vitrine_vcpu_get_regs(vm, 0, &regs), 0);
    assert_int_equal(regs.rip, AT_WRITE);
    assert_int_equal(regs.cr0, e.old_value);
    assert_memory_equal(regs.gpr, e.gpr, sizeof regs.gpr);
    assert_int_equal(vitrine_vm_answer(vm, &e, VITRINE_CHANGE, e.old_value ^ 8), 0);
    assert_int_equal(vitrine_vm_answer(vm, &e, VITRINE_CONTINUE, 0), -1);
    assert_int_equal(errno, ESTALE);
    next(&again);
    assert_int_equal(again.old_value, e.old_value ^ 8);
    assert_int_equal(*(volatile uint16_t *)(guest.ram + 0x502), (uint16_t)again.old_value);
    /* New registers and another try. */
    assert_int_equal(vitrine_vcpu_get_regs(vm, 0, &regs), 0);
    regs.gpr[5] = 0x123456789abcdef0;
    assert_int_equal(vitrine_vcpu_set_regs(vm, 0, &regs), 0);
    assert_int_equal(vitrine_vm_answer(vm, &again, VITRINE_RETRY, 0), 0);
    next(&e);
    assert_int_equal(e.value, again.value);
    assert_int_equal(e.gpr[5], 0x123456789abcdef0);
    /* The tool does the write itself and moves on. */
    regs.rip = AT_WRITE + 3;
    regs.cr0 = e.value;
    assert_int_equal(vitrine_vcpu_set_regs(vm, 0, &regs), 0);
    assert_int_equal(vitrine_vm_answer(vm, &e, VITRINE_CONTINUE, 0), 0);
    next(&again);
    assert_int_equal(again.old_value, e.value);
    assert_int_equal(vitrine_vm_unsubscribe(vm, number), 0);
    assert_int_equal(vitrine_vm_unsubscribe(vm, number), -1);
    assert_int_equal(vitrine_vm_answer(vm, &again, VITRINE_DENY, 0), 0);
    wait_moving();
}

static void test_refused(void **state)
{
    (void)state;
    struct vitrine_event e;
    struct vitrine_subscription s = on_cr0;
    struct vitrine_range r = { .first = 0x600, .last = 0x5ff, .access = VITRINE_WRITE };
    assert_int_equal(vitrine_vm_subscribe(vm, &s, &r, 1), -1);
    assert_int_equal(errno, EINVAL);
    s.kinds = VITRINE_ON_ACCESS;
    assert_int_equal(vitrine_vm_subscribe(vm, &s, &r, 1), -1);
    r.last = 0x600;
    r.access = 8;
    assert_int_equal(vitrine_vm_subscribe(vm, &s, &r, 1), -1);
    s.flags = 0x80;
    assert_int_equal(vitrine_vm_subscribe(vm, &s, &r, 0), -1);
    s = on_cr0;
    s.first_index = 8;
    s.last_index = 8;
    for (unsigned i = 0; i < 256; i++)
        if (vitrine_vm_subscribe(vm, &s, NULL, 0) < 0)
            fail();
    assert_int_equal(vitrine_vm_subscribe(vm, &s, NULL, 0), -1);
    assert_int_equal(errno, ENOSPC);
    assert_int_equal(vitrine_vm_next_events(vm, &e, 1, 0, NULL), 0);
    e = (struct vitrine_event){ .vcpu = 7, .question = 1 };
    assert_int_equal(vitrine_vm_answer(vm, &e, VITRINE_CONTINUE, 0), -1);
    assert_int_equal(errno, ENOENT);
    wait_moving();
}

/* Ten thousand ranges, in any order, most of them where there is no memory: only the one that is met is told. */
static void test_many_ranges(void **state)
{
    (void)state;
    enum { N = 10000 };
    static struct vitrine_range range[N];
    struct vitrine_event e;
    struct vitrine_subscription s = { .kinds = VITRINE_ON_ACCESS, .flags = VITRINE_SUBSCRIBE_ASK, .last_index = UINT32_MAX };
    for (unsigned i = 0; i < N; i++) {
        uint64_t at = (uint64_t)(i * 7919u % N) * 0x1000 + 0x502; /* 7919 has no divisor in common with N */
        range[i] = (struct vitrine_range){ .first = at, .last = at + 1, .access = VITRINE_WRITE };
    }
    int number = vitrine_vm_subscribe(vm, &s, range, N);
    assert_true(number > 0);
    for (unsigned i = 0; i < 100; i++) {
        assert_int_equal(vitrine_vm_next_events(vm, &e, 1, 60000, NULL), 1);
        assert_int_equal(e.gpa, 0x502); /* the counter at 0x500 is in the page, not in the range */
        assert_int_equal(e.bytes, 2);
        assert_int_equal(vitrine_vm_answer(vm, &e, VITRINE_CONTINUE, 0), 0);
    }
    assert_int_equal(vitrine_vm_unsubscribe(vm, number), 0);
    if (vitrine_vm_next_events(vm, &e, 1, 0, NULL) == 1)
        assert_int_equal(vitrine_vm_answer(vm, &e, VITRINE_CONTINUE, 0), 0);
    wait_moving();
}

/* A child is the tool: it is killed while the vCPU waits for its answer, or while it waits for an event. */
static void test_tool_killed(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 6; i++) {
        int ready[2];
        char byte, parent[32];
        snprintf(parent, sizeof parent, "%d", (int)getpid());
        assert_int_equal(pipe(ready), 0);
        pid_t tool = fork();
        if (tool == 0) {
            struct vitrine_event e;
            struct vitrine_vm *other = vitrine_vm_open(parent);
            struct vitrine_subscription s = on_cr0;
            s.cpls = i % 2 ? 8 : 0; /* no program runs: nothing comes */
            if (!other || vitrine_vm_subscribe(other, &s, NULL, 0) < 0 || (i % 2 == 0 && vitrine_vm_next_events(other, &e, 1, 60000, NULL) != 1))
                _exit(1);
            if (write(ready[1], "", 1) != 1)
                _exit(1);
            if (i % 2)
                vitrine_vm_next_events(other, &e, 1, -1, NULL);
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
    const struct CMUnitTest tests[] = { cmocka_unit_test_setup_teardown(test_answers, set_up, tear_down),
                                        cmocka_unit_test_setup_teardown(test_refused, set_up, tear_down),
                                        cmocka_unit_test_setup_teardown(test_many_ranges, set_up, tear_down),
                                        cmocka_unit_test_setup_teardown(test_tool_killed, set_up, tear_down) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
