/* SPDX-License-Identifier: MIT */
/*
 * The SMI handler of smm.c: 16-bit code, copied to SMBASE + 0x8000. Counts in smi_count[APIC id], notes its code segment, does what smi_command says. The state of
 * its CPU is at offset 0xfe00 of its own code segment, in AMD64's layout.
 */
#include "smm.h"

    .text
    .code16
    .globl smm_handler, smm_handler_end
smm_handler:
    mov $0xfee00020, %ebx
    mov (%ebx), %eax
    shr $24, %eax /* APIC id */
    mov $smi_cs, %ebx
    mov %cs, %dx
    mov %dx, (%ebx,%eax,2)
    mov $smi_command, %ebx
    mov (%ebx), %ecx
    cmp $SMI_RELOCATE, %ecx
    je 1f
    cmp $SMI_RESUME, %ecx
    je 2f
    cmp $SMI_HIDDEN, %ecx
    je 3f
9:  mov $smi_count, %ebx /* last: whoever waits for it goes on */
    lock incl (%ebx,%eax,4)
    rsm
1:  mov %eax, %edx
    shl $13, %edx
    add $SMBASE_OF(0), %edx
    mov %edx, %cs:0xff00
    jmp 9b
2:  movl $0, (%ebx)
    mov $smi_resume, %ebx
    mov (%ebx), %edx
    mov %edx, %cs:0xff78 /* RIP */
    movl $SMI_RAX, %cs:0xfff8
    jmp 9b
3:  mov $SMI_HIDDEN_AT, %ebx
    incl (%ebx)
    mov (%ebx), %edx
    mov $smi_seen, %ebx
    mov %edx, (%ebx)
    jmp 9b
smm_handler_end:

    .section .note.GNU-stack, "", @progbits
