/* SPDX-License-Identifier: MIT */
/*
 * The guest's x87/vector state as cpu.xsave holds it: the host's standard XSAVE format, written by the host's XSAVE64. A component whose XSTATE_BV bit is
 * clear is in its initial state whatever its bytes say. Only valid after fp_put(); the run loop loads it again. For helpers that read or change that state.
 */
#ifndef VITRINE_ENGINE_SOFT_HELP_FPU_H
#define VITRINE_ENGINE_SOFT_HELP_FPU_H

#include "engine/soft/help_misc.h"
#include "engine/soft/light.h"

#define FPU_COMPONENTS 20u
#define FPU_COMP_X87 0u
#define FPU_COMP_SSE 1u
#define FPU_COMP_AVX 2u
#define FPU_COMP_OPMASK 5u
#define FPU_COMP_ZMM_HI256 6u
#define FPU_COMP_HI16_ZMM 7u

#define FPU_FCW 0u
#define FPU_FSW 2u
#define FPU_FTW 4u
#define FPU_FOP 6u
#define FPU_FIP 8u
#define FPU_FDP 16u
#define FPU_MXCSR 24u
#define FPU_MXCSR_MASK 28u
#define FPU_ST 32u
#define FPU_XMM 160u
#define FPU_LEGACY_BYTES 512u
#define FPU_XSTATE_BV 512u
#define FPU_XCOMP_BV 520u
#define FPU_EXTENDED 576u
#define FPU_FCW_INIT 0x37fu
#define FPU_MXCSR_INIT 0x1f80u

/* Where the host's CPUID leaf 0xd puts a component in the standard format; bytes 0 if the host has none or it lies beyond cpu.xsave. */
struct fpu_component {
    uint16_t offset, bytes;
    bool is_aligned; /* to 64 bytes in the compacted format */
};
const struct fpu_component *fpu_component(unsigned component);

static inline uint64_t fpu_get(const struct soft_vcpu *sv, unsigned offset, unsigned bytes)
{
    uint64_t value = 0;
    light_copy(&value, &sv->v.cpu.xsave[offset], bytes);
    return value;
}

static inline void fpu_set(struct soft_vcpu *sv, unsigned offset, unsigned bytes, uint64_t value)
{
    light_copy(&sv->v.cpu.xsave[offset], &value, bytes);
}

static inline bool fpu_in_use(const struct soft_vcpu *sv, unsigned component)
{
    return fpu_get(sv, FPU_XSTATE_BV, 8) >> component & 1;
}

/* Gives the component's bytes their meaning: writes its initial values if it was in the initial state, and marks it in use. */
void fpu_materialise(struct soft_vcpu *sv, unsigned component);
/* Puts the component back into its initial state. MXCSR is not part of it: it has a meaning of its own. */
void fpu_make_initial(struct soft_vcpu *sv, unsigned component);

/* The image keeps registers in stack order: physical registers stay where they are, so the image turns when TOP changes. */
void fpu_turn_registers(struct soft_vcpu *sv, unsigned old_top, unsigned new_top);

/* After a load of FCW and FSW: fixed bits, and ES and B follow the exception bits and masks. */
void fpu_settle_control(struct soft_vcpu *sv);

/* MXCSR bits that may be set. */
uint32_t fpu_mxcsr_mask(const struct soft_vcpu *sv);

/*
 * A memory operand of many parts. Each part is an access of its own: where the address size ends inside the area, the processor goes on at offset 0 (measured;
 * the manual does not say).
 */
struct fpu_area {
    const struct insn *in;
    uint64_t ea;
    bool is_check;    /* tools are not asked: the CPU looks whether it is there, and reads or writes nothing */
    bool is_question; /* what would be written is asked for only */
};

/* Where the operand is; #GP if its linear address is not aligned to `align` bytes. */
enum step fpu_area_begin(struct soft_vcpu *sv, const struct insn *in, unsigned align, struct fpu_area *a);
enum step fpu_area_read(struct soft_vcpu *sv, const struct fpu_area *a, unsigned offset, void *to, unsigned bytes);
/* from NULL: only finds out whether the part can be written. All parts of a store are to be asked for before the first is written. */
enum step fpu_area_write(struct soft_vcpu *sv, const struct fpu_area *a, unsigned offset, const void *from, unsigned bytes);

/* Whether the part can be written; tools are not asked. */
enum step fpu_area_check(struct soft_vcpu *sv, struct fpu_area *a, unsigned offset, unsigned bytes);

/* #NM for x87, FXSAVE and MMX: EM or TS. STEP_NEXT if none. */
static inline enum step fpu_check_nm(struct soft_vcpu *sv)
{
    return sv->v.cpu.cr0 & (CR0_EM | CR0_TS) ? step_fault(sv, VEC_NM) : STEP_NEXT;
}

/* True if an unmasked x87 exception waits for the next waiting instruction. With CR0.NE clear it would be an external interrupt: not modelled. */
bool fpu_is_mf_pending(const struct soft_vcpu *sv);

#endif
