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

static void next_access(struct vitrine_event *e)
{
    assert_int_equal(vitrine_vm_next_events(vm, e, 1, 60000, NULL), 1);
    assert_int_equal(e->kind, VITRINE_ON_ACCESS);
    assert_int_equal(e->gpa, 0x500);
    assert_int_equal(e->access, VITRINE_READ | VITRINE_WRITE);
}

/* Answers that need more than a word: other data, an exception in the instruction's place, the end of the guest. */
static void test_replies(void **state)
{
    (void)state;
    struct vitrine_event e;
    struct vitrine_subscription s = { .kinds = VITRINE_ON_ACCESS, .flags = VITRINE_SUBSCRIBE_ASK, .last_index = UINT32_MAX };
    struct vitrine_reply r = { .answer = VITRINE_EMULATE, .data_at = 0x500, .data_bytes = 2, .data = { 0x21, 0x43 } };
    static const uint8_t handler[] = { 0xfe, 0x06, 0x10, 0x05, 0xcf }; /* incb 0x510; iret */
    memcpy(guest.ram + 0x900, handler, sizeof handler);
    memcpy(guest.ram + 4 * 6, &(uint32_t){ 0x900 }, 4);
    int number = vitrine_vm_subscribe(vm, &s, &(struct vitrine_range){ .first = 0x500, .last = 0x501, .access = VITRINE_READ }, 1);
    assert_true(number > 0);
    next_access(&e);
    r.data_bytes = VITRINE_DATA_MAX + 1;
    assert_int_equal(vitrine_vm_reply(vm, &e, &r), -1);
    assert_int_equal(errno, EINVAL);
    r.data_bytes = 2;
    assert_int_equal(vitrine_vm_reply(vm, &e, &r), 0);
    next_access(&e);
    assert_int_equal(*(volatile uint16_t *)(guest.ram + 0x500), 0x4322);
    r = (struct vitrine_reply){ .answer = VITRINE_INJECT, .injection = { .vector = 6 } };
    assert_int_equal(vitrine_vm_reply(vm, &e, &r), 0);
    next_access(&e);
    assert_int_equal(guest.ram[0x510], 1);
    assert_int_equal(*(volatile uint16_t *)(guest.ram + 0x500), 0x4322);
    assert_int_equal(vitrine_vm_answer(vm, &e, VITRINE_CRASH, 0), 0);
    next_access(&e); /* the client runs it again */
    assert_int_equal(vitrine_vm_unsubscribe(vm, number), 0);
    assert_int_equal(vitrine_vm_answer(vm, &e, VITRINE_CONTINUE, 0), 0);
    wait_moving();
}

static void test_inject(void **state)
{
    (void)state;
    struct vitrine_event e;
    struct vitrine_subscription s = { .kinds = VITRINE_ON_INJECTED, .flags = VITRINE_SUBSCRIBE_ASK, .last_index = UINT32_MAX };
    struct vitrine_injection what = { .vector = 6 }, wrong = { .vector = 256 };
    guest.ram[0x900] = 0xcf; /* iret */
    memcpy(guest.ram + 4 * 6, &(uint32_t){ 0x900 }, 4);
    assert_int_equal(vitrine_vcpu_inject(vm, 0, &wrong), -1);
    assert_int_equal(errno, EINVAL);
    assert_int_equal(vitrine_vcpu_inject(vm, 1, &what), -1);
    assert_int_equal(errno, ENOENT);
    assert_true(vitrine_vm_subscribe(vm, &s, NULL, 0) > 0);
    for (unsigned i = 0; i < 3; i++) {
        assert_int_equal(vitrine_vcpu_inject(vm, 0, &what), 0);
        assert_int_equal(vitrine_vm_next_events(vm, &e, 1, 60000, NULL), 1);
        assert_int_equal(e.kind, VITRINE_ON_INJECTED);
        assert_int_equal(e.index, 6);
        assert_int_equal(vitrine_vcpu_inject(vm, 0, &what), -1);
        assert_int_equal(errno, EBUSY);
        assert_int_equal(vitrine_vm_answer(vm, &e, i == 1 ? VITRINE_DENY : VITRINE_CONTINUE, 0), 0);
        wait_moving();
    }
}

static void expect_end(struct vitrine_vm *of)
{
    struct vitrine_event e[2];
    assert_int_equal(vitrine_vm_next_events(of, e, 2, 60000, NULL), 1);
    assert_int_equal(e[0].kind, VITRINE_ON_END);
    assert_int_equal(e[0].question, 0);
    assert_int_equal(vitrine_vm_next_events(of, e, 2, 60000, NULL), -1);
    assert_int_equal(errno, ESRCH);
}

/* The VMM closes the VM while the tool waits; or it is killed. The tool is told, and once. */
static void test_end(void **state)
{
    const struct vitrine_subscription s = { .kinds = VITRINE_ON_END, .flags = VITRINE_SUBSCRIBE_ASK, .last_index = UINT32_MAX };
    char child[32], byte;
    int ready[2];
    assert_int_equal(pipe(ready), 0);
    pid_t vmm = fork();
    if (vmm == 0) {
        real_guest_create(&guest, RAM_BYTES, code, (size_t)(code_end - code), false);
        if (write(ready[1], "", 1) == 1)
            real_guest_run(&guest);
        _exit(0);
    }
    assert_int_equal(read(ready[0], &byte, 1), 1);
    close(ready[0]);
    close(ready[1]);
    snprintf(child, sizeof child, "%d", (int)vmm);
    struct vitrine_vm *other = vitrine_vm_open(child);
    assert_non_null(other);
    assert_true(vitrine_vm_subscribe(other, &s, NULL, 0) > 0);
    kill(vmm, SIGKILL);
    waitpid(vmm, NULL, 0);
    expect_end(other);
    vitrine_vm_close(other);

    assert_int_equal(set_up(state), 0);
    assert_true(vitrine_vm_subscribe(vm, &s, NULL, 0) > 0);
    wait_moving();
    real_guest_kick_until_ended(&guest, client_thread);
    real_guest_destroy(&guest);
    expect_end(vm);
    vitrine_vm_close(vm);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_end),
                                        cmocka_unit_test_setup_teardown(test_replies, set_up, tear_down),
                                        cmocka_unit_test_setup_teardown(test_inject, set_up, tear_down),
                                        cmocka_unit_test_setup_teardown(test_answers, set_up, tear_down),
                                        cmocka_unit_test_setup_teardown(test_refused, set_up, tear_down),
                                        cmocka_unit_test_setup_teardown(test_many_ranges, set_up, tear_down),
                                        cmocka_unit_test_setup_teardown(test_tool_killed, set_up, tear_down) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
