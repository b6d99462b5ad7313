/* SPDX-License-Identifier: MIT */
/*
 * See guard.h. One instruction does the access, so its address tells the fault apart from all others, with no state to set and to clear.
 */
#include "base/guard.h"

#include <errno.h>

_Static_assert(EFAULT == 14, "below");

extern const uint8_t guard_copy_insn[], guard_exchange_insn[], guard_failed[];

__asm__(".pushsection .text\n"
        ".globl guard_copy\n"
        ".type guard_copy, @function\n"
        "guard_copy:\n"
        "    mov %rdx, %rcx\n"
        "guard_copy_insn:\n"
        "    rep movsb\n"
        "    xor %eax, %eax\n"
        "    ret\n"
        ".size guard_copy, . - guard_copy\n"
        ".globl guard_exchange\n"
        ".type guard_exchange, @function\n"
        "guard_exchange:\n"
        "    movzbl %sil, %eax\n"
        "guard_exchange_insn:\n"
        "    xchg %al, (%rdi)\n"
        "    ret\n"
        "guard_failed:\n"
        "    mov $-14, %eax\n"
        "    ret\n"
        ".size guard_exchange, . - guard_exchange\n"
        ".popsection\n");

bool guard_recover(ucontext_t *uc)
{
    greg_t *rip = &uc->uc_mcontext.gregs[REG_RIP];
    if (*rip != (greg_t)(uintptr_t)guard_copy_insn && *rip != (greg_t)(uintptr_t)guard_exchange_insn)
        return false;
    *rip = (greg_t)(uintptr_t)guard_failed;
    return true;
}
