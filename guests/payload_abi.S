/* SPDX-License-Identifier: MIT */
/*
 * Real-mode payloads for the calls of today's ABI that conform_today_abi.c and its neighbours judge; entered as those of payload_real.S.
 */
#include "payload.inc"

    .section .rodata
    .code16

/*
 * RDMSR of the index at 0x2000 into 0x2010, WRMSR of 0x2020 to the index at 0x2004. #GP, whose vector 13 it sets itself, is counted at 0x2030 and passes over the
 * instruction.
 */
BEGIN(msrs)
    movw $AT(1f, msrs), 0x34
    movw $0, 0x36
    mov 0x2000, %ecx
    rdmsr
    mov %eax, 0x2010
    mov %edx, 0x2014
    mov 0x2004, %ecx
    mov 0x2020, %eax
    mov 0x2024, %edx
    wrmsr
    hlt
1:  incw 0x2030
    push %bp
    mov %sp, %bp
    addw $2, 2(%bp)
    pop %bp
    iret
END(msrs)

/* Writes to as many pages as 0x2002 says, one after the other, from the segment at 0x2000 on. */
BEGIN(pages)
    mov 0x2000, %ax
    mov 0x2002, %cx
1:  mov %ax, %es
    incb %es:0x10
    add $0x100, %ax
    loop 1b
    hlt
END(pages)

/* Writes to as many pages as 0x2002 says, from the segment at 0x2000 on, over and over until the byte at 0x2004 is not 0. */
BEGIN(churn)
1:  mov 0x2000, %ax
    mov 0x2002, %cx
2:  mov %ax, %es
    incl %es:0x10
    add $0x100, %ax
    loop 2b
    cmpb $0, 0x2004
    je 1b
    hlt
END(churn)

/*
 * Waits at OUT 0x10. Its #MC handler copies MCG_STATUS and the four registers of bank 2 to 0x2000, clears both status registers, and leaves by HLT.
 */
BEGIN(mce)
    out %al, $0x10
    jmp payload_mce
.macro mce_read index, to
    mov $\index, %ecx
    rdmsr
    mov %eax, \to
    mov %edx, \to + 4
.endm
    .globl payload_mce_handler
payload_mce_handler:
    mce_read 0x17a, 0x2000
    mce_read 0x408, 0x2008
    mce_read 0x409, 0x2010
    mce_read 0x40a, 0x2018
    mce_read 0x40b, 0x2020
    xor %eax, %eax
    xor %edx, %edx
    mov $0x409, %ecx
    wrmsr
    mov $0x17a, %ecx
    wrmsr
    hlt
END(mce)

    .section .note.GNU-stack, "", @progbits
