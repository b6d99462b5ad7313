/* SPDX-License-Identifier: MIT */
/*
 * Life and reset of a vCPU, and its interrupt inputs as engines see them: chips if there are any, else what the client injected.
 * vm->lock guards creation; the rest belongs to the vCPU's thread or the holder of its lock. Sleeping and kicking are in vcpu_block.c.
 */
#include "core/vcpu.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/host.h"
#include "base/memfd.h"
#include "core/cpuid.h"
#include "core/time.h"
#include "core/vm.h"
#include "core/vm_priv.h"

static bool is_boot_cpu(const struct vcpu *v)
{
    return v->id == v->vm->boot_cpu_id;
}

static void init_locks(struct vcpu *v)
{
    pthread_mutex_init(&v->lock, NULL);
    pthread_mutex_init(&v->hold.mutex, NULL);
    pthread_cond_init(&v->hold.done, NULL);
}

static void destroy_locks(struct vcpu *v)
{
    pthread_cond_destroy(&v->hold.done);
    pthread_mutex_destroy(&v->hold.mutex);
    pthread_mutex_destroy(&v->lock);
}

static int init_vcpu(struct vcpu *v)
{
    struct vm *vm = v->vm;
    v->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (v->wake_fd < 0)
        return -errno;
    int error = vm->engine->vcpu_init ? vm->engine->vcpu_init(v) : 0;
    if (!error) {
        vcpu_reset(v, false);
        atomic_store(&v->mp_state, !vm_has_lapics(vm) || is_boot_cpu(v) ? MP_RUNNABLE : MP_UNINITIALIZED);
        if (vm_has_lapics(vm))
            error = vm->chip->lapic_create(v);
        if (error && vm->engine->vcpu_fini)
            vm->engine->vcpu_fini(v);
    }
    if (error)
        close(v->wake_fd);
    return error;
}

int vcpu_create(struct vm *vm, uint32_t id, struct vcpu **out)
{
    if (id >= VM_VCPU_IDS)
        return -EINVAL;
    pthread_mutex_lock(&vm->lock);
    int error = vm->vcpu[id] ? -EEXIST : 0;
    struct vcpu *v = NULL;
    if (!error) {
        size_t bytes = page_round_up(vm->engine->vcpu_bytes);
        v = aligned_alloc(PAGE_BYTES, bytes);
        if (v)
            memset(v, 0, bytes);
        else
            error = -ENOMEM;
    }
    if (!error) {
        v->vm = vm;
        v->id = id;
        v->stat = v->own_stat;
        v->tsc_khz = vm->tsc_khz;
        v->signal_fd = -1;
        init_locks(v);
        error = init_vcpu(v);
        if (error) {
            destroy_locks(v);
            free(v);
        }
    }
    if (!error) {
        vm_get(vm);
        __atomic_store_n(&vm->vcpu[id], v, __ATOMIC_RELEASE);
        if (id >= atomic_load(&vm->n_vcpus))
            atomic_store(&vm->n_vcpus, id + 1);
        *out = v;
    }
    pthread_mutex_unlock(&vm->lock);
    return error;
}

void vcpu_destroy(struct vcpu *v)
{
    vm_put(v->vm);
}

void vcpu_free(struct vcpu *v)
{
    struct vm *vm = v->vm;
    if (v->lapic || v->pvclock || v->hv)
        vm->chip->lapic_destroy(v);
    if (vm->engine->vcpu_fini)
        vm->engine->vcpu_fini(v);
    close(v->wake_fd);
    if (v->signal_fd >= 0)
        close(v->signal_fd);
    destroy_locks(v);
    free(v);
}

void vcpu_queue_exception(struct vcpu *v, uint8_t vector)
{
    v->ev.exception.pending = true;
    v->ev.exception.vector = vector;
    v->ev.exception.has_code = v->ev.exception.has_payload = v->ev.exception.injected = false;
    vcpu_request(v, VREQ_EVENT);
}

void vcpu_leave_instruction(struct vcpu *v)
{
    v->replay.n = v->replay.next = 0;
    v->replay.io_done = v->replay.msr_done = false;
    pthread_mutex_lock(&v->vm->watch.lock); /* a question may be open, and answered just now */
    watch_forget(&v->watch);
    pthread_mutex_unlock(&v->vm->watch.lock);
    v->ev.exception.pending = v->watch.has_injected_exception = false;
}

static void reset_segments(struct cpu_state *c)
{
    const struct segment data = { .limit = 0xffff, .type = 3, .present = 1, .s = 1 };
    for (int i = 0; i < SEG_COUNT; i++)
        c->seg[i] = data;
    c->seg[SEG_CS] = (struct segment){ .base = 0xffff0000, .limit = 0xffff, .selector = 0xf000, .type = 0xb, .present = 1, .s = 1 };
    c->ldtr = (struct segment){ .limit = 0xffff, .type = 2, .present = 1 };
    c->tr = (struct segment){ .limit = 0xffff, .type = 0xb, .present = 1 };
    c->gdtr = c->idtr = (struct desc_table){ .limit = 0xffff };
}

/* What RESET sets and INIT leaves alone. The FPU is as after FNINIT, which is what KVM gives, not 0x40 as the manual says of power-up. */
static void reset_power_up(struct vcpu *v)
{
    struct cpu_state *c = &v->cpu;
    memset(c->xsave, 0, sizeof c->xsave);
    const uint16_t fcw = 0x37f;
    const uint32_t mxcsr = 0x1f80, mxcsr_mask = 0xffff;
    const uint64_t xstate_bv = XCR0_X87 | XCR0_SSE;
    memcpy(c->xsave, &fcw, sizeof fcw);
    memcpy(c->xsave + 24, &mxcsr, sizeof mxcsr);
    memcpy(c->xsave + 28, &mxcsr_mask, sizeof mxcsr_mask);
    memcpy(c->xsave + 512, &xstate_bv, sizeof xstate_bv);
    c->xcr0 = XCR0_X87;
    c->apic_base = 0xfee00000 | APIC_BASE_ENABLE | (is_boot_cpu(v) ? APIC_BASE_BSP : 0);
    msr_reset(v);
    vcpu_reset_tsc(v);
}

static void reset_events(struct vcpu *v)
{
    memset(&v->ev.exception, 0, sizeof v->ev.exception);
    memset(&v->ev.interrupt, 0, sizeof v->ev.interrupt);
    atomic_store(&v->ev.nmi_pending, 0);
    atomic_store(&v->ev.smi_pending, false);
    v->replay.n = v->replay.next = 0;
    v->replay.io_done = false;
    watch_forget(&v->watch);
    v->watch.has_injected_exception = v->watch.has_injected_irq = v->watch.has_injected_nmi = false;
    v->posted.n = v->posted.next = 0;
}

void vcpu_reset(struct vcpu *v, bool is_init)
{
    struct cpu_state *c = &v->cpu;
    uint64_t kept_cr0 = is_init ? c->cr0 & (CR0_CD | CR0_NW) : CR0_CD | CR0_NW;
    uint32_t signature[4] = { 0x600 };
    for (unsigned i = 0; i < v->n_cpuid; i++) {
        if (v->cpuid[i].function == 1)
            signature[0] = v->cpuid[i].eax;
    }
    memset(c->gpr, 0, sizeof c->gpr);
    c->gpr[GPR_RDX] = signature[0];
    c->rip = 0xfff0;
    c->rflags = RFLAGS_RES1;
    reset_segments(c);
    c->cr0 = CR0_ET | kept_cr0;
    c->cr2 = c->cr3 = c->cr4 = c->efer = c->cr8 = 0;
    memset(c->dr, 0, sizeof c->dr);
    c->dr6 = DR6_FIXED_1;
    c->dr7 = DR7_FIXED_1;
    memset(c->pdpte, 0, sizeof c->pdpte);
    c->interrupt_shadow = 0;
    c->nmi_masked = c->in_smm = c->smm_inside_nmi = false;
    c->smi_count = 0;
    reset_events(v);
    if (!is_init)
        reset_power_up(v);
    if (v->lapic)
        v->vm->chip->lapic_reset(v, is_init);
}

#define CR4_ALWAYS (CR4_VME | CR4_PVI | CR4_TSD | CR4_DE | CR4_PSE | CR4_PAE | CR4_MCE | CR4_PGE | CR4_PCE | CR4_OSFXSR | CR4_OSXMMEXCPT)

uint64_t vcpu_cr4_allowed(const struct vcpu *v)
{
    static const struct {
        uint32_t bit, leaf;
        uint8_t reg, shift;
    } needs[] = {
        { CR4_UMIP, 7, 2, 2 },     { CR4_LA57, 7, 2, 16 }, { CR4_FSGSBASE, 7, 1, 0 }, { CR4_PCIDE, 1, 2, 17 },
        { CR4_OSXSAVE, 1, 2, 26 }, { CR4_SMEP, 7, 1, 7 },  { CR4_SMAP, 7, 1, 20 },    { CR4_PKE, 7, 2, 3 },
    };
    uint64_t allowed = CR4_ALWAYS;
    for (unsigned i = 0; i < sizeof(needs) / sizeof(needs[0]); i++)
        if (vcpu_cpuid_has(v, needs[i].leaf, 0, needs[i].reg, needs[i].shift))
            allowed |= needs[i].bit;
    return allowed;
}

void vcpu_start_at(struct vcpu *v, uint8_t vector)
{
    struct segment *cs = &v->cpu.seg[SEG_CS];
    cs->selector = (uint16_t)(vector << 8);
    cs->base = (uint64_t)vector << 12;
    v->cpu.rip = 0;
}

/* An interrupt queued by KVM_INTERRUPT, or restored in mid-delivery, was acknowledged already: it comes before what the chips have. */
int vcpu_irq_peek(struct vcpu *v)
{
    if (v->ev.interrupt.injected)
        return v->ev.interrupt.vector;
    return v->lapic ? v->vm->chip->irq_peek(v) : -1;
}

bool vcpu_takes_client_irq(struct vcpu *v)
{
    if (v->ev.interrupt.injected)
        return false;
    if (!v->lapic)
        return true;
    return v->vm->has_split_irqchip && !v->ev.extint.pending && v->vm->chip->lapic_takes_pic(v);
}

int vcpu_irq_take(struct vcpu *v)
{
    if (v->ev.interrupt.injected) {
        v->ev.interrupt.injected = false;
        return v->ev.interrupt.vector;
    }
    return v->lapic ? v->vm->chip->irq_take(v) : -1;
}

uint64_t vcpu_cr8_get(struct vcpu *v)
{
    return v->lapic ? v->vm->chip->cr8_get(v) : v->cpu.cr8;
}

void vcpu_cr8_set(struct vcpu *v, uint64_t cr8)
{
    if (v->lapic)
        v->vm->chip->cr8_set(v, cr8);
    else
        v->cpu.cr8 = cr8 & 15;
}

/* SDM vol. 3A, "Control Registers" and "Initializing IA-32e Mode". */
bool vcpu_can_be(const struct vcpu *v, uint64_t cr0, uint64_t cr3, uint64_t cr4, uint64_t efer, bool is_cs_long)
{
    bool is_long = (efer & EFER_LME) && (cr0 & CR0_PG);
    if (is_long && (!(cr4 & CR4_PAE) || !(efer & EFER_LMA) || cr3 >> host_facts()->phys_bits))
        return false;
    if (!is_long && ((efer & EFER_LMA) || is_cs_long))
        return false;
    if (cr0 >> 32 || ((cr0 & CR0_PG) && !(cr0 & CR0_PE)) || ((cr0 & CR0_NW) && !(cr0 & CR0_CD)))
        return false;
    return !(cr4 & ~vcpu_cr4_allowed(v));
}

void vcpu_load_pdptes(struct vcpu *v)
{
    uint64_t pdpte[4];
    if (vcpu_is_pae_paging(v) && !vm_space_read(v->vm, vcpu_space(v), v->cpu.cr3 & 0xffffffe0u, pdpte, sizeof pdpte))
        memcpy(v->cpu.pdpte, pdpte, sizeof pdpte);
}
