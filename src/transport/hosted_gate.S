/* SPDX-License-Identifier: MIT */
/*
 * The code from which the kernel lets system calls through while the client's are dispatched to us: the return from our signal handlers, the ways into and out
 * of the client, and one stub for each place where the client makes a system call. A stub makes the call with the client's own registers, stack and thread
 * pointer, so that blocking, signals and restarts are the kernel's own doing, and jumps back; hosted_site.c finds and fills them. No lock.
 */
    .text
    .balign 64
    .globl hosted_gate_begin, hosted_gate_end, hosted_restorer, hosted_enter, hosted_leave, hosted_start, hosted_vfork, hosted_stubs
    .hidden hosted_gate_begin, hosted_gate_end, hosted_restorer, hosted_enter, hosted_leave, hosted_start, hosted_vfork, hosted_stubs
hosted_gate_begin:
    .type hosted_restorer, @function
hosted_restorer:
    mov $15, %eax /* rt_sigreturn */
    syscall
    hlt

/* void hosted_enter(uint64_t frame, uint64_t *leave_sp): into the client by a signal frame; returns by hosted_leave. */
    .type hosted_enter, @function
hosted_enter:
    push %rbp
    push %rbx
    push %r12
    push %r13
    push %r14
    push %r15
    mov %rsp, (%rsi)
    lea 8(%rdi), %rsp
    jmp hosted_restorer

/* void hosted_leave(uint64_t sp) */
    .type hosted_leave, @function
hosted_leave:
    mov %rdi, %rsp
    pop %r15
    pop %r14
    pop %r13
    pop %r12
    pop %rbx
    pop %rbp
    ret

/* void hosted_start(uint64_t entry, uint64_t sp): as execve starts a program. */
    .type hosted_start, @function
hosted_start:
    mov %rsi, %rsp
    push %rdi
    xor %eax, %eax
    xor %ebx, %ebx
    xor %ecx, %ecx
    xor %edx, %edx
    xor %esi, %esi
    xor %edi, %edi
    xor %ebp, %ebp
    xor %r8d, %r8d
    xor %r9d, %r9d
    xor %r10d, %r10d
    xor %r11d, %r11d
    xor %r12d, %r12d
    xor %r13d, %r13d
    xor %r14d, %r14d
    xor %r15d, %r15d
    ret

/* long hosted_vfork(flags, stack, parent_tid, child_tid, void *arg, void (*child)(void *)): clone; the child begins in `child` on `stack`. */
    .type hosted_vfork, @function
hosted_vfork:
    push %r12
    push %r13
    mov %rcx, %r10
    mov %r8, %r12
    mov %r9, %r13
    xor %r8d, %r8d
    mov $56, %eax /* clone */
    syscall
    test %rax, %rax
    jz 1f
    pop %r13
    pop %r12
    ret
1:  mov %r12, %rdi
    xor %ebp, %ebp
    call *%r13
    hlt

    .balign 8
hosted_stubs:
    .set at, 0
    .rept 16384
    syscall
    jmp *hosted_sites + at(%rip)
    .set at, at + 8
    .endr
hosted_gate_end:
    .section .note.GNU-stack, "", @progbits
