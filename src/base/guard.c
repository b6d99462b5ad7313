/* SPDX-License-Identifier: MIT */
/*
 * See guard.h. One instruction does the copy, so its address tells the fault apart from all others, with no state to set and to clear.
 */
#include "base/guard.h"

#include <errno.h>

_Static_assert(EFAULT == 14, "below");

extern const uint8_t guard_copy_insn[], guard_copy_failed[];

__asm__(".pushsection .text\n"
        ".globl guard_copy\n"
        ".type guard_copy, @function\n"
        "guard_copy:\n"
        "    mov %rdx, %rcx\n"
        "guard_copy_insn:\n"
        "    rep movsb\n"
        "    xor %eax, %eax\n"
        "    ret\n"
        "guard_copy_failed:\n"
        "    mov $-14, %eax\n"
        "    ret\n"
        ".size guard_copy, . - guard_copy\n"
        ".popsection\n");

bool guard_recover(ucontext_t *uc)
{
    greg_t *rip = &uc->uc_mcontext.gregs[REG_RIP];
    if (*rip != (greg_t)(uintptr_t)guard_copy_insn)
        return false;
    *rip = (greg_t)(uintptr_t)guard_copy_failed;
    return true;
}
