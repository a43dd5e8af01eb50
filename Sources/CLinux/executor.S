/*
 * The executor: runs a syscall program in a task and parks.
 *
 * %rsp is the address of this thread's struct executor_slot (CLinux.h), and is never used as a stack.
 * %r12 is the record being run, %ebx its number, %ebp its flags.
 *
 * Parking is a futex wait on slot.life, which is also an entry of the tracer's robust list: when the
 * tracer dies, at any instant, the kernel marks the word FUTEX_OWNER_DIED and wakes the waiter, which
 * then goes home by itself. A program that runs at that instant finds the mark when it ends.
 */
#if defined(__x86_64__)

#define LIFE 8
#define TRACER 12
#define DONE 16
#define COUNT 24
#define FINISHED 28
#define HOME 32
#define CLEANUP_COUNT 40
#define FIRST 44
#define CLEANUP 48
#define RECORDS 768
#define RECORD_SIZE 64

#define SYS_futex 202
#define SYS_exit_group 231
#define WAITERS 0x80000000

	.section .rodata
	.globl executor_code
	.globl executor_code_end
	.hidden executor_code
	.hidden executor_code_end
	.balign 16
executor_code:
.Lrun:
	mov FIRST(%rsp), %ebx
	mov %ebx, %r12d
	shl $6, %r12
	lea RECORDS(%rsp, %r12), %r12
.Lnext:
	cmp COUNT(%rsp), %ebx
	jae .Lpark
	mov 4(%r12), %ebp
	mov 8(%r12), %rdi
	mov 16(%r12), %rsi
	mov 24(%r12), %rdx
	mov 32(%r12), %r10
	mov 40(%r12), %r8
	mov 48(%r12), %r9
	test $0x3f, %ebp
	jz .Lcall
.macro substitute bit, reg
	test $\bit, %ebp
	jz 1f
	shl $6, \reg
	mov RECORDS+56(%rsp, \reg), \reg
1:
.endm
	substitute 1, %rdi
	substitute 2, %rsi
	substitute 4, %rdx
	substitute 8, %r10
	substitute 16, %r8
	substitute 32, %r9
.Lcall:
	mov (%r12), %eax
	syscall
	test %rax, %rax
	jnz .Lresult
	test $0x80, %ebp
	jnz .Lpark
.Lresult:
	test $0x100, %ebp
	jz .Lany
	cmp %rax, 56(%r12)
	mov %rax, 56(%r12)
	jne .Lpark
	jmp .Lok
.Lany:
	mov %rax, 56(%r12)
	test $0x40, %ebp
	jnz .Lok
	cmp $-4095, %rax
	jae .Lpark
.Lok:
	inc %ebx
	add $RECORD_SIZE, %r12
	jmp .Lnext

.Lpark:
	mov %ebx, FINISHED(%rsp)
	mov TRACER(%rsp), %eax
	mov %eax, %ecx
	or $WAITERS, %ecx
	lock cmpxchg %ecx, LIFE(%rsp)
	jne .Ldead
	mov DONE(%rsp), %rdi
	lock incl (%rdi)
	mov $1, %esi
	mov $1, %edx
	mov $SYS_futex, %eax
	syscall
.Lwait:
	lea LIFE(%rsp), %rdi
	xor %esi, %esi
	mov TRACER(%rsp), %edx
	or $WAITERS, %edx
	xor %r10d, %r10d
	mov $SYS_futex, %eax
	syscall
	mov LIFE(%rsp), %eax
	cmp TRACER(%rsp), %eax
	je .Lrun
	test $0x40000000, %eax
	jz .Lwait

.Ldead:
	lea CLEANUP(%rsp), %r12
	xor %ebx, %ebx
.Lcleanup:
	cmp CLEANUP_COUNT(%rsp), %ebx
	jae .Lleave
	mov 8(%r12), %rdi
	mov 16(%r12), %rsi
	mov 24(%r12), %rdx
	mov 32(%r12), %r10
	mov 40(%r12), %r8
	mov 48(%r12), %r9
	mov (%r12), %eax
	syscall
	inc %ebx
	add $RECORD_SIZE, %r12
	jmp .Lcleanup
.Lleave:
	mov HOME(%rsp), %rax
	test %rax, %rax
	jz .Lexit
	jmp *%rax
.Lexit:
	mov $137, %edi
	mov $SYS_exit_group, %eax
	syscall
	hlt
executor_code_end:

#endif
	.section .note.GNU-stack, "", @progbits
