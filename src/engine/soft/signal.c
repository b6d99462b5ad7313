/* SPDX-License-Identifier: MIT */
/*
 * Hardware faults in translated code become the guest's: the signal handler finds the guest instruction by the block's fault map, stores the registers and
 * resumes at the way out of translated code. A fault on memory that the client took away while its slot stands ends the run, from translated code and from C in
 * guest mode, where no lock is held. All other signals go on to the client's own action, whenever that was set (base/signals.h).
 */
#include <errno.h>
#include <signal.h>
#include <stddef.h>
#include <sys/mman.h>
#include <ucontext.h>

#include "base/guard.h"
#include "base/signals.h"
#include "engine/soft/code.h"

static const int signals[] = { SIGSEGV, SIGBUS, SIGFPE, SIGILL };
static pthread_once_t signal_once = PTHREAD_ONCE_INIT;
static int signal_error;

/* Host register numbers in encoding order to ucontext's. */
static const uint8_t greg_of[16] = { REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                                     REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15 };

static void store_registers(struct soft_vcpu *sv, const greg_t *g, bool is_saved)
{
    for (unsigned r = 0; r < GPR_COUNT; r++)
        if (host_of(r) != HOST_IN_MEMORY)
            sv->v.cpu.gpr[r] = (uint64_t)g[greg_of[host_of(r)]];
    if (!is_saved) {
        uint64_t f = (uint64_t)g[REG_EFL];
        sv->saved_flags = (uint32_t)(f & 0xd5) << 8 | (f & RFLAGS_OF ? 1 : 0);
    }
}

/* The fault_entry at or before the host address. */
static const struct fault_entry *entry_at(const struct block *b, uint32_t offset)
{
    unsigned lo = 0, hi = b->n_faults;
    while (lo < hi) {
        unsigned mid = (lo + hi) / 2;
        if (b->fault_map[mid].host <= offset)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo ? &b->fault_map[lo - 1] : NULL;
}

static bool fault_of(struct soft_vcpu *sv, const greg_t *g)
{
    unsigned trap = (unsigned)g[REG_TRAPNO];
    struct fault f = { .vector = (uint8_t)trap };
    switch (trap) {
    case VEC_DE:
    case VEC_UD:
    case VEC_MF:
        break;
    case VEC_XM:
        f.vector = sv->v.cpu.cr4 & CR4_OSXMMEXCPT ? VEC_XM : VEC_UD;
        break;
    case VEC_GP:
    case VEC_SS:
    case VEC_AC:
        f.has_code = true;
        f.vector = trap == VEC_SS ? VEC_GP : (uint8_t)trap;
        break;
    default:
        return false;
    }
    sv->fault = f;
    return true;
}

/* True if the address is slot memory that cannot be reached: v->exit says so. */
static bool memory_fault_of(struct soft_vcpu *sv, const greg_t *g, const void *address)
{
    if (g[REG_TRAPNO] != VEC_PF || !atomic_load(&sv->in_guest_mode))
        return false;
    const struct memslots *t = slots_seen(sv);
    for (unsigned i = 0; i < t->n; i++) {
        uint64_t offset = (uint64_t)((hva_t)address - t->slot[i].hva);
        if (offset >= t->slot[i].bytes)
            continue;
        sv->v.exit.kind = EXIT_MEMORY_FAULT;
        sv->v.exit.memory_fault.gpa = (t->slot[i].gpa + offset) & ~PAGE_OFFSET_MASK;
        sv->v.exit.memory_fault.bytes = PAGE_BYTES;
        sv->fault = (struct fault){ .vector = FAULT_MEMORY };
        return true;
    }
    return false;
}

/* A tool's page whose file was made shorter, by a process that is nothing to the client: it is a page of zeroes from now on, and the access starts again. */
static bool mend_tools_page(struct soft_vcpu *sv, const greg_t *g, const void *address)
{
    if (g[REG_TRAPNO] != VEC_PF || !atomic_load(&sv->in_guest_mode))
        return false;
    const struct memslots *t = slots_seen(sv);
    for (unsigned i = 0; i < t->n; i++) {
        const struct memslot *s = &t->slot[i];
        if (memslot_is_tools(s) && (uint64_t)((hva_t)address - s->hva) < s->bytes)
            return mmap(s->hva, s->bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != MAP_FAILED;
    }
    return false;
}

/* Vanished memory met by C: the way out of translated code if that called us, else run_unwind. By the context, so that the guest's vectors come back too. */
static bool take_from_c(struct soft_vcpu *sv, greg_t *g)
{
    if (sv->leave_reason == LEAVE_FILL) {
        sv->leave_reason = LEAVE_FAULT;
        g[REG_RIP] = (greg_t)(uintptr_t)soft_vm_of(sv)->stubs.fault;
        return true;
    }
    g[REG_RSP] = ((g[REG_RSP] - 128) & ~15ll) - 8; /* below the red zone, as after a call */
    g[REG_RDI] = (greg_t)(uintptr_t)sv;
    g[REG_RIP] = (greg_t)(uintptr_t)run_unwind;
    return true;
}

/* True if the fault was the guest's: the context now resumes outside of translated code. */
static bool take(struct soft_vcpu *sv, ucontext_t *uc, const void *address)
{
    greg_t *g = uc->uc_mcontext.gregs;
    struct soft_vm *svm = soft_vm_of(sv);
    const uint8_t *pc = (const uint8_t *)(uintptr_t)g[REG_RIP];
    bool is_memory = memory_fault_of(sv, g, address);
    if (pc < svm->cache_rx || pc >= svm->cache_rx + svm->cache_bytes)
        return is_memory && take_from_c(sv, g);
    if (!is_memory && !fault_of(sv, g))
        return false;
    const struct block *b = cache_block_at(svm, pc);
    bool is_saved = false;
    if (b) {
        const struct fault_entry *e = entry_at(b, (uint32_t)(pc - svm->cache.to_exec - b->start));
        if (!e)
            return false;
        is_saved = e->is_saved;
        sv->v.cpu.rip = b->gva - b->cs_base + e->guest;
    } /* else a bounced instruction, at rip already */
    store_registers(sv, g, is_saved);
    sv->leave_reason = LEAVE_FAULT;
    g[REG_RIP] = (greg_t)(uintptr_t)svm->stubs.fault;
    return true;
}

static _Thread_local struct soft_vcpu *current __attribute__((tls_model("initial-exec")));

void signal_set_vcpu(struct soft_vcpu *sv)
{
    current = sv;
}

static void handle(int sig, siginfo_t *info, void *context)
{
    int saved_errno = errno;
    bool is_raised = info->si_code > 0; /* else somebody sent it, and the trap number is an old one's */
    if (!is_raised || !(guard_recover(context) || (current && (mend_tools_page(current, ((ucontext_t *)context)->uc_mcontext.gregs, info->si_addr) ||
                                                               take(current, context, info->si_addr)))))
        signals_deliver(sig, info, context);
    errno = saved_errno;
}

static void install(void)
{
    for (unsigned i = 0; i < sizeof signals / sizeof signals[0] && !signal_error; i++)
        signal_error = signals_claim(signals[i], handle);
}

int signal_init(void)
{
    pthread_once(&signal_once, install);
    return signal_error;
}
