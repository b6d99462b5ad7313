/* SPDX-License-Identifier: MIT */
/*
 * What a listener was told, in memory that the VM's process and the tool's may share: for each vCPU a ring of records that this vCPU alone writes and the tool
 * alone takes, and a place for the question that it waits with. Neither side believes the other: each keeps its own position, a word of the other side's is
 * checked at each use, and the file cannot shrink. Here are the layout and the reading side; the vCPUs' side is raise.c and listen.c.
 *
 * A reader is used by one thread at a time. No lock.
 */
#ifndef VITRINE_INTROSPECT_RING_H
#define VITRINE_INTROSPECT_RING_H

#include <stdatomic.h>
#include <stddef.h>

#include "core/watch.h"

#define RING_SLOTS 4096u /* records of a vCPU */
#define RING_CPUS_MAX 4096u

struct ring_record {
    struct watch_event event;
    uint64_t rip, cr3, rflags;
    uint64_t tsc; /* the host's */
    uint64_t sequence;
    uint32_t cpl;
    _Alignas(128) uint64_t gpr[GPR_COUNT];
};
_Static_assert(sizeof(struct ring_record) == 256 && offsetof(struct ring_record, gpr) == 128, "four cache lines");

/*
 * ring_cpu.turn: a question's number * RING_STATES + its state. The tool turns ASKED into ANSWERED, when answer and value are there; the VM all else. ASLEEP:
 * the vCPU looks no longer, and is answered by a request.
 */
enum { RING_ASKED = 1, RING_ANSWERED, RING_ASLEEP, RING_STATES };
#define RING_ANSWER_MAX WATCH_RETRY /* the answers that need no more than a value */

struct ring_cpu {
    /* The VM's. */
    _Alignas(128) _Atomic uint64_t head; /* records written */
    /* The tool's. */
    _Alignas(128) _Atomic uint64_t tail; /* records taken */
    /* The VM's, seldom written. */
    _Alignas(128) _Atomic uint64_t lost; /* records not written: there was no room */
    _Atomic uint32_t is_waiting;         /* the vCPU waits for room */
    /* Of both. */
    _Alignas(128) _Atomic uint64_t turn;
    _Atomic uint64_t value;
    _Atomic uint32_t answer;
    _Alignas(128) struct ring_record question;
    _Alignas(PAGE_BYTES) struct ring_record record[RING_SLOTS];
};

struct ring_head {
    /* The VM's. */
    _Atomic uint32_t n_cpus;  /* rings that there are, in the order in which they were made */
    _Atomic uint32_t is_over; /* the VM has gone */
    uint32_t is_barrier_free; /* base/barrier.h */
    uint32_t tsc_khz;
    uint32_t tells_end;    /* valid with is_over: that is to be told as an event */
    _Atomic uint64_t lost; /* of vCPUs for which there is no memory for a ring */
    /* Of both: who finds it set and has something to tell clears it and wakes the tool. */
    _Alignas(128) _Atomic uint32_t is_asleep;
    _Alignas(128) uint16_t cpu[RING_CPUS_MAX]; /* ids of the vCPUs */
};

#define RING_HEAD_BYTES ((sizeof(struct ring_head) + PAGE_OFFSET_MASK) & ~(size_t)PAGE_OFFSET_MASK)
/* Most of it is never touched, and so is not there. */
#define RING_FILE_BYTES (RING_HEAD_BYTES + (uint64_t)RING_CPUS_MAX * sizeof(struct ring_cpu))

/* Where ring i is in the file. */
static inline uint64_t ring_offset(unsigned i)
{
    return RING_HEAD_BYTES + (uint64_t)i * sizeof(struct ring_cpu);
}

struct ring_reader {
    int file;
    struct ring_head *head;
    unsigned n;    /* of the arrays below */
    unsigned next; /* whose question is looked at first */
    bool has_told_end;
    struct ring_seen {
        struct ring_cpu *cpu;
        uint32_t id;
        uint64_t taken;    /* what tail says */
        uint64_t question; /* the last one that was taken */
    } seen[RING_CPUS_MAX];
};

/* Takes over `file`, whose size must be RING_FILE_BYTES and sealed. 0 or -errno: nothing was taken over. */
int ring_reader_open(struct ring_reader *r, int file);
void ring_reader_close(struct ring_reader *r);
/* Up to max records, questions first, the others in the order of their time. -EPROTO: the other side writes what cannot be; -ENOMEM. */
int ring_take(struct ring_reader *r, struct watch_record *out, unsigned max);
/* Nothing to take, and nothing else that the reader has to look at. */
bool ring_is_empty(const struct ring_reader *r);
/* The last event, WATCH_END, if it was not taken before: where the other side went without a word. */
bool ring_take_end(struct ring_reader *r, struct watch_record *out);
/* After taking: a vCPU waits for the room that there is now, and has to be told (look_make_room). */
bool ring_has_waiting(const struct ring_reader *r);
/* -ESTALE: the question is no longer open. -EAGAIN: that cannot be answered here, but by a request. */
int ring_answer(struct ring_reader *r, uint32_t vcpu, uint64_t question, enum watch_answer answer, uint64_t value);
uint64_t ring_lost(const struct ring_reader *r);
/* Before sleeping: true if whoever tells something from now on wakes the reader; false if there is something already. */
bool ring_fall_asleep(struct ring_reader *r, bool (*barrier)(void));
void ring_stay_awake(struct ring_reader *r);

#endif
