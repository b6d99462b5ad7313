/* SPDX-License-Identifier: MIT */
/*
 * Real-mode payloads for the local APIC's TPR and for KVM's paravirtual calls and pages, copied to 0x1000 (see payload_real.S). The page at 0x2000 is the
 * client's to name: steal time or virtual APIC.
 */
#include "payload.inc"

    .section .rodata
    .code16

/* One call with the client's registers, then OUT 0x10, without end. */
BEGIN(hypercall)
1:  vmcall
    out %al, $0x10
    jmp 1b
END(hypercall)

/* Sleeps with interrupts off. */
BEGIN(halt)
1:  cli
    hlt
    out %al, $0x12
    jmp 1b
END(halt)

/* Shows a byte of the steal time page. */
BEGIN(steal)
1:  movb 0x2010, %al
    out %al, $0x13
    jmp 1b
END(steal)

/* Writes 0x20 to the TPR, reads it back, OUT 0x14. */
BEGIN(tpr)
    xor %ax, %ax
    mov %ax, %ds
    ds_unlimited AT(tpr_gdt_pointer, tpr)
    mov $0xfee00000, %esi
    .globl payload_tpr_write, payload_tpr_read
payload_tpr_write:
    movl $0x20, %ds:0x80(%esi)
payload_tpr_read:
    movl %ds:0x80(%esi), %eax
    out %al, $0x14
    hlt
    .balign 8
tpr_gdt:
    .quad 0
    .quad 0x00cf93000000ffff
tpr_gdt_pointer:
    .word 15
    .long AT(tpr_gdt, tpr)
END(tpr)

/* Vector 0x41 counts at 0x2041. Lowers the TPR in the virtual APIC page to 0x10, OUT 0x15 with interrupts on, raises it to 0xf0 again. */
BEGIN(vapic)
    xor %ax, %ax
    mov %ax, %ds
    movw $AT(vapic_count, vapic), 0x104
    movw $0, 0x106
    sti
1:  movb $0x10, 0x2000
    out %al, $0x15
    movb $0xf0, 0x2000
    out %al, $0x16
    jmp 1b
vapic_count:
    incb 0x2041
    iret
END(vapic)

    .section .note.GNU-stack,"",@progbits
