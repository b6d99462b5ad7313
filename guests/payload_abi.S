/* SPDX-License-Identifier: MIT */
/*
 * Real-mode payloads for the calls of today's ABI that conform_today_abi.c and its neighbours judge; entered as those of payload_real.S.
 */
#define BEGIN(name) .globl payload_##name; .balign 16; payload_##name:
#define END(name) .globl payload_##name##_end; payload_##name##_end:
#define AT(label, name) (0x1000 + label - payload_##name)

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

    .section .note.GNU-stack, "", @progbits
