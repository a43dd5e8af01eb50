// What the kernel offers and Glibc's Swift module lacks: raw system calls, structures and constants
// that sit behind macros, and the executor's shared memory layout.
#pragma once

#include <stdint.h>
#include <stddef.h>
#include <asm/unistd.h>
#include <linux/bpf.h>
#include <linux/futex.h>
#include <linux/ptrace.h>
#include <linux/sched.h>
#include <elf.h>
#include <malloc.h>
#include <sys/auxv.h>
#include <sys/user.h>

// Behind _GNU_SOURCE in glibc, which Swift's Glibc module does not set for the headers that both include.
extern const char *strerrorname_np(int errnum);
extern const char *strerrordesc_np(int errnum);

/// A system call that bypasses libc: the kernel's own return value, -errno on failure, errno untouched.
static inline long cl_syscall(long nr, long a, long b, long c, long d, long e, long f)
{
#if defined(__x86_64__)
	long ret;
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	register long r9 __asm__("r9") = f;
	__asm__ volatile("syscall"
			 : "=a"(ret)
			 : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	return ret;
#else
#error "this architecture has no system call shim yet"
#endif
}

static inline uint32_t cl_load32(const volatile void *p)
{
	return __atomic_load_n((const volatile uint32_t *)p, __ATOMIC_ACQUIRE);
}

static inline void cl_store32(volatile void *p, uint32_t v)
{
	__atomic_store_n((volatile uint32_t *)p, v, __ATOMIC_RELEASE);
}

/* What was there before. */
static inline uint32_t cl_add32(volatile void *p, uint32_t v)
{
	return __atomic_fetch_add((volatile uint32_t *)p, v, __ATOMIC_SEQ_CST);
}

static inline void cl_or32(volatile void *p, uint32_t bits)
{
	__atomic_or_fetch((volatile uint32_t *)p, bits, __ATOMIC_SEQ_CST);
}

/// Exchanges *p from `from` to `to`; 1 if it was `from`.
static inline int cl_exchange32(volatile void *p, uint32_t from, uint32_t to)
{
	return __atomic_compare_exchange_n((volatile uint32_t *)p, &from, to, 0, __ATOMIC_SEQ_CST,
					   __ATOMIC_SEQ_CST);
}

/// `struct clone_args` of kernel headers new enough to have cgroup (include/uapi/linux/sched.h).
struct cl_clone_args {
	uint64_t flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls;
	uint64_t set_tid, set_tid_size, cgroup;
};

/// Makes a child that becomes the program in `executable` at once, with every signal blocked: clone3 with `args`, and an execveat of
/// the descriptor. Returns the child's PID when it has its own memory, or -errno. A child that cannot exec exits with 127.
long cl_spawn(const struct cl_clone_args *args, int executable);

/// Makes the heap of this thread so large that it need not grow before that is used up. The heap of a thread that is not the first grows by
/// what is asked for and no more, with an mprotect for nearly every page (glibc malloc/arena.c: grow_heap).
void cl_make_heap(size_t bytes);

/// Unmaps the pages of this program's code; what of it is needed again is mapped again from the page cache.
void cl_drop_code(void);

/// Leaves the rest of the program to a child that has all of this process's memory, and returns there: 0, or -errno here if there is
/// none. This process does nothing from then on but wait, pass `signals` on as SIGTERM, and end as the child ends: with its exit
/// code, or 128 and the signal. `signals` and SIGCHLD are blocked already.
long cl_leave_to_child(uint64_t signals);

/// The calling thread's robust list head (Documentation/locking/robust-futex-ABI.rst).
struct cl_robust_head {
	uint64_t next;
	int64_t futex_offset;
	uint64_t pending;
};

/// One system call of a program. `result` is what the kernel returned; with EXECUTOR_EXPECT it holds,
/// before the run, the only result that counts as success.
struct syscall_record {
	uint32_t number;
	uint32_t flags;
	uint64_t args[6];
	int64_t result;
};

/// The record's flags. The low six bits say which arguments are not values but the numbers of earlier
/// records of the same program, whose results are used.
enum {
	EXECUTOR_MAY_FAIL = 1 << 6,   // go on after an error
	EXECUTOR_CLONE = 1 << 7,      // a zero result means: this is the child, and it parks
	EXECUTOR_EXPECT = 1 << 8,     // anything but the preset result is a failure
};

enum {
	EXECUTOR_CLEANUP_RECORDS = 6,
	EXECUTOR_HOME_BYTES = 256,
	EXECUTOR_RECORDS_OFFSET = 768,
};

/// What an executor and the tracer share, one for each thread under control; the executor's stack
/// pointer is this structure's address.
struct executor_slot {
	uint64_t robust_next;   //  0  this slot's node in the tracer's robust list (a tracer address)
	uint32_t life;          //  8  tracer's TID: running; with FUTEX_WAITERS: parked; FUTEX_OWNER_DIED: go home
	uint32_t tracer;        // 12  the tracer's TID, as the tracer's PID namespace says it
	uint64_t done;          // 16  address in the task of the counter that the tracer waits on
	uint32_t count;         // 24  records in the program
	uint32_t finished;      // 28  records that succeeded when it parked
	uint64_t home;          // 32  where to go when the tracer is gone; 0: exit_group
	uint32_t cleanup_count; // 40
	uint32_t first;         // 44  the record to begin with: 0, or where a program goes on that had stopped
	struct syscall_record cleanup[EXECUTOR_CLEANUP_RECORDS]; // 48  run before going home
	uint8_t home_code[EXECUTOR_HOME_BYTES];                  // 432
	uint64_t robust_previous;                                // 688  a tracer address, for unlinking
	uint64_t home_signal_mask;                               // 696  the thread's own mask
	uint64_t heirs[2];                              // 704  slots that learn of the tracer's death from this one
};

_Static_assert(offsetof(struct executor_slot, life) == 8, "executor.S");
_Static_assert(offsetof(struct executor_slot, cleanup) == 48, "executor.S");
_Static_assert(sizeof(struct syscall_record) == 64, "executor.S");
_Static_assert(sizeof(struct executor_slot) <= EXECUTOR_RECORDS_OFFSET, "executor.S");

/// The executor's machine code: position-independent, entered at its first byte to run the program in
/// the slot that the stack pointer names.
extern const uint8_t executor_code[];
extern const uint8_t executor_code_end[];

static inline const uint8_t *cl_executor_code(void) { return executor_code; }
static inline size_t cl_executor_size(void) { return (size_t)(executor_code_end - executor_code); }

/// The machine code of a namespace's init (init.S): position-independent, entered at its first byte.
extern const uint8_t init_code[];
extern const uint8_t init_code_end[];

static inline const uint8_t *cl_init_code(void) { return init_code; }
static inline size_t cl_init_size(void) { return (size_t)(init_code_end - init_code); }

// Newer than Debian 12's headers.
#define CL_PAGEMAP_SCAN 0xc0606610u
struct cl_page_region { uint64_t start, end, categories; };
struct cl_pm_scan_arg {
	uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
	uint64_t category_inverted, category_mask, category_anyof_mask, return_mask;
};
enum {
	CL_PAGE_IS_WPALLOWED = 1 << 0, CL_PAGE_IS_WRITTEN = 1 << 1, CL_PAGE_IS_FILE = 1 << 2,
	CL_PAGE_IS_PRESENT = 1 << 3, CL_PAGE_IS_SWAPPED = 1 << 4, CL_PAGE_IS_PFNZERO = 1 << 5,
	CL_PAGE_IS_HUGE = 1 << 6, CL_PAGE_IS_SOFT_DIRTY = 1 << 7, CL_PAGE_IS_GUARD = 1 << 8,
};

#if defined(__x86_64__)
#include <cpuid.h>
/// Offset (ebx) and size (eax) of an XSAVE component in the standard format (CPUID leaf 0xd); 0 if there is none.
static inline uint64_t cl_xsave_component(uint32_t index)
{
	uint32_t a = 0, b = 0, c = 0, d = 0;
	if (!__get_cpuid_count(0xd, index, &a, &b, &c, &d))
		return 0;
	return ((uint64_t)b << 32) | a;
}
#endif

/* Waits, now and then and in the middle of whatever the caller does, for those of its tracees that have died. The numbers have to stay. */
void cl_take_dead(const int *tids, size_t count, int milliseconds);
