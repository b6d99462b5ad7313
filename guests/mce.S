/* SPDX-License-Identifier: MIT */
/*
 * Firmware of 64 KiB that waits for a machine check and tells of it on the first serial port: MCG_STATUS, then STATUS, ADDR and MISC of bank 9, in hexadecimal.
 * Starts at the reset vector, in real mode; needs memory below 32 KiB.
 */
    .set BANK, 9
    .code16
    .globl _start
_start:
    xor %ax, %ax
    mov %ax, %ds
    mov %ax, %ss
    mov $0x7000, %sp
    movw $(handler - _start), 18 * 4
    movw $0xf000, 18 * 4 + 2
    mov %cr4, %eax
    or $0x40, %eax
    mov %eax, %cr4
    mov $(ready - _start), %si
    call say
1:  jmp 1b

handler:
    mov $(begin - _start), %si
    call say
    mov $0x17a, %ecx
    call register
    mov $(0x400 + 4 * BANK + 1), %ecx
    call register
    inc %ecx
    call register
    inc %ecx
    call register
    mov $(end - _start), %si
    call say
2:  hlt
    jmp 2b

/* A space and the MSR ECX. */
register:
    mov $' ', %al
    call put
    rdmsr
    push %eax
    mov %edx, %eax
    call hex
    pop %eax
hex:
    push %ecx
    mov $8, %cx
3:  rol $4, %eax
    push %ax
    and $15, %al
    cmp $10, %al
    sbb $0x69, %al
    das
    call put
    pop %ax
    loop 3b
    pop %ecx
    ret

/* The text at CS:SI, up to 0. */
say:
    cs lodsb
    test %al, %al
    jz 4f
    call put
    jmp say
4:  ret

put:
    push %dx
    push %ax
    mov $0x3fd, %dx
5:  in %dx, %al
    test $0x20, %al
    jz 5b
    pop %ax
    mov $0x3f8, %dx
    out %al, %dx
    pop %dx
    ret

ready: .asciz "mce: ready\n"
begin: .asciz "mce:"
end: .asciz "\n"

    .org 0xfff0
    .byte 0xea /* ljmp */
    .word 0, 0xf000
    .org 0x10000

    .section .note.GNU-stack, "", @progbits
