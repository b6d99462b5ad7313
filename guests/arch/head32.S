/* SPDX-License-Identifier: MIT */
/*
 * Start and trap entry of the guest "prot", and its code for other modes: virtual-8086 snippets (copied to V86_AT), real mode (copied to REAL_AT), a task,
 * 5-level long mode.
 */
#include "arch32.h"

    .section .head, "ax"
    .code32
mb: .long 0x1badb002, 0x00010000, -(0x1badb002 + 0x00010000)
    .long mb, image_start, image_data_end, image_end, _start
    .globl _start
_start:
    cld
    mov $main_stack_top, %esp
    call main32
    call guest_end

    .text
    .globl trap_stubs32
    .balign 16
trap_stubs32:
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
    pusha
    push %ds
    push %es
    push %fs
    push %gs
    mov $SEL_KDATA, %eax
    mov %eax, %ds
    mov %eax, %es
    cld
    push %esp
    call trap32
    add $4, %esp
    pop %gs
    pop %fs
    pop %es
    pop %ds
    popa
    add $8, %esp
    iret

/* A task: counts, keeps what it was given, goes back by IRET; started again, goes on behind the IRET. */
    .globl task_entry
task_entry:
    incl task_runs
    mov %eax, task_eax
    pushf
    pop task_eflags
    str task_tr
    iret
    jmp task_entry

/* Started by a task gate with an error code: takes it, skips the two bytes that faulted. */
    .globl task_fault_entry
task_fault_entry:
    pop task_error
    addl $2, tss + 32
    iret
    jmp task_fault_entry

/* Started by JMP: goes back by JMP. */
    .globl task_jump_entry
task_jump_entry:
    incl task_runs
    pushf
    pop task_eflags
    ljmp $SEL_TSS, $0
    jmp task_jump_entry

/* Call-gate target: adds its two parameters. 32-bit gate, count 2. */
    .globl gate_entry, gate_entry_plain, conforming_entry
gate_entry:
    mov 8(%esp), %eax
    add 12(%esp), %eax
    mov %cs, %edx
    lret $8
gate_entry_plain:
    mov %cs, %eax
    mov %ss, %edx
    lret
conforming_entry:
    mov %cs, %eax
    lret

    .globl v86_start, v86_end
    .code16
v86_start:
    .globl v86_int, v86_cli, v86_pushf, v86_hlt, v86_in, v86_segments, v86_int3, v86_lgdt, v86_far, v86_iret
v86_int: mov $0x1234, %ax
    int $0x21
v86_cli: cli
    int $0x21
v86_pushf: pushf
    int $0x21
v86_hlt: hlt
v86_in: in $0xf5, %al
    int $0x21
v86_segments:
    mov $0x2000, %ax
    mov %ax, %ds
    mov %ax, %es
    mov $0x55aa, %bx
    mov %bx, 0x10
    mov %es:0x10, %ax
    add $1, %ax
    int3
v86_int3: int3
v86_lgdt: lgdt 0
v86_far: lcall $0x600, $(1f - v86_start)
    int3
1:  mov $0x77, %al
    lret
v86_iret: pushf
    push %cs
    push $(1f - v86_start)
    iret
    hlt
1:  mov $0x66, %al
    int3
v86_end:

/* Real mode. Entered at REAL_AT by a far jump to a 16-bit segment; leaves results at REAL_RESULT and returns to real_back in 32-bit code. */
    .globl real_start, real_end
real_start:
    mov $SEL_DATA16, %ax
    mov %ax, %ds
    mov %ax, %es
    mov %ax, %ss
    mov $SEL_KDATA, %ax
    mov %ax, %fs
    mov %cr0, %eax
    and $0x7ffffffe, %eax
    mov %eax, %cr0
    ljmp $0, $REAL_OF(1f)
1:  xor %ax, %ax
    mov %ax, %ds
    mov %ax, %ss
    mov $0x6ff0, %esp
    lidt REAL_OF(real_idt)
    /* 0: INT through the vector table at 0 */
    movw $REAL_OF(real_handler), 0x21 * 4
    movw $0, 0x21 * 4 + 2
    mov $1, %eax
    int $0x21
    mov %eax, REAL_RESULT
    /* 1: segment * 16 */
    mov $0x1234, %ax
    mov %ax, %es
    movl $0xcafe, %es:8
    mov $0x1000, %bx
    mov %bx, %es
    mov %es:0x2348, %eax
    mov %eax, REAL_RESULT + 4
    /* 2: FS kept its 4 GiB limit */
    mov $0x200000, %ebx
    movl $0x5ea1, %fs:(%ebx)
    mov %fs:(%ebx), %eax
    mov %eax, REAL_RESULT + 8
    /* 3: DS did not: #GP through vector 13 */
    movw $REAL_OF(real_gp), 13 * 4
    movw $0, 13 * 4 + 2
    movl $0, REAL_RESULT + 12
    mov $0x10000, %ebx
    mov $REAL_OF(2f), %si
    mov (%ebx), %al
2:  /* 4: a word at 0xffff of a segment: #GP */
    movl $0, REAL_RESULT + 16
    mov $0xffff, %bx
    mov $REAL_OF(3f), %si
    mov (%bx), %ax
    jmp 4f
3:  mov REAL_RESULT + 12, %eax
    mov %eax, REAL_RESULT + 16
4:  /* 5: 16-bit arithmetic of SP and flags in the INT frame */
    mov %sp, %bx
    stc
    int $0x22
    mov %eax, REAL_RESULT + 20
    sub %sp, %bx
    movzwl %bx, %ebx
    mov %ebx, REAL_RESULT + 24
    /* 6: #DE */
    movw $REAL_OF(real_de), 0
    movw $0, 2
    movl $0, REAL_RESULT + 28
    mov $REAL_OF(5f), %si
    xor %cx, %cx
    mov $1, %ax
    xor %dx, %dx
    div %cx
5:  /* 7: 20-bit wrap: A20 is on, so no wrap */
    mov $0xffff, %ax
    mov %ax, %es
    movl $0x1235813, %es:0x7f10
    addr32 mov %fs:0x107f00, %eax
    mov %eax, REAL_RESULT + 32
    /* 8: far call and IP wrap are 16 bits; LOOP, STRING with 16-bit registers */
    lcall $(REAL_AT >> 4), $(real_far - real_start)
    movzwl %ax, %eax
    mov %eax, REAL_RESULT + 36
    xor %ax, %ax
    mov %ax, %es
    mov $0x8000, %edi
    mov $0x12340003, %ecx
    mov $0x41, %al
    cld
    rep stosb
    mov %ecx, REAL_RESULT + 40
    mov $0x5678fffe, %edi
    stosb
    stosb
    mov %edi, REAL_RESULT + 68
    /* 9: BCD and the rest that 64-bit mode lacks */
    mov $0x19, %al
    add $0x28, %al
    daa
    movzbl %al, %eax
    mov %eax, REAL_RESULT + 44
    mov $0x3f, %ax
    aam
    movzwl %ax, %eax
    mov %eax, REAL_RESULT + 48
    /* 10: SMSW, CLI and STI, PUSHF */
    smsw %ax
    and $1, %eax
    mov %eax, REAL_RESULT + 52
    /* 11: ES after a real-mode load keeps base = sel * 16; INT3 */
    movw $REAL_OF(real_bp), 3 * 4
    movw $0, 3 * 4 + 2
    movl $0, REAL_RESULT + 56
    int3
    /* 12: stack wrap: PUSH with SP = 2 then pop */
    mov %sp, %bx
    mov $0x9000, %ax
    mov %ax, %ss
    mov $2, %sp
    push $0x1111
    push $0x2222
    mov %sp, %dx
    pop %ax
    pop %cx
    xor %di, %di
    mov %di, %ss
    mov %bx, %sp
    movzwl %dx, %edx
    mov %edx, REAL_RESULT + 60
    movzwl %ax, %eax
    shl $16, %eax
    mov %cx, %ax
    mov %eax, REAL_RESULT + 64
    /* back */
    cli
    mov %cr0, %eax
    or $1, %al
    mov %eax, %cr0
    ljmpl $SEL_KCODE, $real_back
real_handler:
    add $0x41, %eax
    iret
real_gp:
    movl $13, REAL_RESULT + 12
    add $6, %sp
    jmp *%si
real_de:
    movl $1, REAL_RESULT + 28
    add $6, %sp
    jmp *%si
real_bp:
    movl $3, REAL_RESULT + 56
    iret
real_far:
    mov %cs, %ax
    lret
real_flags:
    mov %sp, %bp
    movzwl 4(%bp), %eax
    iret
real_idt: .word 0x3ff
    .long 0
real_end:
    .globl real_flags_at
real_flags_at = REAL_OF(real_flags)

    .text
    .code32
    .globl real_run
real_run:
    pusha
    mov %esp, real_esp
    sidt saved_idt
    ljmp $SEL_CODE16, $REAL_AT
real_back:
    mov $SEL_KDATA, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %fs
    mov %eax, %gs
    mov %eax, %ss
    mov real_esp, %esp
    lidt saved_idt
    popa
    ret

/* u64 la57_run(u32 cr3, u32 lo, u32 hi): 64-bit mode with 5 levels, reads the quadword at hi:lo, and back. */
    .globl la57_run
la57_run:
    push %ebp
    mov %esp, %ebp
    push %ebx
    push %esi
    push %edi
    mov %cr4, %eax
    push %eax
    or $0x1020, %eax
    mov %eax, %cr4
    mov 8(%ebp), %eax
    mov %eax, %cr3
    mov $0xc0000080, %ecx
    rdmsr
    or $0x100, %eax
    wrmsr
    mov %cr0, %eax
    or $0x80000000, %eax
    mov %eax, %cr0
    ljmp $SEL_CODE64, $1f
    .code64
1:  mov 12(%rbp), %rsi
    mov (%rsi), %rdi
    mov %cr4, %rbx
    mov %rdi, %rax
    mov %rdi, %rdx
    shr $32, %rdx
    mov $2f, %ecx
    push $SEL_KCODE
    push %rcx
    lretq
    .code32
2:  mov %eax, %esi
    mov %edx, %edi
    mov %cr0, %eax
    and $0x7fffffff, %eax
    mov %eax, %cr0
    mov $0xc0000080, %ecx
    rdmsr
    and $~0x100, %eax
    wrmsr
    pop %eax
    mov %eax, %cr4
    mov %esi, %eax
    mov %edi, %edx
    pop %edi
    pop %esi
    pop %ebx
    pop %ebp
    ret

    .data
    .globl task_runs, task_eax, task_eflags, task_tr, task_error
task_runs: .long 0
task_eax: .long 0
task_eflags: .long 0
task_tr: .long 0
task_error: .long 0
real_esp: .long 0
saved_idt: .skip 8

    .bss
    .balign 4096
    .skip 16384
main_stack_top:
    .skip 8192
    .globl kernel_stack_top, task_stack_top
kernel_stack_top:
    .skip 8192
task_stack_top:

    .section .note.GNU-stack, "", @progbits
