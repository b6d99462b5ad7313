/* SPDX-License-Identifier: MIT */
/*
 * Real-mode payloads for a machine with interrupt controllers, copied to 0x1000 (see payload_real.S). payload_chip programs both PICs to vectors 0x30-0x3f and the
 * local APIC (in x2APIC-less form it is reached in 32-bit flat real mode), then leaves by OUT 0x10; after every interrupt it leaves by OUT 0x11. Handlers of vectors
 * 0x30-0x4f count at 0x2000 + (vector - 0x30).
 */
#include "payload.inc"

    .section .rodata
    .code16

.macro pic_set_up
    mov $0x11, %al
    out %al, $0x20
    out %al, $0xa0
    mov $0x30, %al
    out %al, $0x21
    mov $0x38, %al
    out %al, $0xa1
    mov $4, %al
    out %al, $0x21
    mov $2, %al
    out %al, $0xa1
    mov $1, %al
    out %al, $0x21
    out %al, $0xa1
    xor %al, %al
    out %al, $0x21
    out %al, $0xa1
.endm

BEGIN(chip)
    xor %ax, %ax
    mov %ax, %ds
    mov %ax, %es
    /* 32 stubs of 8 bytes at "stubs"; vector table entries 0x30-0x4f. */
    mov $0xc0, %di
    mov $AT(stubs, chip), %ax
    mov $32, %cx
    cld
1:  stosw
    movw $0, (%di)
    add $2, %di
    add $8, %ax
    loop 1b
    pic_set_up
    /* DS with a 4 GiB limit, to reach the APIC: enable it, LINT0 as ExtINT. */
    ds_unlimited AT(chip_gdt_pointer, chip)
    mov $0xfee00000, %esi
    movl $0x1ff, %ds:0xf0(%esi)
    movl $0x700, %ds:0x350(%esi)
    movl $0x10000, %ds:0x360(%esi)
    xor %ax, %ax
    mov %ax, %ds
    out %al, $0x10
2:  sti
    hlt
    cli
    out %al, $0x11
    jmp 2b
    .balign 8
stubs:
    .rept 32
    call chip_count
    .balign 8
    .endr
chip_count: /* the pushed return address tells the vector */
    pop %bx
    sub $(AT(stubs, chip) + 3), %bx
    shr $3, %bx
    incb 0x2000(%bx)
    cmp $16, %bx
    jae 4f
    mov $0x20, %al
    out %al, $0x20
    cmp $8, %bx
    jb 3f
    out %al, $0xa0
3:  iret
4:  /* from the APIC: EOI there */
    push %ds
    push %eax
    ds_unlimited %cs:AT(chip_gdt_pointer, chip)
    mov $0xfee00000, %esi
    movl $0, %ds:0xb0(%esi)
    pop %eax
    pop %ds
    iret
    .balign 8
chip_gdt:
    .quad 0
    .quad 0x00cf93000000ffff
chip_gdt_pointer:
    .word 15
    .long AT(chip_gdt, chip)
END(chip)

/* PIT channel 0 at about 1 kHz through the PIC, ten ticks, OUT 0x12. The APIC stays disabled by software: LINT0 passes the PIC through after reset. */
BEGIN(pit)
    xor %ax, %ax
    mov %ax, %ds
    movw $AT(pit_tick, pit), 0xc0
    movw $0, 0xc2
    pic_set_up
    mov $0xfe, %al
    out %al, $0x21
    mov $0x34, %al
    out %al, $0x43
    mov $0xa9, %al
    out %al, $0x40
    mov $0x04, %al
    out %al, $0x40
1:  sti
    hlt
    cli
    cmpb $10, 0x2000
    jb 1b
    out %al, $0x12
    hlt
pit_tick: /* the tenth masks its line: a late CPU may be owed more */
    incb 0x2000
    cmpb $10, 0x2000
    jb 1f
    mov $0xff, %al
    out %al, $0x21
1:  mov $0x20, %al
    out %al, $0x20
    iret
END(pit)

    .section .note.GNU-stack, "", @progbits
