/* SPDX-License-Identifier: MIT */
/*
 * Where the engine asks those who watch the VM (core/watch.h). A helper that gets anything but STEP_NEXT returns it: the instruction starts again later. Called
 * on the vCPU's thread, no lock.
 */
#include "core/view.h"

#include "engine/soft/code.h"

static enum watch_verdict ask(struct soft_vcpu *sv, struct watch_event *e)
{
    enum watch_verdict verdict = watch_tell(&sv->v, e);
    if (verdict != WATCH_UNDECIDED)
        return verdict;
    fp_put(sv);
    return watch_ask(&sv->v, e);
}

static bool must_wait(struct soft_vcpu *sv, struct watch_event *e)
{
    sv->v.watch.is_delivery = false; /* else watch_put_back says so */
    return ask(sv, e) == WATCH_WAIT;
}

enum step watch_insn_ask(struct soft_vcpu *sv, struct watch_event *e)
{
    if (!must_wait(sv, e))
        return STEP_NEXT;
    sv->v.exit.kind = EXIT_WATCH;
    return STEP_EXIT;
}

enum step watch_access_ask(struct soft_vcpu *sv, gva_t gva, gpa_t gpa, unsigned bytes, unsigned access)
{
    struct watch_event e = { .kind = WATCH_ACCESS, .index = view_of(&sv->v), .access = access, .bytes = bytes, .gva = gva, .gpa = gpa };
    if (!must_wait(sv, &e))
        return STEP_NEXT;
    sv->fault = (struct fault){ .vector = FAULT_WATCH };
    return STEP_FAULT;
}

enum step watch_delivery_ask(struct soft_vcpu *sv, enum event_kind kind, const struct fault *f)
{
    bool is_exception = kind == EVENT_EXCEPTION;
    struct watch_event e = { .kind = is_exception ? WATCH_EXCEPTION : WATCH_INTERRUPT, .index = f->vector };
    if (!watch_is_on(sv, e.kind))
        return STEP_JUMP;
    if (is_exception) {
        e.old_value = f->code;
        e.value = f->addr;
    }
    switch (ask(sv, &e)) {
    case WATCH_GO:
        return STEP_JUMP;
    case WATCH_GO_DROPPED:
        watch_forget(&sv->v.watch);
        return STEP_NEXT;
    default:
        sv->fault = (struct fault){ .vector = FAULT_WATCH };
        return STEP_FAULT;
    }
}

void watch_put_back(struct soft_vcpu *sv, enum event_kind kind, const struct fault *f)
{
    struct vcpu_events *ev = &sv->v.ev;
    if (kind == EVENT_EXTERNAL) {
        ev->interrupt.injected = true;
        ev->interrupt.soft = false;
        ev->interrupt.vector = f->vector;
    } else if (kind == EVENT_NMI) {
        atomic_fetch_add(&ev->nmi_pending, 1);
    } else {
        ev->exception.pending = ev->exception.has_payload = true;
        ev->exception.has_code = f->has_code;
        ev->exception.injected = false;
        ev->exception.vector = f->vector;
        ev->exception.code = f->code;
        ev->exception.payload = f->addr;
    }
    sv->v.watch.is_delivery = true;
    atomic_store(&sv->v.exit_req, 1);
}

bool watch_table_has_page(const struct watch_table *t, gpa_t gpa, unsigned access)
{
    gpa_t first = gpa & ~PAGE_OFFSET_MASK, last = gpa | PAGE_OFFSET_MASK;
    if (access & ACCESS_FETCH)
        return watch_ranges_meet(&t->of[2], first, last);
    return watch_ranges_meet(&t->of[0], first, last) || ((access & ACCESS_WRITE) && watch_ranges_meet(&t->of[1], first, last));
}
