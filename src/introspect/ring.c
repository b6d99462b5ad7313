/* SPDX-License-Identifier: MIT */
/* See ring.h. Used by listeners of this process, and by the C API in a tool's process for the memory of another one. */
#include "introspect/ring.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <x86intrin.h>

#include "base/memfd.h"
#include "core/timer.h"

/* ---- life ---- */

static bool is_steady(int file)
{
    struct stat s;
    int seals = fcntl(file, F_GET_SEALS);
    return seals >= 0 && (seals & F_SEAL_SHRINK) && fstat(file, &s) == 0 && s.st_size == (off_t)RING_FILE_BYTES;
}

int ring_reader_open(struct ring_reader *r, int file)
{
    hva_t head;
    if (!is_steady(file))
        return -EPROTO;
    int error = memfd_map(file, 0, RING_HEAD_BYTES, &head);
    if (error)
        return error;
    r->file = file;
    r->head = (struct ring_head *)(void *)head;
    r->n = r->next = 0;
    return 0;
}

void ring_reader_close(struct ring_reader *r)
{
    for (unsigned i = 0; i < r->n; i++)
        munmap(r->seen[i].cpu, sizeof(struct ring_cpu));
    munmap(r->head, RING_HEAD_BYTES);
    close(r->file);
}

/* Rings of vCPUs that came since. */
static int look_for_rings(struct ring_reader *r)
{
    unsigned n = atomic_load_explicit(&r->head->n_cpus, memory_order_acquire);
    if (n > RING_CPUS_MAX)
        return -EPROTO;
    for (; r->n < n; r->n++) {
        hva_t at;
        int error = memfd_map(r->file, ring_offset(r->n), sizeof(struct ring_cpu), &at);
        if (error)
            return error;
        struct ring_cpu *cpu = (struct ring_cpu *)(void *)at;
        r->seen[r->n] = (struct ring_seen){ .cpu = cpu, .id = r->head->cpu[r->n], .taken = atomic_load(&cpu->tail) };
    }
    return 0;
}

/* ---- taking ---- */

#define RECORDS_AHEAD 4u

/* The time of a record is of the clock of whoever takes it, and of now: so the TSC's frequency need not be exact. */
struct moment {
    uint64_t tsc, ns;
    uint64_t ns_per_tsc; /* 32.32 */
};

static struct moment moment_now(const struct ring_reader *r)
{
    uint32_t khz = r->head->tsc_khz;
    return (struct moment){ .tsc = __rdtsc(), .ns = timer_now_ns(), .ns_per_tsc = khz ? (1000000ull << 32) / khz : 0 };
}

static uint64_t time_of(const struct moment *now, uint64_t tsc)
{
    uint64_t ago = now->tsc > tsc ? now->tsc - tsc : 0;
    return now->ns - (uint64_t)((unsigned __int128)ago * now->ns_per_tsc >> 32);
}

static void copy_out(struct watch_record *out, const struct ring_record *from, uint32_t id, const struct moment *now, uint64_t question)
{
    out->event = from->event;
    out->vcpu = id;
    out->cpl = from->cpl;
    out->rip = from->rip;
    out->rflags = from->rflags;
    out->cr3 = from->cr3;
    out->time_ns = time_of(now, from->tsc);
    out->question = question;
    out->sequence = from->sequence;
    memcpy(out->gpr, from->gpr, sizeof out->gpr);
}

/* A question that was not taken yet. */
static uint64_t new_question(const struct ring_seen *s)
{
    uint64_t question = atomic_load_explicit(&s->cpu->turn, memory_order_acquire) / RING_STATES;
    return question != s->question ? question : 0;
}

static unsigned take_questions(struct ring_reader *r, struct watch_record *out, unsigned max, const struct moment *now)
{
    unsigned n = 0;
    for (unsigned i = 0; i < r->n && n < max; i++) {
        struct ring_seen *s = &r->seen[(r->next + i) % r->n];
        uint64_t question = new_question(s);
        if (!question)
            continue;
        copy_out(&out[n], &s->cpu->question, s->id, now, question);
        atomic_thread_fence(memory_order_acquire);
        if (new_question(s) != question)
            continue; /* it was withdrawn meanwhile */
        s->question = question;
        n++;
    }
    return n;
}

/* How many records there are in a ring; -EPROTO. */
static int64_t count_records(const struct ring_seen *s)
{
    uint64_t n = atomic_load_explicit(&s->cpu->head, memory_order_acquire) - s->taken;
    return n <= RING_SLOTS ? (int64_t)n : -EPROTO;
}

static const struct ring_record *first_of(const struct ring_seen *s)
{
    return &s->cpu->record[s->taken % RING_SLOTS];
}

static void take_one(struct ring_seen *s, struct watch_record *out, const struct moment *now)
{
    const struct ring_record *from = first_of(s);
    const char *soon = (const char *)&s->cpu->record[(s->taken + RECORDS_AHEAD) % RING_SLOTS];
    for (unsigned i = 0; i < sizeof *from; i += 64)
        __builtin_prefetch(soon + i);
    copy_out(out, from, s->id, now, 0);
    s->taken++;
}

static int take_from_one(struct ring_seen *s, struct watch_record *out, unsigned max, const struct moment *now)
{
    int64_t n = count_records(s);
    if (n > max)
        n = max;
    for (int64_t i = 0; i < n; i++) {
        take_one(s, &out[i], now);
        if (i % 64 == 63) /* the vCPU may wait for it */
            atomic_store_explicit(&s->cpu->tail, s->taken, memory_order_release);
    }
    if (n > 0)
        atomic_store_explicit(&s->cpu->tail, s->taken, memory_order_release);
    return (int)n;
}

/* Each time the oldest of what is there: with several vCPUs, who writes meanwhile may come out of order. */
static int take_from_all(struct ring_reader *r, struct watch_record *out, unsigned max, const struct moment *now)
{
    unsigned n = 0;
    while (n < max) {
        struct ring_seen *oldest = NULL;
        for (unsigned i = 0; i < r->n; i++) {
            struct ring_seen *s = &r->seen[i];
            int64_t there = count_records(s);
            if (there < 0)
                return (int)there;
            if (there && (!oldest || first_of(s)->tsc < first_of(oldest)->tsc))
                oldest = s;
        }
        if (!oldest)
            break;
        take_one(oldest, &out[n++], now);
    }
    for (unsigned i = 0; n && i < r->n; i++)
        atomic_store_explicit(&r->seen[i].cpu->tail, r->seen[i].taken, memory_order_release);
    return (int)n;
}

/* Up to max records of the vCPUs. */
static int take_all(struct ring_reader *r, struct watch_record *out, unsigned max)
{
    int error = look_for_rings(r);
    if (error || !r->n)
        return error;
    const struct moment now = moment_now(r);
    unsigned n = take_questions(r, out, max, &now);
    int more = r->n == 1 ? take_from_one(r->seen, out + n, max - n, &now) : take_from_all(r, out + n, max - n, &now);
    r->next = (r->next + 1) % r->n;
    return more < 0 && !n ? more : (int)n + (more > 0 ? more : 0);
}

bool ring_take_end(struct ring_reader *r, struct watch_record *out)
{
    if (r->has_told_end)
        return false;
    r->has_told_end = true;
    *out = (struct watch_record){ .event.kind = WATCH_END, .vcpu = UINT32_MAX, .time_ns = timer_now_ns() };
    return true;
}

int ring_take(struct ring_reader *r, struct watch_record *out, unsigned max)
{
    bool is_over = atomic_load(&r->head->is_over);
    int n = take_all(r, out, max);
    return n >= 0 && (unsigned)n < max && is_over && r->head->tells_end && ring_take_end(r, &out[n]) ? n + 1 : n;
}

uint64_t ring_lost(const struct ring_reader *r)
{
    uint64_t n = atomic_load(&r->head->lost);
    for (unsigned i = 0; i < r->n; i++)
        n += atomic_load(&r->seen[i].cpu->lost);
    return n;
}

static int answer_at(struct ring_cpu *c, uint64_t question, enum watch_answer answer, uint64_t value)
{
    uint64_t turn = atomic_load(&c->turn), asked = question * RING_STATES + RING_ASKED;
    if (turn / RING_STATES != question || turn % RING_STATES == RING_ANSWERED)
        return -ESTALE;
    if (turn != asked)
        return -EAGAIN;
    atomic_store(&c->answer, answer);
    atomic_store(&c->value, value);
    return atomic_compare_exchange_strong(&c->turn, &asked, question * RING_STATES + RING_ANSWERED) ? 0 : -EAGAIN;
}

int ring_answer(struct ring_reader *r, uint32_t vcpu, uint64_t question, enum watch_answer answer, uint64_t value)
{
    if (answer > RING_ANSWER_MAX)
        return -EAGAIN;
    for (unsigned i = 0; i < r->n; i++)
        if (r->seen[i].id == vcpu)
            return answer_at(r->seen[i].cpu, question, answer, value);
    return -EAGAIN;
}

bool ring_has_waiting(const struct ring_reader *r)
{
    atomic_thread_fence(memory_order_seq_cst); /* against look_wait_for_room */
    for (unsigned i = 0; i < r->n; i++) {
        const struct ring_seen *s = &r->seen[i];
        if (atomic_load(&s->cpu->is_waiting) && atomic_load(&s->cpu->head) - s->taken <= RING_SLOTS / 2)
            return true;
    }
    return false;
}

/* ---- sleeping ---- */

bool ring_is_empty(const struct ring_reader *r)
{
    if (atomic_load(&r->head->n_cpus) != r->n || atomic_load(&r->head->is_over))
        return false;
    for (unsigned i = 0; i < r->n; i++)
        if (count_records(&r->seen[i]) || new_question(&r->seen[i]))
            return false;
    return true;
}

bool ring_fall_asleep(struct ring_reader *r, bool (*barrier)(void))
{
    atomic_store(&r->head->is_asleep, 1);
    if (r->head->is_barrier_free && barrier && !barrier())
        return false;
    if (ring_is_empty(r))
        return true;
    atomic_store(&r->head->is_asleep, 0);
    return false;
}

void ring_stay_awake(struct ring_reader *r)
{
    atomic_store(&r->head->is_asleep, 0);
}
