/* SPDX-License-Identifier: MIT */
/*
 * What a KVMI tool wants to be told, per vCPU, and the one subscription (introspect/listen.h) that follows from it. is_wanted runs on the vCPU's thread,
 * so what is not wanted wakes nobody. The session's thread changes wants; order does not matter to the vCPU, since a command is answered after its change.
 */
#include "core/hold.h"
#include "front/kvmi/kvmi_priv.h"

#define HYPERCALL_XEN_HVM_OP 34
#define HYPERCALL_GUEST_REQUEST 24

#define MSRS_SYNTHETIC 0x40000000u

#define BIT(event) (1u << KVMI_EVENT_##event)
#define CONTROLLED (BIT(CR) | BIT(MSR) | BIT(XSETBV) | BIT(BREAKPOINT) | BIT(HYPERCALL) | BIT(PF) | BIT(TRAP) | BIT(DESCRIPTOR) | BIT(SINGLESTEP) | BIT(CPUID))

/* ---- on the vCPU's thread ---- */

static bool is_call_of_agent(const struct vcpu *v, const struct watch_event *e)
{
    const uint64_t *gpr = v->cpu.gpr;
    if (e->index != HYPERCALL_XEN_HVM_OP)
        return false;
    if ((v->cpu.efer & EFER_LMA) && v->cpu.seg[SEG_CS].l)
        return gpr[GPR_RDI] == HYPERCALL_GUEST_REQUEST && !gpr[GPR_RSI];
    return (uint32_t)gpr[GPR_RBX] == HYPERCALL_GUEST_REQUEST && !(uint32_t)gpr[GPR_RCX];
}

/* Bit 63 of MOV to CR3 says how the TLB is to be flushed. */
static bool is_change(const struct watch_event *e)
{
    return e->index == 3 ? (e->value ^ e->old_value) << 1 : e->value != e->old_value;
}

static _Atomic uint32_t *msr_word(struct kvmi_wants *w, uint32_t msr)
{
    if (msr < KVMI_MSRS_OF_RANGE)
        return &w->msr[0][msr / 32];
    if (msr - 0xc0000000u < KVMI_MSRS_OF_RANGE)
        return &w->msr[1][(msr - 0xc0000000u) / 32];
    return msr - MSRS_SYNTHETIC < KVMI_MSRS_OF_RANGE ? &w->msr[2][(msr - MSRS_SYNTHETIC) / 32] : NULL;
}

/* The one that stands where stepping began has not been stepped; an interrupt that comes first takes its place. */
static bool is_step_over(struct kvmi_wants *w, uint64_t rip)
{
    bool is_over = !w->is_step_fresh || rip != w->step_rip;
    w->is_step_fresh = false;
    return is_over;
}

/* The vCPU stands still. */
static void begin_steps(struct vcpu *v, void *arg)
{
    struct kvmi_wants *w = arg;
    w->is_step_fresh = true;
    w->is_step_interrupted = false;
    w->step_rip = v->cpu.rip;
}

/* Told of the step that it begins with, and not executed since. */
static bool is_step_begun(const struct watch_vcpu *watch, uint64_t rip)
{
    for (unsigned i = 0; i < watch->n_grants; i++)
        if (watch->grant[i].event.kind == WATCH_STEP && watch->grant[i].rip == rip)
            return true;
    return false;
}

static void note_interrupt(struct kvmi_wants *w, const struct vcpu *v)
{
    if (!atomic_load(&w->is_stepped))
        return;
    w->is_step_interrupted = w->is_step_fresh || is_step_begun(&v->watch, v->cpu.rip);
    w->is_step_fresh = false;
}

static bool is_wanted(void *session, const struct vcpu *v, const struct watch_event *e)
{
    struct kvmi_session *s = session;
    struct kvmi_wants *w = &s->wants[v->id];
    uint32_t events = atomic_load(&w->events);
    const _Atomic uint32_t *word;
    switch (e->kind) {
    case WATCH_CR:
        return (events & BIT(CR)) && (atomic_load(&w->control_registers) >> e->index & 1) && is_change(e);
    case WATCH_MSR_WRITE:
        return (events & BIT(MSR)) && (word = msr_word(w, e->index)) && (atomic_load(word) >> e->index % 32 & 1) && e->value != e->old_value;
    case WATCH_XSETBV:
        return events & BIT(XSETBV);
    case WATCH_INT3:
        return events & BIT(BREAKPOINT);
    case WATCH_HYPERCALL:
        return (events & BIT(HYPERCALL)) && is_call_of_agent(v, e);
    case WATCH_TABLE:
        return events & BIT(DESCRIPTOR);
    case WATCH_CPUID:
        return events & BIT(CPUID);
    case WATCH_STEP:
        return atomic_load(&w->is_stepped) && is_step_over(w, v->cpu.rip) && (events & BIT(SINGLESTEP));
    case WATCH_INTERRUPT:
        note_interrupt(w, v);
        return false;
    case WATCH_INJECTED: /* by this tool, or whoever it was */
        return (atomic_exchange(&w->is_injected, false) || w->wants_all_traps) && (events & BIT(TRAP));
    case WATCH_EXCEPTION: /* an injected one was told as such */
        return w->wants_all_traps && (events & BIT(TRAP)) && !v->watch.has_injected_exception;
    case WATCH_VCPU:
        return e->index == WATCH_VCPU_CREATED && atomic_load(&s->wants_new_vcpus);
    default:
        return false;
    }
}

/* ---- the subscription ---- */

static bool is_stepping(const struct kvmi_wants *w)
{
    return (atomic_load(&w->events) & BIT(SINGLESTEP)) && atomic_load(&w->is_stepped);
}

static uint32_t kinds_of(const struct kvmi_wants *w)
{
    static const struct {
        uint32_t event, kind;
    } plain[] = { { BIT(XSETBV), WATCH_XSETBV }, { BIT(BREAKPOINT), WATCH_INT3 },  { BIT(HYPERCALL), WATCH_HYPERCALL },
                  { BIT(TRAP), WATCH_INJECTED }, { BIT(DESCRIPTOR), WATCH_TABLE }, { BIT(CPUID), WATCH_CPUID } };
    uint32_t events = atomic_load(&w->events), kinds = 0;
    for (unsigned i = 0; i < sizeof plain / sizeof *plain; i++)
        kinds |= events & plain[i].event ? plain[i].kind : 0;
    if ((events & BIT(CR)) && atomic_load(&w->control_registers))
        kinds |= WATCH_CR;
    if ((events & BIT(MSR)) && atomic_load(&w->n_msrs))
        kinds |= WATCH_MSR_WRITE;
    if (is_stepping(w))
        kinds |= WATCH_STEP | WATCH_INTERRUPT;
    if (w->wants_all_traps && (events & BIT(TRAP)))
        kinds |= WATCH_EXCEPTION;
    return kinds;
}

int kvmi_listen(struct kvmi_session *s, struct vm *vm)
{
    int r = s->listener ? 0 : look_listener_create(vm, &s->listener);
    return r == -EMFILE ? -ENOMEM : r;
}

static int subscribe(struct kvmi_session *s, struct vm *vm, uint32_t kinds)
{
    const struct look_filter f = { .kinds = kinds, .is_asking = true, .last_index = UINT32_MAX, .is_wanted = is_wanted, .context = s };
    int r = kvmi_listen(s, vm);
    if (!r)
        r = look_subscribe(s->listener, &f, NULL, 0);
    return r == -ENOSPC ? -ENOMEM : r;
}

/* The new one first: nothing is missed between the two. */
int kvmi_follow(struct kvmi_session *s, struct vm *vm)
{
    uint32_t kinds = atomic_load(&s->wants_new_vcpus) ? WATCH_VCPU : 0;
    for (unsigned i = 0; i < s->n_cpus; i++)
        kinds |= kinds_of(&s->wants[s->cpu[i].id]);
    if (kinds == s->kinds)
        return 0;
    int number = kinds ? subscribe(s, vm, kinds) : 0;
    if (number < 0)
        return number;
    if (s->kinds)
        look_unsubscribe(s->listener, s->subscription);
    s->kinds = kinds;
    s->subscription = (unsigned)number;
    return 0;
}

static struct kvmi_wants *wants_of(const struct kvmi_arg *a)
{
    return &a->session->wants[a->cpu->id];
}

/* Interrupts wait while a vCPU is stepped, else a slow tool would see the timer's handler and nothing else. */
static void set_quiet(struct kvmi_wants *w, struct vcpu *v, bool is_quiet)
{
    if (is_quiet && !w->is_quiet)
        hold_quiet(v);
    if (!is_quiet && w->is_quiet)
        hold_loud(v);
    w->is_quiet = is_quiet;
}

void kvmi_controls_end(struct kvmi_session *s, struct vm *vm)
{
    for (unsigned i = 0; i < s->n_cpus; i++)
        set_quiet(&s->wants[s->cpu[i].id], kvmi_vcpu_of(vm, &s->cpu[i]), false);
}

/* ---- what the tool says ---- */

int kvmi_control_event(struct kvmi_arg *a, enum kvmi_event_id event, bool enable)
{
    struct kvmi_wants *w = wants_of(a);
    if (event >= KVMI_EVENTS || !(CONTROLLED >> event & 1))
        return -EINVAL;
    if (!kvmi_allows_event(a->session, event))
        return -EPERM;
    uint32_t before = enable ? atomic_fetch_or(&w->events, 1u << event) : atomic_fetch_and(&w->events, ~(1u << event));
    int r = kvmi_follow(a->session, a->vm);
    if (r)
        atomic_store(&w->events, before);
    set_quiet(w, a->vcpu, is_stepping(w));
    return r;
}

int kvmi_control_vm_event(struct kvmi_arg *a, enum kvmi_event_id event, bool enable)
{
    struct kvmi_session *s = a->session;
    if (event != KVMI_EVENT_UNHOOK && event != KVMI_EVENT_CREATE_VCPU)
        return -EINVAL;
    if (!kvmi_allows_event(s, event))
        return -EPERM;
    if (event == KVMI_EVENT_UNHOOK) {
        s->wants_unhook = enable;
        return 0;
    }
    bool before = atomic_exchange(&s->wants_new_vcpus, enable);
    int r = kvmi_follow(s, a->vm);
    if (r)
        atomic_store(&s->wants_new_vcpus, before);
    return r;
}

int kvmi_control_register(struct kvmi_arg *a, uint32_t cr, bool enable)
{
    struct kvmi_wants *w = wants_of(a);
    if (cr != 0 && cr != 3 && cr != 4)
        return -EINVAL;
    uint32_t before = enable ? atomic_fetch_or(&w->control_registers, 1u << cr) : atomic_fetch_and(&w->control_registers, ~(1u << cr));
    int r = kvmi_follow(a->session, a->vm);
    if (r)
        atomic_store(&w->control_registers, before);
    return r;
}

static void msr_set(struct kvmi_wants *w, _Atomic uint32_t *word, uint32_t bit, bool enable)
{
    uint32_t before = enable ? atomic_fetch_or(word, bit) : atomic_fetch_and(word, ~bit);
    if (enable && !(before & bit))
        atomic_fetch_add(&w->n_msrs, 1);
    if (!enable && (before & bit))
        atomic_fetch_sub(&w->n_msrs, 1);
}

int kvmi_control_msr(struct kvmi_arg *a, uint32_t msr, bool enable)
{
    struct kvmi_wants *w = wants_of(a);
    _Atomic uint32_t *word = msr_word(w, msr);
    if (!word || (msr - MSRS_SYNTHETIC < KVMI_MSRS_OF_RANGE && !a->session->dialect->has_synthetic_msrs))
        return -EINVAL;
    bool was_enabled = atomic_load(word) >> msr % 32 & 1;
    msr_set(w, word, 1u << msr % 32, enable);
    int r = kvmi_follow(a->session, a->vm);
    if (r)
        msr_set(w, word, 1u << msr % 32, was_enabled);
    return r;
}

int kvmi_control_step(struct kvmi_arg *a, bool enable)
{
    struct kvmi_wants *w = wants_of(a);
    if (atomic_load(&w->is_stepped) == enable)
        return 0;
    atomic_store(&w->is_stepped, enable);
    int r = kvmi_follow(a->session, a->vm);
    if (r)
        atomic_store(&w->is_stepped, !enable);
    else if (enable)
        hold_call(a->vcpu, begin_steps, w);
    set_quiet(w, a->vcpu, is_stepping(w));
    return r;
}

bool kvmi_is_stepped(const struct kvmi_arg *a)
{
    return atomic_load(&wants_of(a)->is_stepped);
}
