/*
 * Processes that share this one's memory for a while: a fork would copy its page tables, and each page that either of the two writes
 * to afterwards, to throw all of it away soon.
 */
#if defined(__x86_64__)

#define SYS_clone 56
#define SYS_exit_group 231
#define SYS_execveat 322
#define SYS_clone3 435
#define CLONE_VM 0x100
#define SIGCHLD 17
#define AT_EMPTY_PATH 0x1000
#define CLONE_ARGS_SIZE 88

	.text

/*
 * long cl_clone_exec(struct cl_clone_args *args, int executable, char *const *argv, char *const *envp)
 *
 * The child writes to no memory until its exec has given it its own, so that it may stand on its parent's stack.
 */
	.globl cl_clone_exec
	.hidden cl_clone_exec
	.type cl_clone_exec, @function
cl_clone_exec:
	mov %esi, %r8d
	mov %rdx, %r9
	mov %rcx, %r10
	mov $CLONE_ARGS_SIZE, %esi
	mov $SYS_clone3, %eax
	syscall
	test %rax, %rax
	jz 1f
	ret
1:
	mov %r8d, %edi
	lea .Lempty(%rip), %rsi
	mov %r9, %rdx
	mov $AT_EMPTY_PATH, %r8d
	mov $SYS_execveat, %eax
	syscall
	mov $127, %edi
	mov $SYS_exit_group, %eax
	syscall
	ud2
	.size cl_clone_exec, . - cl_clone_exec

/*
 * long cl_clone_beside(void *stack, void (*watch)(int child))
 *
 * The child returns and has this stack from then on. The parent calls `watch` on the other.
 */
	.globl cl_clone_beside
	.hidden cl_clone_beside
	.type cl_clone_beside, @function
cl_clone_beside:
	mov %rdi, %r8
	mov %rsi, %r9
	mov $(CLONE_VM | SIGCHLD), %edi
	xor %esi, %esi
	xor %edx, %edx
	xor %r10d, %r10d
	mov $SYS_clone, %eax
	syscall
	test %rax, %rax
	jg 1f
	ret
1:
	mov %r8, %rsp
	xor %ebp, %ebp
	mov %eax, %edi
	call *%r9
	ud2
	.size cl_clone_beside, . - cl_clone_beside

	.section .rodata
.Lempty:
	.byte 0

#endif

	.section .note.GNU-stack, "", @progbits
