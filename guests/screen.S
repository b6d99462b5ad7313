/* SPDX-License-Identifier: MIT */
/*
 * A boot disk that paints one picture after the other: the firmware's own text, then text in all colours, then 256 colours, then 16 in planes by each way of writing, then
 * true colour in the linear frame buffer, then a change of a part of that. After each picture a digit goes to the first serial port, and a key is waited for. For comparing
 * screens of two machines: nothing depends on time, the cursor is hidden.
 */
    .code16
    .globl _start
_start:
    xor %ax, %ax
    mov %ax, %ds
    mov %ax, %es
    mov %ax, %ss
    mov $0x7c00, %sp
    cld
    mov $0x0203, %ax /* three sectors more */
    mov $0x7e00, %bx
    mov $0x0002, %cx
    xor %dh, %dh
    int $0x13
    jmp begin

    .org 510
    .word 0xaa55

begin:
    mov $0x0100, %ax
    mov $0x2000, %cx
    int $0x10
    mov $'0', %al
    call shown

    /* 1: text; each character in its own colours */
    mov $0x0003, %ax
    int $0x10
    mov $0x0100, %ax
    mov $0x2000, %cx
    int $0x10
    mov $0xb800, %ax
    mov %ax, %es
    xor %di, %di
    xor %ax, %ax
1:  stosw
    inc %al
    add $0x0100, %ax
    and $0x7fff, %ax /* no blinking */
    cmp $4000, %di
    jb 1b
    mov $'1', %al
    call shown

    /* 2: 256 colours */
    mov $0x0013, %ax
    int $0x10
    mov $0xa000, %ax
    mov %ax, %es
    xor %di, %di
    xor %bx, %bx
1:  xor %cx, %cx
2:  mov %cl, %al
    xor %bl, %al
    stosb
    inc %cx
    cmp $320, %cx
    jb 2b
    inc %bx
    cmp $200, %bx
    jb 1b
    mov $'2', %al
    call shown

    /* 3: 16 colours in planes: map mask, set/reset, rotate and combine, bit mask, write modes 1 and 2 */
    mov $0x0012, %ax
    int $0x10
    mov $0xa000, %ax
    mov %ax, %es
    xor %bx, %bx
    xor %di, %di
1:  mov $0x3c4, %dx /* map mask: as many planes as the line says */
    mov $0x02, %al
    mov %bl, %ah
    and $0x0f, %ah
    out %ax, %dx
    mov $80, %cx
    mov %bl, %al
    rep stosb
    inc %bx
    cmp $160, %bx
    jb 1b
    mov $0x0f02, %ax
    out %ax, %dx
    mov $0x3ce, %dx
    mov $0x0500, %ax /* set/reset of planes 0 and 2 */
    out %ax, %dx
    mov $0x0701, %ax
    out %ax, %dx
    mov $0x1b03, %ax /* rotate by 3 and XOR */
    out %ax, %dx
    mov $0x7e08, %ax /* bit mask */
    out %ax, %dx
    mov $3200, %cx
    xor %di, %di
1:  mov %cl, %al
    xchg %al, %es:(%di) /* loads the latches, then writes */
    add $4, %di
    loop 1b
    mov $0x0003, %ax
    out %ax, %dx
    mov $0x0001, %ax
    out %ax, %dx
    mov $0x0205, %ax /* write mode 2: the colour in the byte */
    out %ax, %dx
    mov $160 * 80, %di
    mov $80 * 160, %cx
1:  mov %es:(%di), %al
    mov %cl, %al
    stosb
    loop 1b
    mov $0xff08, %ax
    out %ax, %dx
    mov $0x0105, %ax /* write mode 1: latches from above */
    out %ax, %dx
    xor %si, %si
    mov $320 * 80, %di
    mov $80 * 160, %cx
1:  mov %es:(%si), %al
    inc %si
    stosb
    loop 1b
    mov $'3', %al
    call shown

    /* 4: true colour in the linear frame buffer, by 32-bit addresses */
    xor %ax, %ax
    mov %ax, %es
    mov $0x4f01, %ax
    mov $0x4112, %cx /* 640 x 480, true colour, linear */
    mov $0x9000, %di
    int $0x10
    mov $0x4f02, %ax
    mov $0x4112, %bx
    int $0x10
    call flat_es
    mov 0x9000 + 40, %edi
    movzwl 0x9000 + 16, %ecx /* bytes of a line */
    imul $480, %ecx
    shr $2, %ecx
    mov $0x01020408, %eax
1:  mov %eax, %es:(%edi)
    rol $3, %eax
    add $0x00010305, %eax
    add $4, %edi
    addr32 loop 1b
    mov $'4', %al
    call shown

    /* 5: 100 lines of it change */
    call flat_es
    mov 0x9000 + 40, %edi
    movzwl 0x9000 + 16, %ecx
    imul $100, %ecx, %ebx
    add %ebx, %edi
    mov %ebx, %ecx
1:  notb %es:(%edi)
    inc %edi
    addr32 loop 1b
    mov $'5', %al
    call shown
1:  cli
    hlt
    jmp 1b

/* The digit in al to the serial port; then a key. */
shown:
    mov $0x3f8, %dx
    out %al, %dx
    xor %ax, %ax
    sti
    int $0x16
    ret

/* es reaches 4 GiB, until somebody loads it again: without interrupts, whose handlers do. */
flat_es:
    cli
    lgdt descriptor
    mov %cr0, %eax
    or $1, %al
    mov %eax, %cr0
    mov $8, %bx
    mov %bx, %es
    and $0xfe, %al
    mov %eax, %cr0
    ret

    .balign 8
table:
    .quad 0
    .quad 0x00cf92000000ffff
descriptor:
    .word 15
    .long table
    .org 2048
