/* SPDX-License-Identifier: MIT */
/*
 * Real-mode payloads. Each stands between payload_NAME and payload_NAME_end, is copied to guest-physical 0x1000 and entered with CS 0, IP 0x1000; addresses inside
 * are therefore written as offset from its start plus 0x1000.
 */
#include "payload.inc"

    .section .rodata
    .code16

/* OUT of a sum, one byte and one word; then HLT. */
BEGIN(out)
    mov $0x3f8, %dx
    add %bl, %al
    out %al, %dx
    mov $0x1234, %ax
    out %ax, $0x80
    mov $0x89abcdef, %eax
    out %eax, %dx
    hlt
END(out)

/* IN of each size, summed into memory at 0x2000. */
BEGIN(in)
    mov $0x60, %dx
    in %dx, %al
    mov %al, 0x2000
    in %dx, %ax
    mov %ax, 0x2002
    in $0x61, %eax
    mov %eax, 0x2004
    hlt
END(in)

/* REP OUTSB of 5 bytes at 0x2000, REP INSW of 4 words to 0x2100. */
BEGIN(string_io)
    cld
    mov $0x2000, %si
    mov $5, %cx
    mov $0xe9, %dx
    rep outsb
    mov $0x2100, %di
    mov $4, %cx
    mov $0x1f0, %dx
    rep insw
    hlt
END(string_io)

/* DS is 0xd000: no memory there. Writes and reads of each size, a read-modify-write. */
BEGIN(mmio)
    movb $0x11, 0x10
    movw $0x2233, 0x12
    movl $0x44556677, 0x14
    mov 0x20, %al
    mov 0x22, %bx
    mov 0x24, %ecx
    incb 0x30
    hlt
END(mmio)

/* A read that lies half in memory (last two bytes below 0x80000) and half in the hole. */
BEGIN(mmio_split)
    mov $0x7800, %ax
    mov %ax, %ds
    mov 0x7ffe, %eax
    hlt
END(mmio_split)

/* Handler of vector 0x20 counts at 0x2000. Interrupts are off at first, then on: HLT waits. */
BEGIN(interrupt)
    movw $AT(1f, interrupt), 0x80
    movw $0, 0x82
    out %al, $0x10
    sti
    nop
    nop
    out %al, $0x11
2:  hlt
    jmp 2b
1:  incw 0x2000
    iret
END(interrupt)

/* With an IDT limit of 0 the first fault is a triple fault. */
BEGIN(triple)
    ud2
    hlt
END(triple)

/* Straight line for single step and breakpoints. */
BEGIN(steps)
    mov $1, %ax
    mov $2, %bx
    add %bx, %ax
    mov $3, %cx
    nop
    hlt
END(steps)

BEGIN(loop)
    jmp payload_loop
END(loop)

/* Counts in CX and at 0x500, for ever. */
BEGIN(count)
1:  inc %cx
    mov %cx, 0x500
    jmp 1b
END(count)

/* The same with a HLT after each count and interrupts on. */
BEGIN(count_halting)
    sti
1:  inc %cx
    mov %cx, 0x500
    hlt
    jmp 1b
END(count_halting)

/* Writes one byte in each of the pages whose numbers (page of 4 KiB) stand at 0x2000, until 0. */
BEGIN(touch)
    mov $0x2000, %si
1:  lodsw
    test %ax, %ax
    jz 2f
    shl $8, %ax
    mov %ax, %es
    movb $0x5a, %es:0
    jmp 1b
2:  hlt
END(touch)

/* Reads the byte at 0x9000:0 and writes one at 0x9000:1. */
BEGIN(alias)
    mov $0x9000, %ax
    mov %ax, %ds
    mov 0, %bl
    movb $0x77, 1
    hlt
END(alias)

/* The guest goes to 32-bit protected mode by itself, with its own GDT. */
BEGIN(to_protected)
    lgdtl AT(gdt_pointer, to_protected)
    mov %cr0, %eax
    or $1, %al
    mov %eax, %cr0
    ljmpl $8, $AT(1f, to_protected)
    .code32
1:  mov $16, %ax
    mov %ax, %ds
    mov %ax, %ss
    mov $0x3000, %esp
    push $0x12345678
    pop %eax
    mov %eax, 0x2000
    mov %cs, %ecx
    mov $0x10000000, %ebx
    lea 5(%ebx, %ebx, 2), %edx
    hlt
    .balign 8
gdt:
    .quad 0
    .quad 0x00cf9b000000ffff
    .quad 0x00cf93000000ffff
gdt_pointer:
    .word 23
    .long AT(gdt, to_protected)
    .code16
END(to_protected)

    .section .note.GNU-stack, "", @progbits
