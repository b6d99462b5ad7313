/* SPDX-License-Identifier: MIT */
/*
 * Events through shared memory, with the guest in a process of its own: nothing is lost where nothing may be, what is dropped is counted, and neither side
 * minds what the other writes there or that it is killed. The guest counts its events in EBX, at 0x500, and in the index of each.
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
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/memfd.h"
#include "introspect/ring.h"
#include "lib/inspect_priv.h"
#include "tests/unit/real_guest.h"
#include "transport/inproc.h"
#include "vitrine/inspect.h"

#define RAM_BYTES 0x10000u
#define COUNT_GPA 0x500u

extern const uint8_t code[], code_end[];
__asm__(".pushsection .rodata\n code: .code16\n"
        "xor %ebx, %ebx\n 1: inc %ebx\n mov %ebx, 0x500\n clts\n jmp 1b\n"
        "code_end: .code64\n .popsection");

static pid_t machine;
static struct vitrine_vm *vm;

static struct vitrine_vm *open_machine(void)
{
    char which[32];
    snprintf(which, sizeof which, "%d", (int)machine);
    return vitrine_vm_open(which);
}

static int set_up(void **state)
{
    int ready[2];
    char byte;
    (void)state;
    if (pipe(ready))
        return -1;
    machine = fork();
    if (machine == 0) {
        struct real_guest g;
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        real_guest_create(&g, RAM_BYTES, code, (size_t)(code_end - code), false);
        if (write(ready[1], "", 1) == 1)
            while (vitrine_ioctl(g.cpu_fd, KVM_RUN, NULL) && errno == EINTR)
                ;
        _exit(1);
    }
    close(ready[1]);
    bool is_there = read(ready[0], &byte, 1) == 1;
    close(ready[0]);
    vm = is_there ? open_machine() : NULL;
    return vm ? 0 : -1;
}

static int tear_down(void **state)
{
    (void)state;
    vitrine_vm_close(vm);
    kill(machine, SIGKILL);
    waitpid(machine, NULL, 0);
    return 0;
}

static uint32_t count(void)
{
    uint32_t n;
    assert_int_equal(vitrine_mem_read(vm, COUNT_GPA, &n, sizeof n), sizeof n);
    return n;
}

static void wait_moving(void)
{
    for (uint32_t before = count(); count() == before;)
        usleep(100);
}

static bool is_held(void)
{
    struct vitrine_vcpu_info info;
    assert_int_equal(vitrine_vm_vcpus(vm, &info, 1), 1);
    return info.is_held;
}

static void subscribe(struct vitrine_vm *to, uint32_t flags)
{
    const struct vitrine_subscription s = { .kinds = VITRINE_ON_CR, .flags = flags, .last_index = UINT32_MAX };
    assert_true(vitrine_vm_subscribe(to, &s, NULL, 0) > 0);
}

/* The tool is slow, so that the vCPU waits, and fast, in turns. */
static void test_lossless(void **state)
{
    enum { N = 300000 };
    static struct vitrine_event event[1000];
    uint64_t dropped = 1, n_held = 0;
    uint32_t last = 0;
    (void)state;
    subscribe(vm, VITRINE_SUBSCRIBE_LOSSLESS);
    for (uint64_t n_events = 0, turn = 0; n_events < N; turn++) {
        if (turn % 50 == 0) {
            while (!is_held())
                usleep(100);
            n_held++;
        }
        int n = vitrine_vm_next_events(vm, event, turn % 3 ? 1000 : 7, 60000, &dropped);
        assert_true(n > 0);
        for (int i = 0; i < n; i++) {
            assert_int_equal(event[i].kind, VITRINE_ON_CR);
            assert_int_equal(event[i].question, 0);
            assert_int_equal(event[i].sequence, ++n_events);
            assert_true(n_events == 1 || (uint32_t)event[i].gpr[3] == last + 1);
            last = (uint32_t)event[i].gpr[3];
        }
        assert_int_equal(dropped, 0);
    }
    assert_true(n_held > 5);
    while (!is_held()) /* and with a full ring the handle goes */
        usleep(100);
    vitrine_vm_close(vm);
    vm = open_machine();
    assert_non_null(vm);
    wait_moving();
}

/* The subscription goes while the vCPU waits for room, which nobody makes. */
static void test_unsubscribed(void **state)
{
    const struct vitrine_subscription s = { .kinds = VITRINE_ON_CR, .flags = VITRINE_SUBSCRIBE_LOSSLESS, .last_index = UINT32_MAX };
    (void)state;
    int number = vitrine_vm_subscribe(vm, &s, NULL, 0);
    assert_true(number > 0);
    while (!is_held())
        usleep(100);
    assert_int_equal(vitrine_vm_unsubscribe(vm, number), 0);
    wait_moving();
}

/* Every event is either taken or counted, and the sequence numbers say which were not. */
static void test_dropped(void **state)
{
    static struct vitrine_event event[1000];
    uint64_t dropped = 0, taken = 0, missing = 0, sequence = 0;
    uint32_t first = 0, last = 0;
    int n;
    (void)state;
    subscribe(vm, 0);
    for (unsigned round = 0; round < 20; round++) {
        uint32_t begin = count();
        while (round % 2 && count() - begin < 3 * RING_SLOTS)
            usleep(100);
        if (round == 19)
            assert_int_equal(vitrine_vm_hold(vm), 0);
        while ((n = vitrine_vm_next_events(vm, event, 1000, 0, &dropped)) > 0) {
            for (int i = 0; i < n; i++) {
                uint32_t now = (uint32_t)event[i].gpr[3];
                if (taken++)
                    assert_int_equal(now - last, event[i].sequence - sequence);
                else
                    first = now - (uint32_t)event[i].sequence + 1;
                missing += event[i].sequence - sequence - 1;
                sequence = event[i].sequence;
                last = now;
            }
            if (taken > 100000 * (round + 1ull))
                break;
        }
        assert_true(n >= 0);
    }
    assert_int_equal(n, 0);
    assert_true(dropped > 0 && dropped >= missing);
    /* Held where it is about to do the next one, or has just counted for it. */
    uint64_t all = count() - first + 1;
    assert_true(taken + dropped == all || taken + dropped + 1 == all);
    assert_int_equal(vitrine_vm_release(vm), 0);
    wait_moving();
}

/* Each question once, in order, whether the vCPU looks for the answer or sleeps, and no answer counts twice. */
static void test_answers(void **state)
{
    struct vitrine_event e;
    uint32_t last = 0;
    uint64_t question = 0;
    (void)state;
    subscribe(vm, VITRINE_SUBSCRIBE_ASK);
    for (unsigned i = 0; i < 3000; i++) {
        assert_int_equal(vitrine_vm_next_events(vm, &e, 1, 60000, NULL), 1);
        assert_true(!i || (uint32_t)e.gpr[3] == last + 1);
        assert_true(e.question > question);
        assert_int_equal(e.sequence, 0);
        last = (uint32_t)e.gpr[3];
        question = e.question;
        assert_int_equal(count(), last);
        if (i % 100 < 3) {
            assert_true(is_held());
            usleep(1000);
        }
        e.question++;
        assert_int_equal(vitrine_vm_answer(vm, &e, VITRINE_CONTINUE, 0), -1);
        assert_int_equal(errno, ESTALE);
        e.question--;
        assert_int_equal(vitrine_vm_answer(vm, &e, i % 2 ? VITRINE_CONTINUE : VITRINE_DENY, 0), 0);
        assert_int_equal(vitrine_vm_answer(vm, &e, VITRINE_CONTINUE, 0), -1);
        assert_int_equal(errno, ESTALE);
    }
}

/* It dies while the vCPU waits for room, or for its answer. */
static void test_killed(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 6; i++) {
        pid_t tool = fork();
        if (tool == 0) {
            const struct vitrine_subscription s = { .kinds = VITRINE_ON_CR,
                                                    .flags = i % 2 ? VITRINE_SUBSCRIBE_LOSSLESS : VITRINE_SUBSCRIBE_ASK,
                                                    .last_index = UINT32_MAX };
            struct vitrine_vm *own = open_machine();
            if (!own || vitrine_vm_subscribe(own, &s, NULL, 0) < 0)
                _exit(1);
            for (;;)
                pause();
        }
        while (!is_held()) {
            assert_int_equal(waitpid(tool, NULL, WNOHANG), 0);
            usleep(100);
        }
        uint32_t before = count();
        usleep(1000);
        assert_true(is_held());
        assert_int_equal(count(), before);
        kill(tool, SIGKILL);
        waitpid(tool, NULL, 0);
        wait_moving();
    }
}

/* The VM's process dies, and what it told before is still there. */
static void test_machine_killed(void **state)
{
    static struct vitrine_event event[1000];
    uint64_t n_events = 0;
    int n;
    (void)state;
    subscribe(vm, VITRINE_SUBSCRIBE_LOSSLESS);
    while (!is_held())
        usleep(100);
    kill(machine, SIGKILL);
    waitpid(machine, NULL, 0);
    while ((n = vitrine_vm_next_events(vm, event, 1000, 60000, NULL)) > 0)
        n_events += (unsigned)n;
    assert_int_equal(n, -1);
    assert_int_equal(errno, ESRCH);
    assert_int_equal(n_events, RING_SLOTS);
}

/* ---- nonsense ---- */

static uint64_t next_random(uint64_t *s)
{
    *s ^= *s << 13;
    *s ^= *s >> 7;
    *s ^= *s << 17;
    return *s;
}

/* Words here and there, of any kind. */
static void scribble(void *at, size_t bytes, uint64_t *seed, unsigned n)
{
    _Atomic uint64_t *word = at;
    for (unsigned i = 0; i < n; i++) {
        uint64_t r = next_random(seed), value = next_random(seed);
        /* Half of it where the positions are. */
        size_t where = r % 2 ? r / 2 % (offsetof(struct ring_cpu, record) / 8) : r / 2 % (bytes / 8);
        atomic_store(&word[where], r >> 60 == 0 ? value : r >> 60 < 8 ? value % 8192 : r >> 60 < 12 ? atomic_load(&word[where]) + value % 5 - 2 : (uint64_t)-1);
    }
}

/* A tool that writes anything into what it shares, in all ways of being told. The guest goes on when it has gone, and the next tool finds everything in order.
 */
static void test_hostile_tool(void **state)
{
    (void)state;
    uint64_t seed = 0x9e3779b97f4a7c15;
    for (unsigned round = 0; round < 12; round++) {
        struct vitrine_vm *own = open_machine();
        struct control_vm in = { .number = own->number };
        const struct vitrine_subscription s = { .kinds = VITRINE_ON_CR,
                                                .flags = round % 3 == 1 ? VITRINE_SUBSCRIBE_LOSSLESS
                                                         : round % 3    ? VITRINE_SUBSCRIBE_ASK
                                                                        : 0,
                                                .last_index = UINT32_MAX };
        int fd[CONTROL_FDS_MAX];
        unsigned n_fds;
        assert_int_equal(inspect_call_fds(own, CONTROL_RING, &in, sizeof in, NULL, 0, fd, &n_fds), 0);
        assert_int_equal(n_fds, 2);
        assert_int_equal(ftruncate(fd[0], 0), -1);
        assert_int_equal(errno, EPERM);
        uint64_t bytes = RING_HEAD_BYTES + sizeof(struct ring_cpu);
        uint8_t *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd[0], 0);
        assert_true(at != MAP_FAILED);
        assert_true(vitrine_vm_subscribe(own, &s, NULL, 0) > 0);
        for (unsigned i = 0; i < 300; i++) {
            scribble(at + RING_HEAD_BYTES, sizeof(struct ring_cpu), &seed, 200);
            scribble(at, sizeof(struct ring_head), &seed, 5);
            if (i % 10 == 0) {
                inspect_call(own, CONTROL_ROOM, &in, sizeof in, NULL, 0, NULL, 0);
                const struct vitrine_event e = { .question = next_random(&seed) % 100 };
                vitrine_vm_answer(own, &e, VITRINE_CONTINUE, 0);
            }
        }
        munmap(at, bytes);
        close(fd[0]);
        close(fd[1]);
        vitrine_vm_close(own);
        wait_moving();
    }
    struct vitrine_event e;
    subscribe(vm, VITRINE_SUBSCRIBE_ASK);
    for (unsigned i = 0; i < 100; i++) {
        assert_int_equal(vitrine_vm_next_events(vm, &e, 1, 60000, NULL), 1);
        assert_int_equal(vitrine_vm_answer(vm, &e, VITRINE_CONTINUE, 0), 0);
    }
}

/* The other side is no VM: files of a wrong size, files that may shrink, and contents of any kind. */
static void test_hostile_machine(void **state)
{
    static struct ring_reader r;
    static struct watch_record record[256];
    uint64_t seed = 0x2545f4914f6cdd1d;
    hva_t at;
    (void)state;
    int small = memfd_create_sealed("small", RING_HEAD_BYTES), loose = memfd_create("loose", MFD_CLOEXEC);
    assert_int_equal(ftruncate(loose, (off_t)RING_FILE_BYTES), 0);
    assert_int_equal(ring_reader_open(&r, small), -EPROTO);
    assert_int_equal(ring_reader_open(&r, loose), -EPROTO);
    close(small);
    close(loose);

    for (unsigned round = 0; round < 20; round++) {
        int file = memfd_create_sealed("hostile", RING_FILE_BYTES);
        const uint64_t bytes = RING_HEAD_BYTES + 3 * sizeof(struct ring_cpu);
        assert_int_equal(memfd_map(file, 0, bytes, &at), 0);
        struct ring_head *head = (struct ring_head *)(void *)at;
        assert_int_equal(ring_reader_open(&r, file), 0);
        atomic_store(&head->n_cpus, round % 4);
        unsigned n_wrong = 0;
        for (unsigned i = 0; i < 500; i++) {
            scribble(at + ring_offset(i % 3), sizeof(struct ring_cpu), &seed, 50);
            int n = ring_take(&r, record, 256);
            assert_true(n == -EPROTO || (n >= 0 && n <= 256));
            n_wrong += n == -EPROTO;
            ring_lost(&r);
            ring_has_waiting(&r);
            if (ring_fall_asleep(&r, NULL))
                ring_stay_awake(&r);
        }
        assert_true(round % 4 == 0 || n_wrong);
        atomic_store(&head->n_cpus, RING_CPUS_MAX + 1);
        assert_int_equal(ring_take(&r, record, 256), -EPROTO);
        ring_reader_close(&r);
        munmap(at, bytes);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_lossless, set_up, tear_down),     cmocka_unit_test_setup_teardown(test_unsubscribed, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_dropped, set_up, tear_down),      cmocka_unit_test_setup_teardown(test_answers, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_killed, set_up, tear_down),       cmocka_unit_test_setup_teardown(test_machine_killed, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_hostile_tool, set_up, tear_down), cmocka_unit_test(test_hostile_machine),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
