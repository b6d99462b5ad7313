/* SPDX-License-Identifier: MIT */
/*
 * Signals and KVM_RUN: what a handler may find and do, how actions are set, who gets which fault.
 */
#include "tests/conform/machine_today.h"
#include "tests/conform/sender.h"

#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

PAYLOAD(count);
PAYLOAD(count_halting);
#define LOAD(name) machine_load(&m, p, payload_##name, PAYLOAD_BYTES(name))

static struct machine m;
static const struct peer *peer;
static atomic_uint n_handled, seen_reason, seen_value; /* two threads may handle signals at the same time */
static struct kvm_regs seen_regs;
static struct sender sender;
static sigjmp_buf escape;

static void count(int number)
{
    (void)number;
    n_handled++;
}

/* One KVM_RUN into which a signal comes once the guest runs, as a timer's would. */
static void run_until(int number)
{
    const struct peer *p = peer;
    sender_start(&sender, number, SENDER_TO_PROCESS, m.ram);
    CHECK_ERRNO(m.vcpu, KVM_RUN, 0, EINTR);
    sender_join(&sender);
}

/* Between two instructions of payload count. */
static void check_counting(const struct kvm_regs *r)
{
    CHECK(r->rip == CODE_AT || r->rip == CODE_AT + 1 || r->rip == CODE_AT + 5);
    CHECK_EQ(sender_count(m.ram), (uint16_t)(r->rcx - (r->rip == CODE_AT + 1)));
}

static void create(const struct peer *p, unsigned with)
{
    peer = p;
    machine_create(&m, p, with);
    LOAD(count);
}

static void handle_with(void (*handler)(int), int flags)
{
    struct sigaction action = { .sa_handler = handler, .sa_flags = flags };
    REQUIRE(sigaction(SIGALRM, &action, NULL) == 0);
}

static void look_at_vcpu(int number)
{
    seen_value = (unsigned)number;
    seen_reason = m.run->exit_reason;
    if (peer->port->ioctl(m.vcpu, KVM_GET_REGS, &seen_regs) < 0)
        seen_regs.rip = 0;
    n_handled++;
}

/* KVM_RUN has returned already when the handler runs. */
static void handler_sees_exit(const struct peer *p)
{
    create(p, 0);
    handle_with(look_at_vcpu, SA_RESTART);
    for (unsigned i = 1; i <= 3; i++) {
        run_until(SIGALRM);
        CHECK_EQ(n_handled, i);
        CHECK_EQ(seen_value, SIGALRM);
        CHECK_EQ(seen_reason, KVM_EXIT_INTR);
        check_counting(&seen_regs);
    }
}

static void jump_away(int number)
{
    (void)number;
    siglongjmp(escape, 1);
}

static void handler_jumps_away(const struct peer *p)
{
    create(p, 0);
    handle_with(jump_away, 0);
    for (unsigned i = 0; i < 3; i++) {
        if (sigsetjmp(escape, 1) == 0) {
            sender_start(&sender, SIGALRM, SENDER_TO_PROCESS, m.ram);
            p->port->ioctl(m.vcpu, KVM_RUN, 0);
            CHECK(!"the handler jumps");
        }
        sender_join(&sender);
        struct kvm_regs r = machine_regs(&m, p);
        check_counting(&r);
    }
}

static void ask_for_exit(int number)
{
    (void)number;
    m.run->immediate_exit = 1;
    n_handled++;
}

static void handler_sets_immediate_exit(const struct peer *p)
{
    create(p, 0);
    handle_with(ask_for_exit, 0);
    run_until(SIGALRM);
    CHECK_ERRNO(m.vcpu, KVM_RUN, 0, EINTR);
    CHECK_EQ(n_handled, 1);
    m.run->immediate_exit = 0;
    run_until(SIGALRM);
    CHECK_EQ(n_handled, 2);
}

/* The same before the run: only immediate_exit tells of it. */
static void signal_just_before(const struct peer *p)
{
    create(p, 0);
    handle_with(ask_for_exit, 0);
    raise(SIGALRM);
    CHECK_EQ(n_handled, 1);
    CHECK_ERRNO(m.vcpu, KVM_RUN, 0, EINTR);
}

static void handler_for_one_time(const struct peer *p)
{
    create(p, 0);
    handle_with(count, (int)(SA_RESETHAND | SA_NODEFER));
    run_until(SIGALRM);
    CHECK_EQ(n_handled, 1);
    struct sigaction now;
    sigaction(SIGALRM, NULL, &now);
    CHECK(now.sa_handler == SIG_DFL);
    CHECK(signal(SIGALRM, count) == SIG_DFL);
    CHECK(signal(SIGALRM, count) == count);
    run_until(SIGALRM);
    CHECK_EQ(n_handled, 2);
}

static void ignored_signal_goes_unnoticed(const struct peer *p)
{
    create(p, 0);
    struct sigaction ignore = { .sa_handler = SIG_IGN }, action = { .sa_handler = count };
    sigaction(SIGUSR1, &ignore, NULL);
    handle_with(count, 0);
    sigaction(SIGURG, &action, NULL);
    signal(SIGURG, SIG_DFL);
    raise(SIGUSR1);
    raise(SIGURG);
    run_until(SIGALRM);
    CHECK_EQ(n_handled, 1);
}

/* HLT waits inside KVM_RUN; every signal ends the wait once. */
static void signal_while_halted(const struct peer *p)
{
    create(p, WITH_IRQCHIP);
    LOAD(count_halting);
    handle_with(look_at_vcpu, 0);
    for (unsigned i = 1; i <= 3; i++) {
        sender_start(&sender, SIGALRM, SENDER_WHEN_ASLEEP, m.ram);
        CHECK_ERRNO(m.vcpu, KVM_RUN, 0, EINTR);
        sender_join(&sender);
        CHECK_EQ(n_handled, i);
        CHECK_EQ(seen_regs.rip, CODE_AT + 7);
        CHECK_EQ(sender_count(m.ram), 1);
    }
}

/* ---- siginfo, and threads of their own ---- */

static void take_value(int number, siginfo_t *info, void *context)
{
    CHECK(number == SIGRTMIN && context);
    CHECK_EQ(info->si_code, SI_QUEUE);
    seen_value += (unsigned)info->si_value.sival_int;
    n_handled++;
}

struct runner {
    int vcpu;
    pthread_t thread;
    unsigned n_interrupted;
    uint8_t *data;  /* where its DS begins */
    uint16_t start; /* of the count, before each run */
    atomic_uint n_begun;
};

static void *run_vcpu(void *arg)
{
    struct runner *r = arg;
    while (r->n_interrupted < 5) {
        r->start = sender_count(r->data);
        r->n_begun++;
        if (peer->port->ioctl(r->vcpu, KVM_RUN, 0) == 0 || errno != EINTR)
            break;
        r->n_interrupted++;
    }
    return NULL;
}

/* A second vCPU with the same code and with data of its own. */
static void add_counting_vcpu(struct runner *r, const struct peer *p)
{
    struct machine second = m;
    struct kvm_sregs s;
    struct kvm_run *run;
    second.vcpu = r->vcpu = machine_add_vcpu(&m, p, 1, &run);
    machine_load(&second, p, payload_count, PAYLOAD_BYTES(count));
    CALL(r->vcpu, KVM_GET_SREGS, &s);
    s.ds.base = DATA_AT;
    s.ds.selector = DATA_AT >> 4;
    CALL(r->vcpu, KVM_SET_SREGS, &s);
    r->data = m.ram + DATA_AT;
}

static void threads_get_their_own(const struct peer *p)
{
    create(p, 0);
    struct runner r[2] = { { .vcpu = m.vcpu, .data = m.ram } };
    add_counting_vcpu(&r[1], p);
    struct sigaction action = { .sa_sigaction = take_value, .sa_flags = SA_SIGINFO };
    sigaction(SIGRTMIN, &action, NULL);
    for (unsigned i = 0; i < 2; i++)
        REQUIRE(pthread_create(&r[i].thread, NULL, run_vcpu, &r[i]) == 0);
    for (unsigned i = 0; i < 10; i++) {
        struct runner *to = &r[i & 1];
        while (to->n_begun <= i / 2)
            usleep(100);
        sender_wait_counting(to->data, to->start);
        pthread_sigqueue(to->thread, SIGRTMIN, (union sigval){ .sival_int = 1 << i });
    }
    for (unsigned i = 0; i < 2; i++) {
        pthread_join(r[i].thread, NULL);
        CHECK_EQ(r[i].n_interrupted, 5);
    }
    CHECK_EQ(seen_value, 0x3ff);
    CHECK_EQ(n_handled, 10);
}

/* ---- faults: the guest's are the guest's, the client's are the client's ---- */

static void divide_by_zero(const struct peer *p)
{
    static const uint8_t divide[] = { 0x31, 0xc9, 0xf7, 0xf1, 0xf4 }; /* xor cx, cx; div cx; hlt */
    machine_load(&m, p, divide, sizeof divide);
    m.ram[0] = 0, m.ram[1] = 0x11, m.ram[2] = m.ram[3] = 0;
    m.ram[0x1100] = 0xf4;
    RUN_TO(KVM_EXIT_HLT);
    CHECK_EQ(machine_regs(&m, p).rip, 0x1101);
}

static void fault_of_client(void)
{
    volatile uint8_t *hole = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (sigsetjmp(escape, 1) == 0) {
        *hole = 1;
        CHECK(!"no fault");
    }
    n_handled++;
}

static void faults_before_and_after(const struct peer *p)
{
#ifdef __SANITIZE_ADDRESS__
    conform_skip("the address sanitizer has handlers of its own for these signals");
#endif
    struct sigaction action = { .sa_handler = jump_away }, old, fpe_before; /* a sanitizer may have set one */
    sigaction(SIGFPE, NULL, &fpe_before);
    sigaction(SIGSEGV, &action, NULL);
    create(p, 0);
    divide_by_zero(p);
    fault_of_client();
    CHECK_EQ(n_handled, 1);
    sigaction(SIGSEGV, NULL, &old);
    CHECK(old.sa_handler == jump_away);
    /* A second action, with the VM there. */
    struct sigaction again = { .sa_handler = jump_away, .sa_flags = SA_NODEFER };
    sigaction(SIGSEGV, &again, &old);
    CHECK(old.sa_handler == jump_away && !(old.sa_flags & SA_NODEFER));
    sigaction(SIGFPE, &again, &old);
    CHECK(old.sa_handler == fpe_before.sa_handler);
    divide_by_zero(p);
    fault_of_client();
    fault_of_client();
    CHECK_EQ(n_handled, 3);
}

/* Sent, not raised: nobody's fault. */
static void fault_signal_is_sent(const struct peer *p)
{
    create(p, 0);
    struct sigaction action = { .sa_handler = count };
    sigaction(SIGFPE, &action, NULL);
    divide_by_zero(p);
    raise(SIGFPE);
    CHECK_EQ(n_handled, 1);
    LOAD(count);
    run_until(SIGFPE);
    CHECK_EQ(n_handled, 2);
}

/* A thread that blocks everything, as workers do, still runs a guest that faults. */
static void faults_with_all_blocked(const struct peer *p)
{
    create(p, 0);
    sigset_t all;
    sigfillset(&all);
    sigdelset(&all, SIGALRM);
    pthread_sigmask(SIG_SETMASK, &all, NULL);
    divide_by_zero(p);
}

/* ---- alternate stacks ---- */

static uintptr_t handler_at;

static void note_stack(int number)
{
    (void)number;
    handler_at = (uintptr_t)__builtin_frame_address(0);
    n_handled++;
}

/* As Rust's threads have it: as small as may be, with a page below that nobody may touch. The fault signals that the guest causes come there too. */
static void alternate_stack(const struct peer *p)
{
    size_t least = (size_t)sysconf(_SC_MINSIGSTKSZ), bytes = least > 8192 ? least : 8192;
    uint8_t *pages = pages_of_client(4096 + bytes);
    REQUIRE(mprotect(pages, 4096, PROT_NONE) == 0);
    stack_t stack = { .ss_sp = pages + 4096, .ss_size = bytes }, now;
    REQUIRE(sigaltstack(&stack, NULL) == 0);
    create(p, 0);
    handle_with(note_stack, SA_ONSTACK);
    for (unsigned i = 1; i <= 2; i++) {
        LOAD(count);
        run_until(SIGALRM);
        CHECK_EQ(n_handled, i);
        CHECK(handler_at - (uintptr_t)stack.ss_sp < bytes);
        divide_by_zero(p);
    }
    handle_with(note_stack, 0);
    LOAD(count);
    run_until(SIGALRM);
    CHECK(handler_at - (uintptr_t)stack.ss_sp >= bytes);
    REQUIRE(sigaltstack(NULL, &now) == 0);
    CHECK(now.ss_sp == stack.ss_sp && now.ss_size == bytes && !now.ss_flags);
}

const struct conform_case cases_today_signals[] = {
    { "handler_sees_exit", handler_sees_exit },
    { "handler_jumps_away", handler_jumps_away },
    { "handler_sets_immediate_exit", handler_sets_immediate_exit },
    { "signal_just_before", signal_just_before },
    { "handler_for_one_time", handler_for_one_time },
    { "ignored_signal_goes_unnoticed", ignored_signal_goes_unnoticed },
    { "signal_while_halted", signal_while_halted },
    { "threads_get_their_own", threads_get_their_own },
    { "faults_before_and_after", faults_before_and_after },
    { "fault_signal_is_sent", fault_signal_is_sent },
    { "faults_with_all_blocked", faults_with_all_blocked },
    { "alternate_stack", alternate_stack },
};
const size_t n_cases_today_signals = sizeof cases_today_signals / sizeof *cases_today_signals;
