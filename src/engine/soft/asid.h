/* SPDX-License-Identifier: MIT */
/*
 * Cached translations of address spaces other than the current one, by PCID. See asid.c.
 */
#ifndef VITRINE_ENGINE_SOFT_ASID_H
#define VITRINE_ENGINE_SOFT_ASID_H

#include "engine/soft/soft_priv.h"

int asid_init(struct soft_vcpu *sv); /* -ENOMEM */
void asid_fini(struct soft_vcpu *sv);
/* MOV CR3 with CR4.PCIDE set: flushes what is not global, puts the old space aside, brings back the new one if `keep` (bit 63 of the operand) allows. */
void asid_switch(struct soft_vcpu *sv, uint64_t old_cr3, uint64_t new_cr3, bool keep);
void asid_drop(struct soft_vcpu *sv, unsigned pcid); /* INVPCID of another PCID than the current one */
void asid_drop_all(struct soft_vcpu *sv);

#endif
