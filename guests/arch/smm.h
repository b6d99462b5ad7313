/* SPDX-License-Identifier: MIT */
/*
 * System management mode in the 64-bit guests: the handler's commands and what it leaves. Used by assembly too.
 */
#ifndef VITRINE_GUESTS_SMM_H
#define VITRINE_GUESTS_SMM_H

#define SMBASE_OF(cpu) (0x40000 + ((cpu) << 13)) /* save areas of some CPUs lie between the handlers of others, as firmware packs them */
#define SMI_COUNT 0
#define SMI_RELOCATE 1 /* to SMBASE_OF(its APIC id) */
#define SMI_RESUME 2   /* at smi_resume with RAX = SMI_RAX; once */
#define SMI_HIDDEN 3   /* increments the word at SMI_HIDDEN_AT and copies it to smi_seen */
#define SMI_RAX 0x5a5a
#define SMI_HIDDEN_AT 0x2000000 /* memory that only system management mode sees: behind the 32 MiB of RAM */

#ifndef __ASSEMBLER__
#include "arch64.h"

extern volatile u32 smi_command, smi_count[CPUS_MAX], smi_seen;
extern volatile u16 smi_cs[CPUS_MAX];
extern volatile u64 smi_resume;

/* False: the machine has no handler of its own to replace, so SMIs would not come to ours. */
bool smm_is_there(void);
/* Handlers at the reset SMBASE and at all SMBASE_OF(). */
void smm_prepare(void);
#endif
#endif
