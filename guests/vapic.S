/* SPDX-License-Identifier: MIT */
/*
 * A 32-bit guest that lies in memory as Windows of its time did, for QEMU's kvmvapic: code at 0x80000000 and above, which also shows low memory, FS at a block
 * with the CPU's number. QEMU patches its writes of the TPR. Flat multiboot image at 1 MiB. Ends by OUT to QEMU's isa-debug-exit at 0xf4: 16 if all is well, else
 * the number of the step that failed.
 */
#define KSEG 0x80000000
#define APIC 0xfee00000
#define STACK_AT 0x90000
#define DIRECTORY_AT 0x91000
#define IDT_AT 0x92000
#define VECTOR 0x31

    .section .note.GNU-stack, "", @progbits
    .text
    .code32
    .globl _start
_start:
    jmp begin
    .balign 4
header:
    .long 0x1badb002
    .long 0x10000
    .long -(0x1badb002 + 0x10000)
    .long header, _start, image_end, image_end, begin

begin:
    cli
    cld
    mov $STACK_AT, %esp
    /* 4 MiB pages: the first at 0 and at KSEG, the APIC's where it is. */
    mov $DIRECTORY_AT, %edi
    mov $1024, %ecx
    xor %eax, %eax
    rep stosl
    movl $0x83, DIRECTORY_AT
    movl $0x83, DIRECTORY_AT + (KSEG >> 20)
    movl $((APIC & 0xffc00000) + 0x9b), DIRECTORY_AT + ((APIC >> 22) << 2)
    mov %cr4, %eax
    or $0x10, %eax
    mov %eax, %cr4
    mov $DIRECTORY_AT, %eax
    mov %eax, %cr3
    mov %cr0, %eax
    or $0x80000000, %eax
    mov %eax, %cr0
    lgdt gdt_pointer
    ljmp $8, $(KSEG + high)

high:
    mov $16, %ax
    mov %ax, %ds
    mov %ax, %es
    mov %ax, %ss
    mov $(KSEG + STACK_AT), %esp
    mov $24, %ax
    mov %ax, %fs
    mov $(KSEG + handler), %eax
    mov %eax, %ebx
    and $0xffff, %eax
    or $0x80000, %eax
    and $0xffff0000, %ebx
    or $0x8e00, %ebx
    mov %eax, KSEG + IDT_AT + 8 * VECTOR
    mov %ebx, KSEG + IDT_AT + 8 * VECTOR + 4
    lidt KSEG + idt_pointer
    movl $0x1ff, APIC + 0xf0

    /* Reported the first time, patched by the second. */
    mov $1, %edx
    mov $0x40, %eax
    call set_tpr
    mov $0x40, %eax
    call set_tpr
    cmpb $0xe8, KSEG + site
    jne end
    /* The TPR in the page holds an interrupt back; lowering it there lets it in at once. */
    inc %edx
    sti
    movl $(0x44000 + VECTOR), APIC + 0x300
    nop
    cmpl $0, KSEG + n_handled
    jne end
    inc %edx
    xor %eax, %eax
    call set_tpr
    nop
    cmpl $1, KSEG + n_handled
    jne end
    mov $16, %edx
end:
    mov %edx, %eax
    out %al, $0xf4
1:  hlt
    jmp 1b

set_tpr:
site:
    .byte 0xa3 /* mov %eax, TPR: an instruction that QEMU knows */
    .long APIC + 0x80
    ret

handler:
    incl KSEG + n_handled
    movl $0, APIC + 0xb0
    iret

    .balign 8
gdt:
    .quad 0, 0x00cf9b000000ffff, 0x00cf93000000ffff
    /* 16 KiB at KSEG + cpu_block, which is below 16 MiB. */
    .word 0x3fff, cpu_block_low
    .byte cpu_block_middle, 0x93, 0x40, 0x80
gdt_pointer:
    .word 31
    .long KSEG + gdt
idt_pointer:
    .word 8 * (VECTOR + 1) - 1
    .long KSEG + IDT_AT
n_handled:
    .long 0
    .balign 16
cpu_block: /* its own address at 0x1c, the CPU's number at 0x51 */
    .fill 7, 4, 0
    .long KSEG + cpu_block
    .fill 0x40, 1, 0
image_end:
    /* Where the image lies is fixed, so these are numbers. */
    .set cpu_block_low, (0x100000 + cpu_block - _start) & 0xffff
    .set cpu_block_middle, (0x100000 + cpu_block - _start) >> 16 & 0xff
