/* SPDX-License-Identifier: MIT */
/*
 * Moves of the guest's vector state. fp_put is declared in soft_priv.h, for everybody in this folder.
 */
#ifndef VITRINE_ENGINE_SOFT_FP_H
#define VITRINE_ENGINE_SOFT_FP_H

#include "engine/soft/soft_priv.h"

void fp_init(void);
void fp_get(struct soft_vcpu *sv);         /* loads the state if it is not in the hardware */
void fp_note_client(struct soft_vcpu *sv); /* remembers the calling thread's control words, for fp_put */

#endif
