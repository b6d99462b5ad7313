/* SPDX-License-Identifier: MIT */
/*
 * Events: what a vCPU is about to do, told to whoever watches the VM. The engine asks at the place where the CPU acts, before anything of the instruction is
 * committed. If somebody has to answer first, the instruction is left, the vCPU stands between two instructions held by the question (core/hold.h), and the
 * instruction starts again when the answer is there: it finds it among the grants. Grants last until the instruction commits or faults.
 *
 * A VM that nobody watches pays for a test of vm.watch.kinds in C, and for one of vm.watch.table where a TLB entry is made. Who watches is introspect's.
 */
#ifndef VITRINE_CORE_WATCH_H
#define VITRINE_CORE_WATCH_H

#include <stdatomic.h>

#include "base/types.h"
#include "x86/regs.h"

struct vcpu;
struct vm;

/* watch_event.kind, and bits of vm.watch.kinds. In brackets: what index, old_value and value are. */
#define WATCH_CR (1u << 0)         /* MOV to CR0, 3, 4, 8, LMSW, CLTS [register; old; new] */
#define WATCH_MSR_WRITE (1u << 1)  /* [MSR; -; new] */
#define WATCH_MSR_READ (1u << 2)   /* [MSR] */
#define WATCH_INT3 (1u << 3)       /* before the guest's handler is called */
#define WATCH_ACCESS (1u << 4)     /* guest memory: see gva, gpa, bytes, access [view] */
#define WATCH_STEP (1u << 5)       /* before each instruction, and each piece of a repeated one */
#define WATCH_CPUID (1u << 6)      /* [leaf; -; subleaf] */
#define WATCH_XSETBV (1u << 7)     /* [register; old; new] */
#define WATCH_TABLE (1u << 8)      /* access: read is a store by the guest, write a load [WATCH_GDTR ...] */
#define WATCH_HYPERCALL (1u << 9)  /* [number] */
#define WATCH_PORT (1u << 10)      /* access: read is IN; one event for a repeated run of INS or OUTS [port; -; for OUT the value] */
#define WATCH_EXCEPTION (1u << 11) /* about to be delivered; not what INT n, INT3, INTO and INT1 raise [vector; error code; CR2 or DR6 bits] */
#define WATCH_INTERRUPT (1u << 12) /* about to be delivered; NMIs too [vector] */
#define WATCH_SYSCALL (1u << 13)   /* [WATCH_BY_...; -; RAX] */
#define WATCH_KINDS 14u

enum { WATCH_GDTR, WATCH_IDTR, WATCH_LDTR, WATCH_TR };
enum { WATCH_BY_SYSCALL, WATCH_BY_SYSENTER, WATCH_BY_INT80 };

/* watch_event.access */
#define WATCH_READ 1u
#define WATCH_WRITE 2u
#define WATCH_EXECUTE 4u /* an instruction begins there */

struct watch_event {
    uint32_t kind, index, access;
    uint32_t bytes; /* 0: the rest, in another page, of an instruction that is to be executed */
    uint64_t old_value, value;
    gva_t gva;
    gpa_t gpa; /* by the guest's tables, whatever the view makes of it */
};

enum watch_answer {
    WATCH_CONTINUE,
    WATCH_DENY,   /* the instruction is skipped, with all it would have done; an exception or interrupt is dropped */
    WATCH_CHANGE, /* WATCH_CR, WATCH_MSR_WRITE, WATCH_XSETBV: another value is written, by the same checks */
    WATCH_RETRY,  /* the instruction starts again as if nothing had been asked; who answers so has changed something */
    WATCH_ANSWERS
};

/* An event as it is told: with the state before the instruction. */
struct watch_record {
    struct watch_event event;
    uint32_t vcpu, cpl;
    uint64_t rip, rflags, cr3, gpr[GPR_COUNT];
    uint64_t time_ns;  /* CLOCK_MONOTONIC */
    uint64_t question; /* for the answer; 0: none is waited for */
    uint64_t sequence; /* counts what this vCPU had to tell the listener, from 1, with what was lost; 0 for questions */
};

#define WATCH_GRANTS_MAX 64
struct watch_grant {
    struct watch_event event;
    uint64_t rip;
    bool is_dropped; /* WATCH_DENY of an exception or interrupt */
};

/* A vCPU's part. Its own thread's, but while a question is open: under vm.watch.lock. */
struct watch_vcpu {
    unsigned n_grants;
    bool is_denied;   /* the instruction at denied_rip is to be skipped */
    bool is_delivery; /* the question came while an exception or interrupt was delivered, which is pending again */
    uint64_t denied_rip;
    uint64_t waits_for; /* bit per listener: has not answered */
    struct {
        struct watch_event event;
        uint64_t rip, number;
    } asked;
    enum watch_answer answer; /* of those who answered so far */
    uint64_t answer_value;
    struct watch_grant grant[WATCH_GRANTS_MAX];
    _Atomic bool is_telling; /* in watch_ops.tell, without a lock */
};

/* Sorted, disjoint. */
struct watch_ranges {
    unsigned n;
    struct watch_range {
        gpa_t first, last;
    } * range;
};

/* Of whole pages: accesses to them are made one by one, and asked about. Replaced as a whole (watch_table_set). */
struct watch_table {
    struct watch_ranges of[3]; /* read, write, execute */
};

/* What introspect fills in. */
struct watch_ops {
    /* vCPU thread, state complete; general registers only. True: whoever wants it is told, and nobody has to answer. False: nothing was done. */
    bool (*tell)(struct vcpu *v, const struct watch_event *e);
    /* vCPU thread, state complete, vm.watch.lock held: tells those who want it. True if somebody has to answer; bits are in v->watch.waits_for. */
    bool (*raise)(struct vcpu *v, const struct watch_event *e);
    /* Nobody has a reference to the VM any more. */
    void (*end)(struct vm *vm);
};

bool watch_ranges_meet(const struct watch_ranges *r, gpa_t first, gpa_t last);
/* Sorts r and joins what touches. */
void watch_ranges_normalise(struct watch_ranges *r);
void watch_table_free(struct watch_table *t);
/* Any thread but a vCPU's in its run; serialised by the caller. Takes over t (or NULL); every vCPU's next access is by it when this returns. */
void watch_table_set(struct vm *vm, struct watch_table *t);
/* While the VM goes. */
void watch_end(struct vm *vm);

enum watch_verdict { WATCH_GO, WATCH_GO_DROPPED, WATCH_WAIT, WATCH_UNDECIDED };
/*
 * vCPU thread, state complete. WATCH_GO: go on, with e->value as answered. WATCH_WAIT: leave the instruction as it was; the vCPU is held until the answer is
 * there. watch_tell comes first and uses general registers only; WATCH_UNDECIDED: watch_ask has to, with all of the state saved.
 */
enum watch_verdict watch_tell(struct vcpu *v, struct watch_event *e);
enum watch_verdict watch_ask(struct vcpu *v, struct watch_event *e);

/* vm.watch.lock held: the answer of those in `mask`. The last one's lets the vCPU go on. */
void watch_answer(struct vcpu *v, uint64_t mask, enum watch_answer answer, uint64_t value);

/* Without an answer now, should the same be asked again before the instruction is over. General registers only. */
void watch_grant_add(struct watch_vcpu *w, const struct watch_event *e, uint64_t rip, bool is_dropped);

/* The instruction is over, or another one begins: what was granted is used up. vCPU thread, or v->lock held. */
static inline void watch_forget(struct watch_vcpu *w)
{
    w->n_grants = 0;
    w->is_denied = w->is_delivery = false;
}

#endif
