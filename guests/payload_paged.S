/* SPDX-License-Identifier: MIT */
/*
 * Payloads for protected and long mode with flat segments; the test sets up CR0, page tables and descriptors. Position-independent, copied to 0x1000.
 */
#include "payload.inc"

    .section .rodata

/* 32 bits, paging on: reads through a page mapped elsewhere, writes it, then touches a page that is not present; the #PF handler is at 0x1100. */
    .code32
BEGIN(paged32)
    mov 0x400000, %eax
    addl $1, 0x400004
    mov %cr3, %edx
    movl $7, 0x500010
    hlt
END(paged32)

/* #PF handler: error code to EBX, CR2 to ECX. */
BEGIN(fault32)
    pop %ebx
    mov %cr2, %ecx
    hlt
END(fault32)

/* 64 bits: arithmetic that needs 64-bit registers, RIP-relative data, a call, SSE. */
    .code64
BEGIN(long)
    mov $0x123456789abcdef0, %rax
    mov $3, %ecx
    mul %rcx
    mov %rax, %r8
    lea 1f(%rip), %rsi
    mov (%rsi), %r9
    call 2f
    movsd 1f(%rip), %xmm1
    addsd %xmm1, %xmm1
    fldpi
    hlt
    .balign 8
1:  .quad 0x400c000000000000
2:  mov $0x77, %r10d
    ret
END(long)

/* SYSCALL: LSTAR points at syscall_entry, copied to 0x1100. */
BEGIN(syscall)
    mov $0x55, %edi
    syscall
    ud2
END(syscall)
BEGIN(syscall_entry)
    mov %rcx, %rax
    mov %r11, %rbx
    mov %cs, %esi
    hlt
END(syscall_entry)

/* CPUID of leaf EAX, RDMSR of TSC_AUX-like registers is the test's: leaf in EAX, subleaf in ECX. */
BEGIN(cpuid)
    cpuid
    hlt
END(cpuid)

/* WRMSR/RDMSR of the MSR in ECX. */
BEGIN(msr)
    wrmsr
    xor %eax, %eax
    xor %edx, %edx
    rdmsr
    hlt
END(msr)

/* MMIO at the linear address in RBX (not backed), 8 bytes each way, then a locked read-modify-write. */
BEGIN(mmio64)
    mov %rax, (%rbx)
    mov 8(%rbx), %rcx
    lock xaddl %edx, 32(%rbx)
    hlt
END(mmio64)

/* A vector store to RBX. */
BEGIN(mmio_vector)
    movq %rax, %xmm0
    punpcklqdq %xmm0, %xmm0
    movups %xmm0, 16(%rbx)
    hlt
END(mmio_vector)

/* XMM0 to memory. */
BEGIN(store_xmm)
    movups %xmm0, 0x2000
    hlt
END(store_xmm)

/* Counts in RAX at the address in RBX until told to stop at RBX + 8; tests of kicks and of memory changed under a running guest. */
BEGIN(spin)
1:  incq (%rbx)
    cmpq $0, 8(%rbx)
    je 1b
    hlt
END(spin)

    .section .note.GNU-stack, "", @progbits
