/* SPDX-License-Identifier: MIT */
/*
 * The part of <vitrine/inspect.h> about events; see inspect.c. What is told is in memory shared with the VM's process (introspect/ring.h), which may write
 * there what it likes: the worst is that calls fail.
 */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/barrier.h"
#include "core/timer.h"
#include "introspect/ring.h"
#include "lib/inspect_priv.h"

_Static_assert(sizeof(struct vitrine_event) == sizeof(struct watch_record) && offsetof(struct vitrine_event, vcpu) == offsetof(struct watch_record, vcpu) &&
                   offsetof(struct vitrine_event, gpa) == offsetof(struct watch_record, event.gpa) &&
                   offsetof(struct vitrine_event, value) == offsetof(struct watch_record, event.value) &&
                   offsetof(struct vitrine_event, gpr) == offsetof(struct watch_record, gpr) &&
                   offsetof(struct vitrine_event, question) == offsetof(struct watch_record, question),
               "introspect's record in the public order");

#define EVENTS_MAX 1024u /* at once */
#define STREAM_RECORDS 64
#define STREAM_PAUSES 32u
#define SPIN_NS 50000u
#define LOOK_MS 10 /* where the kernel gives no barrier to rely on */

struct inspect_ring {
    struct ring_reader reader;
    int waker;
    bool has_barrier; /* this process may use barrier_heavy_for_all */
    bool has_cpus;    /* for both sides at once */
    bool is_quick;    /* the last wait was short */
    bool is_stream;   /* what was taken last was little, and needed no answer */
    bool wants_end;
};

/* ---- subscriptions ---- */

void inspect_ring_close(struct inspect_ring *r)
{
    if (!r)
        return;
    ring_reader_close(&r->reader);
    close(r->waker);
    free(r);
}

static struct inspect_ring *ring_make(const int fd[2])
{
    struct inspect_ring *r = calloc(1, sizeof *r);
    if (!r)
        return NULL;
    int error = ring_reader_open(&r->reader, fd[0]);
    if (error) {
        free(r);
        errno = -error;
        return NULL;
    }
    r->waker = fd[1];
    r->has_barrier = barrier_heavy_for_all();
    r->has_cpus = r->is_quick = sysconf(_SC_NPROCESSORS_ONLN) > 1;
    return r;
}

int inspect_ring_open(struct vitrine_vm *vm)
{
    struct control_vm in = { .number = vm->number };
    int fd[CONTROL_FDS_MAX];
    unsigned n;
    if (vm->ring)
        return 0;
    ssize_t bytes = inspect_call_fds(vm, CONTROL_RING, &in, sizeof in, NULL, 0, fd, &n);
    if (bytes == 0 && n == 2)
        vm->ring = ring_make(fd);
    else if (bytes >= 0)
        errno = EPROTO;
    int saved = errno;
    for (unsigned i = 0; !vm->ring && i < n; i++)
        close(fd[i]);
    errno = saved;
    return vm->ring ? 0 : -1;
}

int vitrine_vm_subscribe(struct vitrine_vm *vm, const struct vitrine_subscription *what, const struct vitrine_range *range, unsigned n_ranges)
{
    struct {
        struct control_subscription head;
        struct vitrine_subscription what;
    } in = { .head.number = vm->number, .what = *what };
    struct control_subscription out = { 0 };
    if (n_ranges > (CONTROL_PAYLOAD_MAX - sizeof in) / sizeof *range) {
        errno = ENOSPC;
        return -1;
    }
    if (inspect_ring_open(vm))
        return -1;
    ssize_t n = inspect_call(vm, CONTROL_SUBSCRIBE, &in, sizeof in, range, n_ranges * (uint32_t)sizeof *range, &out, sizeof out);
    if (n >= 0 && n != sizeof out) {
        errno = EPROTO;
        return -1;
    }
    vm->ring->wants_end |= n >= 0 && (what->kinds & VITRINE_ON_END);
    return n < 0 ? -1 : (int)out.subscription;
}

int vitrine_vm_unsubscribe(struct vitrine_vm *vm, int subscription)
{
    struct control_subscription in = { .number = vm->number, .subscription = (uint32_t)subscription };
    return inspect_call(vm, CONTROL_UNSUBSCRIBE, &in, sizeof in, NULL, 0, NULL, 0) < 0 ? -1 : 0;
}

/* ---- what is told ---- */

/* The socket says that there is something, or that the process has gone. */
static bool sleep_for(struct inspect_ring *r, int timeout_ms)
{
    struct pollfd p = { .fd = r->waker, .events = POLLIN };
    char bytes[64];
    bool can_be_woken = ring_fall_asleep(&r->reader, r->has_barrier ? barrier_heavy_for_all : NULL);
    if (can_be_woken) {
        bool must_look = r->reader.head->is_barrier_free && !r->has_barrier;
        if (must_look && (timeout_ms < 0 || timeout_ms > LOOK_MS))
            timeout_ms = LOOK_MS;
        poll(&p, 1, timeout_ms);
    }
    ring_stay_awake(&r->reader);
    ssize_t n = recv(r->waker, bytes, sizeof bytes, MSG_DONTWAIT);
    return n > 0 || (n < 0 && (errno == EAGAIN || errno == EINTR));
}

/* Some microseconds. Whoever looks for each record by itself slows down who writes them. */
static void let_write(void)
{
    for (unsigned i = 0; i < STREAM_PAUSES; i++)
        __builtin_ia32_pause();
}

/* A CPU is worth less than the time of a vCPU that is answered at once, if the last wait was that short. */
static int spin(struct inspect_ring *r, struct watch_record *out, unsigned max, uint64_t begin_ns)
{
    int n = 0;
    for (unsigned i = 0; !n && r->is_quick; i++) {
        if (r->is_stream)
            let_write();
        else
            __builtin_ia32_pause();
        if (i % 16 == 15 && timer_now_ns() - begin_ns > SPIN_NS)
            break;
        if (!ring_is_empty(&r->reader))
            n = ring_take(&r->reader, out, max);
    }
    return n;
}

static int left_ms(uint64_t end_ns, int timeout_ms)
{
    if (timeout_ms < 0)
        return -1;
    uint64_t now = timer_now_ns();
    return now >= end_ns ? 0 : (int)((end_ns - now + 999999) / 1000000);
}

/* Records, 0 when the time is over, or -errno. */
static int wait_next(struct inspect_ring *r, struct watch_record *out, unsigned max, int timeout_ms)
{
    uint64_t begin_ns = timer_now_ns(), end_ns = begin_ns + (timeout_ms > 0 ? (uint64_t)timeout_ms * 1000000 : 0);
    bool has_gone = false;
    if (r->is_stream && timeout_ms)
        let_write();
    for (int n;;) {
        bool is_over = has_gone || atomic_load(&r->reader.head->is_over);
        int ms = left_ms(end_ns, timeout_ms);
        n = ring_take(&r->reader, out, max);
        if (!n && !is_over && ms)
            n = spin(r, out, max, begin_ns);
        if (n || !ms) {
            r->is_stream = n > 0 && n < STREAM_RECORDS && !out[0].question;
            r->is_quick = r->has_cpus && timer_now_ns() - begin_ns < 2 * SPIN_NS;
            return n;
        }
        if (is_over)
            return r->wants_end && ring_take_end(&r->reader, out) ? 1 : -ESRCH;
        has_gone = !sleep_for(r, ms);
    }
}

/* A VM that has gone needs none. */
static void tell_room(struct vitrine_vm *vm)
{
    struct control_vm in = { .number = vm->number };
    inspect_call(vm, CONTROL_ROOM, &in, sizeof in, NULL, 0, NULL, 0);
}

int vitrine_vm_next_events(struct vitrine_vm *vm, struct vitrine_event *out, unsigned n, int timeout_ms, uint64_t *dropped)
{
    if (!vm->ring || !n) {
        errno = EINVAL;
        return -1;
    }
    int count = wait_next(vm->ring, (struct watch_record *)(void *)out, n < EVENTS_MAX ? n : EVENTS_MAX, timeout_ms);
    if (count < 0) {
        errno = -count;
        return -1;
    }
    if (ring_has_waiting(&vm->ring->reader))
        tell_room(vm);
    if (dropped)
        *dropped = ring_lost(&vm->ring->reader);
    return count;
}

int vitrine_vm_reply(struct vitrine_vm *vm, const struct vitrine_event *event, const struct vitrine_reply *reply)
{
    struct control_answer in = { .number = vm->number, .vcpu = event->vcpu, .question = event->question };
    return inspect_call(vm, CONTROL_ANSWER, &in, sizeof in, reply, sizeof *reply, NULL, 0) < 0 ? -1 : 0;
}

int vitrine_vm_answer(struct vitrine_vm *vm, const struct vitrine_event *event, enum vitrine_answer answer, uint64_t value)
{
    const struct vitrine_reply reply = { .answer = (uint32_t)answer, .value = value };
    const struct watch_event e = { .kind = event->kind };
    const struct watch_reply r = { .answer = (enum watch_answer)answer };
    bool is_simple = vm->ring && (unsigned)answer <= RING_ANSWER_MAX && watch_can_answer(&e, &r);
    int error = is_simple ? ring_answer(&vm->ring->reader, event->vcpu, event->question, r.answer, value) : -EAGAIN;
    if (error == -EAGAIN)
        return vitrine_vm_reply(vm, event, &reply);
    errno = -error;
    return error ? -1 : 0;
}

int vitrine_vcpu_inject(struct vitrine_vm *vm, uint32_t vcpu, const struct vitrine_injection *what)
{
    struct control_vcpu in = { .number = vm->number, .vcpu = vcpu };
    return inspect_call(vm, CONTROL_INJECT, &in, sizeof in, what, sizeof *what, NULL, 0) < 0 ? -1 : 0;
}
