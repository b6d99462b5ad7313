/* SPDX-License-Identifier: MIT */
/*
 * base/signals.c and base/guard.c through the C library's calls, which the program has from transport/sigaction.c.
 */
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/guard.h"
#include "base/signals.h"

#pragma GCC diagnostic ignored "-Wdeprecated-declarations" /* old programs are clients too */

static volatile int n_plain, n_info, n_claimed, last_value;
static sigjmp_buf escape;

static void plain(int sig)
{
    (void)sig;
    n_plain++;
}

static void with_info(int sig, siginfo_t *info, void *context)
{
    (void)sig;
    n_info += context != NULL;
    last_value = info->si_value.sival_int;
}

static int reset(void **state)
{
    (void)state;
    const int used[] = { SIGUSR1, SIGUSR2, SIGRTMIN };
    for (size_t i = 0; i < sizeof used / sizeof *used; i++)
        signal(used[i], SIG_DFL);
    n_plain = n_info = n_claimed = 0;
    return 0;
}

static bool is_blocked(int sig)
{
    sigset_t now;
    pthread_sigmask(SIG_BLOCK, NULL, &now);
    return sigismember(&now, sig);
}

static void test_old_action_is_the_clients(void **state)
{
    (void)state;
    struct sigaction action = { .sa_sigaction = with_info, .sa_flags = SA_SIGINFO | SA_RESTART }, old;
    sigaddset(&action.sa_mask, SIGUSR2);
    assert_int_equal(sigaction(SIGUSR1, &action, &old), 0);
    assert_true(old.sa_handler == SIG_DFL);
    assert_int_equal(sigaction(SIGUSR1, NULL, &old), 0);
    assert_true(old.sa_sigaction == with_info);
    assert_int_equal(old.sa_flags, SA_SIGINFO | SA_RESTART);
    assert_true(sigismember(&old.sa_mask, SIGUSR2));
    assert_true(signal(SIGUSR1, plain) == (sighandler_t)(uintptr_t)with_info);
    sigaction(SIGUSR1, NULL, &old);
    assert_true(old.sa_handler == plain && (old.sa_flags & SA_RESTART));
    siginterrupt(SIGUSR1, 1);
    sigaction(SIGUSR1, NULL, &old);
    assert_false(old.sa_flags & SA_RESTART);
    signal(SIGUSR1, plain);
    sigaction(SIGUSR1, NULL, &old);
    assert_false(old.sa_flags & SA_RESTART);
    siginterrupt(SIGUSR1, 0);
    assert_true(signal(SIGUSR1, SIG_IGN) == plain);
    assert_true(signal(SIGUSR1, SIG_DFL) == SIG_IGN);
    assert_int_equal(sigaction(SIGKILL, &action, NULL), -1);
    assert_int_equal(errno, EINVAL);
    assert_int_equal(sigaction(65, NULL, &old), -1);
    assert_true(signal(0, plain) == SIG_ERR);
}

static void test_sigset(void **state)
{
    (void)state;
    assert_true(sigset(SIGUSR1, plain) == SIG_DFL);
    assert_true(sigset(SIGUSR1, SIG_HOLD) == plain);
    assert_true(is_blocked(SIGUSR1));
    raise(SIGUSR1);
    assert_int_equal(n_plain, 0);
    assert_true(sigset(SIGUSR1, plain) == SIG_HOLD);
    assert_false(is_blocked(SIGUSR1));
    assert_int_equal(n_plain, 1);
    assert_int_equal(sigignore(SIGUSR1), 0);
    raise(SIGUSR1);
    assert_int_equal(n_plain, 1);
}

static void test_arguments(void **state)
{
    (void)state;
    struct sigaction action = { .sa_sigaction = with_info, .sa_flags = SA_SIGINFO };
    sigaction(SIGRTMIN, &action, NULL);
    sigqueue(getpid(), SIGRTMIN, (union sigval){ .sival_int = 42 });
    assert_int_equal(n_info, 1);
    assert_int_equal(last_value, 42);
    signal(SIGUSR1, plain);
    raise(SIGUSR1);
    assert_int_equal(n_plain, 1);
}

static void test_hold(void **state)
{
    (void)state;
    struct sigaction action = { .sa_sigaction = with_info, .sa_flags = SA_SIGINFO };
    sigaction(SIGRTMIN, &action, NULL);
    signals_hold();
    signals_hold();
    assert_false(signals_has_waiting());
    sigqueue(getpid(), SIGRTMIN, (union sigval){ .sival_int = 7 });
    assert_true(signals_has_waiting());
    signals_release();
    assert_int_equal(n_info, 0);
    signals_release();
    assert_int_equal(n_info, 1);
    assert_int_equal(last_value, 7);
    assert_false(signals_has_waiting());
    assert_false(is_blocked(SIGRTMIN));
}

static void test_hold_one_time(void **state)
{
    (void)state;
    struct sigaction action = { .sa_handler = plain, .sa_flags = (int)(SA_RESETHAND | SA_NODEFER) }, now;
    sigaction(SIGUSR1, &action, NULL);
    signals_hold();
    raise(SIGUSR1);
    raise(SIGUSR1); /* one signal while it is pending */
    assert_int_equal(n_plain, 0);
    sigaction(SIGUSR1, NULL, &now);
    assert_true(now.sa_handler == plain);
    signals_release();
    assert_int_equal(n_plain, 1);
    sigaction(SIGUSR1, NULL, &now);
    assert_true(now.sa_handler == SIG_DFL);
    pid_t child = fork();
    if (child == 0) {
        raise(SIGUSR1);
        _exit(0);
    }
    int status;
    waitpid(child, &status, 0);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGUSR1);
}

/* The handler of a signal that waited runs outside of the hold: it may jump away, or hold again. */
static void jump(int sig)
{
    (void)sig;
    siglongjmp(escape, 1);
}

static void test_jump_after_hold(void **state)
{
    (void)state;
    signal(SIGUSR1, jump);
    for (volatile int i = 0; i < 2; i++) {
        if (sigsetjmp(escape, 1) == 0) {
            signals_hold();
            raise(SIGUSR1);
            signals_release();
            fail();
        }
        assert_false(is_blocked(SIGUSR1));
    }
    signal(SIGUSR1, plain);
    raise(SIGUSR1);
    assert_int_equal(n_plain, 1);
}

/* ---- claimed signals ---- */

static void claimed(int sig, siginfo_t *info, void *context)
{
    n_claimed++;
    if (!guard_recover(context))
        signals_deliver(sig, info, context);
}

static void test_claim(void **state)
{
    (void)state;
    struct sigaction old;
    signal(SIGUSR1, plain);
    assert_int_equal(signals_claim(SIGUSR1, claimed), 0);
    raise(SIGUSR1);
    assert_int_equal(n_claimed, 1);
    assert_int_equal(n_plain, 1);
    struct sigaction action = { .sa_sigaction = with_info, .sa_flags = (int)(SA_SIGINFO | SA_RESETHAND) };
    sigaction(SIGUSR1, &action, &old);
    assert_true(old.sa_handler == plain);
    raise(SIGUSR1);
    assert_int_equal(n_claimed, 2);
    assert_int_equal(n_info, 1);
    sigaction(SIGUSR1, NULL, &old);
    assert_true(old.sa_handler == SIG_DFL);
    signal(SIGUSR1, SIG_IGN);
    raise(SIGUSR1);
    assert_int_equal(n_claimed, 3);
    pid_t child = fork();
    if (child == 0) {
        signal(SIGUSR1, SIG_DFL);
        raise(SIGUSR1);
        _exit(0);
    }
    int status;
    waitpid(child, &status, 0);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGUSR1);
}

static void test_fault_does_not_wait(void **state)
{
    (void)state;
    assert_int_equal(signals_claim(SIGSEGV, claimed), 0);
    signal(SIGSEGV, jump);
    volatile uint8_t *hole = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (sigsetjmp(escape, 1) == 0) {
        signals_hold();
        *hole = 1;
        fail();
    }
    signals_release();
    assert_int_equal(n_claimed, 1);
    pid_t child = fork();
    if (child == 0) {
        signal(SIGSEGV, SIG_IGN); /* the kernel does not let a fault be ignored */
        *hole = 1;
        _exit(0);
    }
    int status;
    waitpid(child, &status, 0);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
}

static void test_guard(void **state)
{
    (void)state;
    uint8_t buf[32] = { 0 };
    signals_claim(SIGSEGV, claimed);
    uint8_t *page = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    mprotect(page + 4096, 4096, PROT_NONE);
    memset(page, 0x5a, 4096);
    assert_int_equal(guard_copy(buf, page, sizeof buf), 0);
    assert_int_equal(buf[31], 0x5a);
    assert_int_equal(guard_copy(buf, page, 0), 0);
    assert_int_equal(guard_copy(buf, page + 4096 - 16, sizeof buf), -EFAULT);
    assert_int_equal(guard_copy(page + 4096, buf, 1), -EFAULT);
    assert_int_equal(n_claimed, 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_old_action_is_the_clients, reset),
        cmocka_unit_test_setup(test_sigset, reset),
        cmocka_unit_test_setup(test_arguments, reset),
        cmocka_unit_test_setup(test_hold, reset),
        cmocka_unit_test_setup(test_hold_one_time, reset),
        cmocka_unit_test_setup(test_jump_after_hold, reset),
        cmocka_unit_test_setup(test_claim, reset),
        cmocka_unit_test_setup(test_fault_does_not_wait, reset),
        cmocka_unit_test_setup(test_guard, reset),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
