/* SPDX-License-Identifier: MIT */
/*
 * The XSAVE area of a vCPU as fronts show and take it: the host's standard format. cpu.xsave leaves bytes stale where XSTATE_BV says that a component has its
 * initial value; these do not. vcpu.lock is held, or the vCPU stands still (core/hold.h).
 */
#ifndef VITRINE_CORE_XSAVE_H
#define VITRINE_CORE_XSAVE_H

#include "core/vcpu.h"

/* Offsets (SDM vol. 1, "XSAVE Area"). */
#define XS_FCW 0
#define XS_FSW 2
#define XS_FTW 4
#define XS_FOP 6
#define XS_FIP 8
#define XS_FDP 16
#define XS_MXCSR 24
#define XS_ST 32
#define XS_XMM 160
#define XS_LEGACY_USED 416
#define XS_BV 512
#define XS_XCOMP_BV 520
#define XS_EXTENDED 576
#define XS_MXCSR_MASK 0xffffu

/* Components in their initial state have that state's bytes, so that a reader need not look at XSTATE_BV. */
void vcpu_xsave_get(const struct vcpu *v, uint8_t out[XSAVE_AREA_BYTES]);
/* -EINVAL: a component that there is not, the compacted format, reserved bits. The caller tells the engine by state_changed. */
int vcpu_xsave_set(struct vcpu *v, const uint8_t in[XSAVE_AREA_BYTES]);

/*
 * The same in the compacted format, with room for the components of `states`, which the size is of. Setting takes any such area; -EINVAL as above, or if it is
 * not compacted.
 */
uint32_t xsave_compact_bytes(uint64_t states);
void vcpu_xsave_get_compact(const struct vcpu *v, uint64_t states, uint8_t out[XSAVE_AREA_BYTES]);
int vcpu_xsave_set_compact(struct vcpu *v, const uint8_t in[XSAVE_AREA_BYTES]);

/* Whether XSETBV would take it, and this machine has what it enables. */
bool vcpu_can_have_xcr0(uint64_t value);

#endif
