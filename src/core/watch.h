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
#include "core/inject.h"
#include "x86/regs.h"

struct vcpu;
struct vm;

/* watch_event.kind, and bits of vm.watch.kinds. In brackets: what index, old_value and value are. */
#define WATCH_CR (1u << 0)         /* MOV to CR0, 3, 4, 8, LMSW, CLTS; task switch, SMI, RSM: told afterwards [register; old; new] */
#define WATCH_MSR_WRITE (1u << 1)  /* [MSR; old, 0 if it cannot be read; new] */
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
#define WATCH_SYSRET (1u << 14)    /* [WATCH_BY_SYSRET ...; -; RAX] */
#define WATCH_FLUSH (1u << 15)     /* what the guest does to have its TLB flushed [WATCH_FLUSH_...] */
#define WATCH_DEBUG (1u << 16)     /* #DB about to be delivered, INT1's too [WATCH_DEBUG_...; -; DR6 bits] */
#define WATCH_VCPU (1u << 17)      /* what becomes of a vCPU [WATCH_VCPU_...] */
#define WATCH_INJECTED (1u << 18)  /* what a tool injected is about to be delivered, or what became of it [vector; error code; CR2 or DR6 bits] */
#define WATCH_END (1u << 19)       /* told when the VM goes, of no vCPU */
#define WATCH_KINDS 20u

enum { WATCH_GDTR, WATCH_IDTR, WATCH_LDTR, WATCH_TR };
enum { WATCH_BY_SYSCALL, WATCH_BY_SYSENTER, WATCH_BY_INT80 };
enum { WATCH_BY_SYSRET, WATCH_BY_SYSEXIT };
enum { WATCH_DEBUG_EXCEPTION, WATCH_DEBUG_INT1 };
/* In brackets: old_value; value. PARAVIRTUAL is told afterwards. */
enum {
    WATCH_FLUSH_INVLPG,  /* [-; linear address] */
    WATCH_FLUSH_INVPCID, /* [type, bits 16-27 PCID; linear address] */
    WATCH_FLUSH_CR0,     /* [old; new] */
    WATCH_FLUSH_CR3,
    WATCH_FLUSH_CR4,
    WATCH_FLUSH_PARAVIRTUAL /* another vCPU asked for it, by the steal time page */
};
enum {
    WATCH_VCPU_CREATED, /* its client runs it for the first time */
    WATCH_VCPU_PAUSED,  /* held by a tool or by the user; told only */
    WATCH_VCPU_HALTED,  /* about to halt, by HLT */
    WATCH_VCPU_RESET,   /* INIT */
    WATCH_VCPU_STARTED  /* SIPI [-; vector] */
};

/* watch_event.access */
#define WATCH_READ 1u
#define WATCH_WRITE 2u
#define WATCH_EXECUTE 4u /* an instruction begins there */

struct watch_event {
    uint32_t kind, index, access;
    uint32_t bytes; /* of an access or port; 0: the rest, in another page, of an instruction that is to be executed. Else of the instruction, 0 if it is none */
    uint64_t old_value, value;
    gva_t gva;
    gpa_t gpa; /* by the guest's tables, whatever the view makes of it */
};

enum watch_answer {
    WATCH_CONTINUE,
    WATCH_DENY,    /* the instruction is skipped, with all it would have done; an exception or interrupt is dropped */
    WATCH_CHANGE,  /* WATCH_CR, WATCH_MSR_WRITE, WATCH_XSETBV: another value is written, by the same checks */
    WATCH_RETRY,   /* the instruction starts again as if nothing had been asked; who answers so has changed something */
    WATCH_EMULATE, /* WATCH_MSR_READ, IN and INS, WATCH_CPUID, WATCH_HYPERCALL, reading or executing WATCH_ACCESS: it gets what the reply gives */
    WATCH_INJECT, /* an exception comes in place of the instruction, or of the exception that was asked about; an interrupt as soon as it can, and it goes on */
    WATCH_CRASH,  /* the client gets a shutdown, as of a triple fault */
    WATCH_ANSWERS
};

#define WATCH_DATA_MAX 256u

/* An answer with all that belongs to it. */
struct watch_reply {
    enum watch_answer answer;
    uint64_t value; /* CHANGE; EMULATE of WATCH_MSR_READ, IN, WATCH_HYPERCALL (RAX) */
    /*
     * EMULATE of WATCH_ACCESS: what the instruction reads from linear address data_at on, or its own bytes if execution was asked about; what it reads
     * elsewhere is read. Of WATCH_CPUID: EAX, EBX, ECX, EDX. Of INS: elements, so many of which are done; with 0 bytes one, of `value`.
     */
    gva_t data_at;
    uint32_t data_bytes;
    uint8_t data[WATCH_DATA_MAX];
    struct injection injection; /* INJECT */
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

/* What is given to an instruction in place of what it would have got, as long as its grant lasts. */
#define WATCH_GIFTS_MAX 16
struct watch_gift {
    struct watch_event event;
    struct watch_reply reply;
};

/* A vCPU's part. Its own thread's, but while a question is open: under vm.watch.lock. */
struct watch_vcpu {
    unsigned n_grants, n_gifts;
    bool is_announced;                                               /* WATCH_VCPU_CREATED */
    bool has_injected_exception, has_injected_irq, has_injected_nmi; /* what is pending is a tool's */
    bool is_denied;                                                  /* the instruction at denied_rip is to be skipped */
    bool is_delivery; /* the question came while an exception or interrupt was delivered, which is pending again */
    uint64_t denied_rip;
    uint64_t waits_for;      /* bit per listener: has not answered */
    uint64_t waits_for_room; /* has no room for what the vCPU has to tell, and must not lose it */
    bool is_awake;           /* looks for the answer itself, and is not to be woken */
    bool is_slow;            /* the last answer was not worth that */
    struct {
        struct watch_event event;
        uint64_t rip, number, time_ns;
    } asked;
    struct watch_reply reply; /* the strictest of those who answered so far */
    struct watch_grant grant[WATCH_GRANTS_MAX];
    struct watch_gift gift[WATCH_GIFTS_MAX];
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

enum watch_raised {
    WATCH_RAISED_TOLD,
    WATCH_RAISED_ASKED, /* somebody has to answer */
    WATCH_RAISED_FULL   /* nobody was told: the instruction starts again when there is room */
};

/* What introspect fills in. */
struct watch_ops {
    /* vCPU thread, state complete; general registers only. True: whoever wants it is told, and nobody has to answer. False: nothing was done. */
    bool (*tell)(struct vcpu *v, const struct watch_event *e);
    /*
     * vCPU thread, state complete, vm.watch.lock held: tells those who want it, and asks. Bits are in v->watch.waits_for, waits_for_room. Without may_ask
     * nobody is waited for.
     */
    enum watch_raised (*raise)(struct vcpu *v, const struct watch_event *e, bool may_ask);
    /* vCPU thread, v->watch.is_awake, no lock: looks for the answer for a while. */
    void (*await)(struct vcpu *v);
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

/* For what happens anyway, and waits for nobody. vCPU thread with all of the state saved, or its lock held. */
void watch_note(struct vcpu *v, const struct watch_event *e);

/* Whether the event can be answered so. */
bool watch_can_answer(const struct watch_event *e, const struct watch_reply *r);
/* vm.watch.lock held: the answer of those in `mask`. The last one's lets the vCPU go on. An injection was made before (core/inject.h). */
void watch_answer(struct vcpu *v, uint64_t mask, const struct watch_reply *reply);

/* What was given for this event of the instruction at work, or NULL. */
const struct watch_reply *watch_gift_find(const struct vcpu *v, uint32_t kind, uint32_t index);

/* vm.watch.lock held: those in `mask` have room again, or need none. */
void watch_room(struct vcpu *v, uint64_t mask);

/* Without an answer now, should the same be asked again before the instruction is over. General registers only. */
void watch_grant_add(struct watch_vcpu *w, const struct watch_event *e, uint64_t rip, bool is_dropped);

/* The instruction is over, or another one begins: what was granted is used up. vCPU thread, or v->lock held. */
static inline void watch_forget(struct watch_vcpu *w)
{
    w->n_grants = w->n_gifts = 0;
    w->is_denied = w->is_delivery = false;
}

#endif
