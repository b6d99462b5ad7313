/* SPDX-License-Identifier: MIT */
/*
 * Running, sleeping, kicking and the signals that end a run.
 *
 * The request protocol: requests are or'ed, then exit_req is set. The vCPU clears exit_req, then reads requests, and works them off before it enters guest
 * code or blocks. All sequentially consistent, so a request is never left behind with exit_req clear.
 *
 * The signal rule of KVM_RUN: a signal that the run mask unblocks ends the run and stays pending if the caller's own mask blocks it. The run mask is therefore
 * never installed; such signals are looked for (sigpending on VREQ_TICK, a signalfd while asleep, which is polled but never read).
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "base/log.h"
#include "base/signals.h"
#include "core/dump.h"
#include "core/vcpu.h"
#include "core/vm.h"
#include "core/vm_priv.h"

#define TICK_NS 4000000ull

void vcpu_kick(struct vcpu *v)
{
    /* Against vcpu_block's "is_blocked, then exit_req": one of the two sees the other's store. */
    atomic_store(&v->exit_req, 1);
    if (atomic_load(&v->is_blocked)) {
        atomic_fetch_add(&v->wake, 1);
        eventfd_signal(v->wake_fd);
    }
    if (v->vm->engine->kick)
        v->vm->engine->kick(v);
}

void vcpu_request(struct vcpu *v, uint32_t bits)
{
    atomic_fetch_or(&v->requests, bits);
    vcpu_kick(v);
}

/* The kernel's view of a signal set: glibc keeps signal n in bit n - 1 of the first word. */
static uint64_t mask_of(const sigset_t *set)
{
    uint64_t mask;
    memcpy(&mask, set, sizeof mask);
    return mask;
}

static sigset_t set_of(uint64_t mask)
{
    sigset_t set;
    sigemptyset(&set);
    memcpy(&set, &mask, sizeof mask);
    return set;
}

bool vcpu_signal_pending(struct vcpu *v)
{
    if (v->immediate_exit && *v->immediate_exit)
        return true;
    if (!v->has_run_mask)
        return false;
    sigset_t pending;
    sigpending(&pending);
    return mask_of(&pending) & ~mask_of(&v->run_mask);
}

/* The signalfd for what the run mask unblocks and the caller blocks; -1 if there is nothing of that kind. */
static int signal_fd_for(struct vcpu *v, uint64_t caller_mask)
{
    uint64_t wanted = v->has_run_mask ? caller_mask & ~mask_of(&v->run_mask) : 0;
    if (!wanted)
        return -1;
    if (v->signal_fd < 0 || mask_of(&v->signal_set) != wanted) {
        v->signal_set = set_of(wanted);
        int fd = signalfd(v->signal_fd, &v->signal_set, SFD_CLOEXEC | SFD_NONBLOCK);
        if (fd < 0)
            return -1;
        v->signal_fd = fd;
    }
    return v->signal_fd;
}

static int sleep_until_kicked(struct vcpu *v, const sigset_t *caller)
{
    struct pollfd fds[2] = { { .fd = v->wake_fd, .events = POLLIN }, { .fd = signal_fd_for(v, mask_of(caller)), .events = POLLIN } };
    sigset_t mask = set_of(mask_of(caller) | (v->has_run_mask ? mask_of(&v->run_mask) : 0));
    int n = ppoll(fds, 2, NULL, &mask);
    if (n < 0)
        return errno == EINTR ? -EINTR : 0;
    if (fds[0].revents & POLLIN)
        eventfd_consume(v->wake_fd);
    else if (fds[0].revents & POLLNVAL)
        v->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK); /* the client closed fds it does not know, as daemons do */
    if (fds[1].revents & POLLNVAL)
        v->signal_fd = -1;
    return fds[1].revents & POLLIN ? -EINTR : 0;
}

static int sleep_counted(struct vcpu *v, const sigset_t *caller)
{
    uint64_t begin = timer_now_ns();
    v->stat[STAT_IS_BLOCKING] = 1;
    int result = sleep_until_kicked(v, caller);
    v->stat[STAT_IS_BLOCKING] = 0;
    v->stat[STAT_HALT_WAIT_NS] += timer_now_ns() - begin;
    if (!result)
        vcpu_count(v, STAT_HALT_WAKEUPS);
    return result;
}

int vcpu_block(struct vcpu *v)
{
    /*
     * Everything is blocked from before the last look at immediate_exit and pending signals until ppoll opens the mask: a handler that runs in between, and
     * whose effect we would not see, is not possible. ppoll is not restarted after a handler, whatever SA_RESTART says.
     */
    sigset_t all, caller;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &caller);
    tick_stop(v);
    atomic_store(&v->is_blocked, true);
    int result = 0;
    if (!atomic_load(&v->exit_req))
        result = vcpu_signal_pending(v) ? -EINTR : sleep_counted(v, &caller);
    atomic_store(&v->is_blocked, false);
    tick_start(v);
    pthread_sigmask(SIG_SETMASK, &caller, NULL);
    return result;
}

static bool wants_tick(const struct vcpu *v)
{
    return v->has_run_mask || v->immediate_exit;
}

static void tick_arm(struct vm *vm)
{
    if (!atomic_exchange(&vm->tick.is_armed, true) && timer_arm(&vm->timers, &vm->tick.timer, timer_now_ns() + TICK_NS) < 0)
        atomic_store(&vm->tick.is_armed, false); /* tried again at the next entry */
}

void tick_start(struct vcpu *v)
{
    if (wants_tick(v)) {
        atomic_fetch_add(&v->vm->tick.users, 1);
        tick_arm(v->vm);
    }
}

void tick_stop(struct vcpu *v)
{
    if (wants_tick(v))
        atomic_fetch_sub(&v->vm->tick.users, 1);
}

/* Lets the timer run out when nobody uses it, rather than cancelling it at each exit: exits are frequent, ticks are not. */
void tick_expired(struct timer *t)
{
    struct vm *vm = CONTAINER_OF(t, struct vm, tick.timer);
    for (unsigned i = 0; i < atomic_load(&vm->n_vcpus); i++) {
        struct vcpu *v = vm_vcpu(vm, i);
        if (v && atomic_load(&v->is_running) && !atomic_load(&v->is_blocked) && wants_tick(v))
            vcpu_request(v, VREQ_TICK);
    }
    atomic_store(&vm->tick.is_armed, false);
    if (atomic_load(&vm->tick.users)) /* after is_armed went: a vCPU that came in between has either armed or is counted */
        tick_arm(vm);
}

/* A vCPU that cannot go on: its state is for whoever set VITRINE_LOG=info or more. */
static void log_dead_end(const struct vcpu *v)
{
    char text[4096];
    bool is_shutdown = v->exit.kind == EXIT_SHUTDOWN;
    vcpu_dump(v, text, sizeof text);
    log_write(LOG_INFO, "vCPU %u: %s", v->id, is_shutdown ? "triple fault" : v->exit.internal.text ? v->exit.internal.text : "internal error");
    for (char *rest = text, *line; (line = strtok_r(rest, "\n", &rest));)
        log_write(LOG_INFO, "%s", line);
}

static void announce(struct vcpu *v)
{
    struct watch_event e = { .kind = WATCH_VCPU, .index = WATCH_VCPU_CREATED };
    v->watch.is_announced = true;
    if (!(atomic_load(&v->vm->watch.kinds) & WATCH_VCPU))
        return;
    if (watch_ask(v, &e) == WATCH_WAIT)
        v->watch.is_delivery = true; /* of no instruction; the engine finds the vCPU held */
    else
        watch_forget(&v->watch);
}

void vcpu_faults_of(sigset_t *set, int (*change)(sigset_t *set, int sig))
{
    static const int own[] = { SIGSEGV, SIGBUS, SIGFPE, SIGILL };
    for (unsigned i = 0; i < sizeof(own) / sizeof(own[0]); i++)
        change(set, own[i]);
}

/* Once per thread, as every run would pay for it: threads set their masks before they run vCPUs. */
void vcpu_unblock_faults(void)
{
    static _Thread_local bool is_done;
    sigset_t own;
    if (is_done)
        return;
    is_done = true;
    sigemptyset(&own);
    vcpu_faults_of(&own, sigaddset);
    pthread_sigmask(SIG_UNBLOCK, &own, NULL);
}

/* In whose run this thread is. Written before and after, read by vcpu_interrupt_own from a signal handler of the same thread. */
static _Thread_local struct vcpu *volatile running __attribute__((tls_model("initial-exec")));
/* Between two runs: a handler ran; the one that the last run ended for is still to come, at the end of the client's call. */
static _Thread_local volatile bool was_interrupted __attribute__((tls_model("initial-exec"))), is_one_to_come __attribute__((tls_model("initial-exec")));

void vcpu_interrupt_own(void)
{
    struct vcpu *v = running;
    if (v)
        vcpu_request(v, VREQ_EXIT);
    else if (is_one_to_come)
        is_one_to_come = false;
    else
        was_interrupted = true;
}

bool vcpu_was_interrupted(void)
{
    bool was = was_interrupted;
    was_interrupted = is_one_to_come = false;
    return was;
}

int vcpu_run(struct vcpu *v)
{
    running = v;
    if (signals_has_waiting()) /* it came since the client's call began */
        vcpu_request(v, VREQ_EXIT);
    v->thread = pthread_self();
    atomic_store(&v->is_running, true);
    if (!v->watch.is_announced)
        announce(v);
    tick_start(v);
    int result = v->vm->engine->run(v);
    tick_stop(v);
    atomic_store(&v->is_running, false);
    if (v->exit.kind == EXIT_SHUTDOWN || v->exit.kind == EXIT_INTERNAL_ERROR)
        log_dead_end(v);
    is_one_to_come = signals_has_waiting();
    running = NULL;
    /* Asked for during this run; the next one has its own look at immediate_exit and signals. */
    atomic_fetch_and(&v->requests, ~VREQ_EXIT);
    return result;
}
