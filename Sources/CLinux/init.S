/*
 * PID 1 of a namespace that was made for a restored tree: takes those who die off the kernel's hands, and passes signals on.
 *
 * Entered with every signal blocked. %ebx is the PID of the tree's root, %ebp is 1 if this ends with the root, 0 if it ends
 * with the last of its children. %rsp is the upper end of a page to write to; %r12 and %r15 are address and length of the
 * executors' area, which goes first. It ends with the root's status, said as a shell
 * says it: the exit code, or 128 and the signal.
 *
 * %r13d is 1 when the root has ended, %r14d its status.
 */
#if defined(__x86_64__)

#define SYS_munmap 11
#define SYS_wait4 61
#define SYS_kill 62
#define SYS_rt_sigtimedwait 128
#define SYS_exit_group 231
#define SIGCHLD 17
#define WNOHANG_WALL 0x40000001
#define ECHILD 10

	.section .rodata
	.globl init_code
	.globl init_code_end
	.hidden init_code
	.hidden init_code_end
	.balign 16
init_code:
	mov %r12, %rdi
	mov %r15, %rsi
	mov $SYS_munmap, %eax
	syscall
	sub $256, %rsp
	xor %r13d, %r13d
	xor %r14d, %r14d
	jmp .Lreap
.Lnext:
	lea .Lall(%rip), %rdi
	lea 16(%rsp), %rsi
	xor %edx, %edx
	mov $8, %r10d
	mov $SYS_rt_sigtimedwait, %eax
	syscall
	test %eax, %eax
	jle .Lnext
	cmp $SIGCHLD, %eax
	je .Lreap
	mov %eax, %esi
	mov %ebx, %edi
	test %r13d, %r13d
	jz .Lpass
	mov $-1, %rdi
.Lpass:
	mov $SYS_kill, %eax
	syscall
	jmp .Lnext

.Lreap:
	mov $-1, %rdi
	mov %rsp, %rsi
	mov $WNOHANG_WALL, %edx
	xor %r10d, %r10d
	mov $SYS_wait4, %eax
	syscall
	cmp $-ECHILD, %eax
	je .Lend
	test %eax, %eax
	jle .Lnext
	cmp %ebx, %eax
	jne .Lreap
	mov $1, %r13d
	mov (%rsp), %r14d
	test %ebp, %ebp
	jz .Lreap

.Lend:
	mov %r14d, %edi
	and $0x7f, %edi
	jz .Lcode
	add $128, %edi
	jmp .Lexit
.Lcode:
	mov %r14d, %edi
	shr $8, %edi
	and $0xff, %edi
.Lexit:
	mov $SYS_exit_group, %eax
	syscall
	hlt
	.balign 8
.Lall:
	.quad -1
init_code_end:

#endif
	.section .note.GNU-stack, "", @progbits
