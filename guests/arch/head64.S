/* SPDX-License-Identifier: MIT */
/*
 * Start of the 64-bit guests: from the multiboot state to long mode, 4 GiB mapped 1:1 for the supervisor and 1 GiB once more at USER_ALIAS for everyone; exception
 * entry; start of further CPUs. The C side is lib64.c.
 */
#include "arch64.h"

    .section .head, "ax"
    .code32
mb: .long 0x1badb002, 0x00010000, -(0x1badb002 + 0x00010000)
    .long mb, image_start, image_data_end, image_end, _start
    .globl _start
_start:
    cld
    mov $cpu_blocks + CPU_BYTES, %esp
    mov $pml4, %edi
    movl $pdpt_low + 3, (%edi)
    movl $pdpt_user + 7, 8(%edi)
    mov $pd_low + 3, %eax
    mov $pdpt_low, %edi
    mov $4, %ecx
1:  mov %eax, (%edi)
    add $4096, %eax
    add $8, %edi
    loop 1b
    mov $0x83, %eax
    mov $pd_low, %edi
    mov $2048, %ecx
1:  mov %eax, (%edi)
    add $0x200000, %eax
    add $8, %edi
    loop 1b
    movl $pd_user + 7, pdpt_user
    mov $0x87, %eax
    mov $pd_user, %edi
    mov $512, %ecx
1:  mov %eax, (%edi)
    add $0x200000, %eax
    add $8, %edi
    loop 1b
    mov $pml4, %eax
    mov %eax, %cr3
    call to_long32
    .code64
    mov $cpu_blocks, %edi
    call cpu_set_up
    call main64
    call guest_end
1:  hlt
    jmp 1b

    .code32
/* From flat 32-bit code, CR3 set, to the caller's next instruction in 64-bit code. */
to_long32:
    mov %cr4, %eax
    or $0x6a0, %eax /* PAE PGE OSFXSR OSXMMEXCPT */
    mov %eax, %cr4
    mov $0xc0000080, %ecx
    rdmsr
    or $0x901, %eax /* SCE LME NXE */
    wrmsr
    mov %cr0, %eax
    and $~0xe, %eax
    or $0x80010022, %eax /* PG WP NE MP */
    mov %eax, %cr0
    lgdt boot_gdt_pointer
    pop %edx
    ljmp $SEL_KCODE, $1f
    .code64
1:  mov $SEL_KDATA, %eax
    mov %eax, %ss
    mov %eax, %ds
    mov %eax, %es
    xor %eax, %eax
    mov %eax, %fs
    mov %eax, %gs
    jmp *%rdx

/* Copied to AP_START: real mode. ap_next counts the CPUs that came this way. */
    .globl ap_start, ap_start_end
    .code16
ap_start:
    cli
    cs lgdtl AP_OF(boot_gdt_pointer16)
    mov %cr0, %eax
    and $0x9fffffff, %eax
    or $1, %eax
    mov %eax, %cr0
    ljmpl $SEL_KCODE32, $ap32
boot_gdt_pointer16:
    .word boot_gdt_end - boot_gdt - 1
    .long boot_gdt
ap_start_end:
    .code32
ap32:
    mov $SEL_KDATA, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    mov $1, %eax
    lock xadd %eax, ap_next
    shl $CPU_SHIFT, %eax
    lea cpu_blocks + CPU_BYTES(%eax), %esp
    mov $pml4, %eax
    mov %eax, %cr3
    call to_long32
    .code64
    lea -CPU_BYTES(%rsp), %rdi
    call cpu_set_up
    call main_ap
1:  hlt
    jmp 1b

    .section .data
    .balign 8
boot_gdt:
    .quad 0, 0x00af9b000000ffff, 0x00cf93000000ffff, 0x00cf9b000000ffff
boot_gdt_end:
    .globl boot_gdt_pointer
boot_gdt_pointer:
    .word boot_gdt_end - boot_gdt - 1
    .long boot_gdt
    .globl ap_next
ap_next: .long 1

    .text
/* ---- exceptions and interrupts ---- */
    .globl trap_stubs
    .balign 16
trap_stubs:
    vector = 0
    .rept 256
    .balign 16
    .if (vector == 8) || ((vector >= 10) && (vector <= 14)) || (vector == 17)
    .else
    push $0
    .endif
    push $vector
    jmp trap_common
    vector = vector + 1
    .endr

trap_common:
    push %rax
    push %rcx
    push %rdx
    push %rbx
    push %rbp
    push %rsi
    push %rdi
    push %r8
    push %r9
    push %r10
    push %r11
    push %r12
    push %r13
    push %r14
    push %r15
    cld
    mov %rsp, %rdi
    mov %rsp, %rbp
    and $-16, %rsp
    call trap
    mov %rbp, %rsp
    pop %r15
    pop %r14
    pop %r13
    pop %r12
    pop %r11
    pop %r10
    pop %r9
    pop %r8
    pop %rdi
    pop %rsi
    pop %rbp
    pop %rbx
    pop %rdx
    pop %rcx
    pop %rax
    add $16, %rsp
    iretq

    .bss
    .balign 4096
    .globl pml4, pdpt_low, pd_low, cpu_blocks
pml4: .skip 4096
pdpt_low: .skip 4096
pdpt_user: .skip 4096
pd_low: .skip 4 * 4096
pd_user: .skip 4096
    .balign CPU_BYTES
cpu_blocks: .skip CPU_BYTES * CPUS_MAX

    .section .note.GNU-stack, "", @progbits
