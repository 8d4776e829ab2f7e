/* SPDX-License-Identifier: MIT
 *
 * From GRUB (multiboot 1: 32-bit protected mode, no paging) to C in 64-bit mode with zmm state
 * enabled.  Identity map of the first GiB in 2 MiB pages; no interrupts, no IDT: any fault is a
 * triple fault, which Bochs is told to end at.
 */
    .section .multiboot, "a"
    .align 4
    .long 0x1badb002, 0, -0x1badb002

    .bss
    .align 4096
pml4:
    .skip 4096
pdpt:
    .skip 4096
pd:
    .skip 4096
    .skip 262144
stack_top:

    .section .rodata
    .align 8
gdt:
    .quad 0, 0x00209a0000000000, 0x0000920000000000 /* 64-bit code at 8, data at 16 */
gdt_ptr:
    .word gdt_ptr - gdt - 1
    .long gdt

    .text
    .code32
    .globl _start
_start:
    cli
    cld
    movl $pdpt + 3, pml4
    movl $pd + 3, pdpt
    xorl %ecx, %ecx
1:  movl %ecx, %eax
    shll $21, %eax
    orl $0x83, %eax /* present, writable, 2 MiB */
    movl %eax, pd(, %ecx, 8)
    incl %ecx
    cmpl $512, %ecx
    jne 1b
    movl %cr4, %eax
    orl $0x40620, %eax /* PAE, OSFXSR, OSXMMEXCPT, OSXSAVE */
    movl %eax, %cr4
    movl $pml4, %eax
    movl %eax, %cr3
    movl $0xc0000080, %ecx /* EFER.LME */
    rdmsr
    orl $0x100, %eax
    wrmsr
    movl $0x80000003, %eax /* PG, MP, PE; EM and TS clear */
    movl %eax, %cr0
    lgdt gdt_ptr
    ljmp $8, $long_mode

    .code64
long_mode:
    movl $16, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    movq $stack_top, %rsp
    xorl %ecx, %ecx
    xorl %edx, %edx
    movl $0xe7, %eax /* x87, SSE, AVX, opmask, zmm */
    xsetbv
    call emu_main
    leaq shutdown(%rip), %rsi /* Bochs ends on this word */
    movw $0x8900, %dx
    movl $8, %ecx
    rep outsb
2:  hlt
    jmp 2b

    .section .rodata
shutdown:
    .ascii "Shutdown"

    .section .note.GNU-stack, "", @progbits
