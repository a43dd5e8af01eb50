// General registers and flags stay as they were in a loop that never enters the kernel.
#include "check.h"

// Named by the assembly, so not static.
volatile int go;
uint64_t seen[16], flags;

static void *spin(void *none) {
  // Every register holds its own pattern; the loop compares through memory alone. The direction flag is set as well.
  asm volatile(
      "push %%rbp\n mov $0x1111111111111101,%%rax\n mov $0x2222222222222202,%%rbx\n mov $0x3333333333333303,%%rcx\n"
      "mov $0x4444444444444404,%%rdx\n mov $0x5555555555555505,%%rsi\n mov $0x6666666666666606,%%rdi\n"
      "mov $0x7777777777777707,%%rbp\n mov $0x8888888888888808,%%r8\n mov $0x9999999999999909,%%r9\n"
      "mov $0xaaaaaaaaaaaaaa0a,%%r10\n mov $0xbbbbbbbbbbbbbb0b,%%r11\n mov $0xcccccccccccccc0c,%%r12\n"
      "mov $0xdddddddddddddd0d,%%r13\n mov $0xeeeeeeeeeeeeee0e,%%r14\n mov $0xffffffffffffff0f,%%r15\n std\n"
      "1: cmpl $0,go(%%rip)\n je 1b\n"
      "mov %%rax,seen(%%rip)\n mov %%rbx,seen+8(%%rip)\n mov %%rcx,seen+16(%%rip)\n mov %%rdx,seen+24(%%rip)\n"
      "mov %%rsi,seen+32(%%rip)\n mov %%rdi,seen+40(%%rip)\n mov %%rbp,seen+48(%%rip)\n mov %%r8,seen+56(%%rip)\n"
      "mov %%r9,seen+64(%%rip)\n mov %%r10,seen+72(%%rip)\n mov %%r11,seen+80(%%rip)\n mov %%r12,seen+88(%%rip)\n"
      "mov %%r13,seen+96(%%rip)\n mov %%r14,seen+104(%%rip)\n mov %%r15,seen+112(%%rip)\n"
      "pushf\n pop flags(%%rip)\n cld\n pop %%rbp\n"
      :: : "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "memory", "cc");
  return none;
}

int main(int argc, char **argv) {
  begin(argv);
  pthread_t thread;
  CHECK(pthread_create(&thread, 0, spin, 0) == 0, "no thread");
  cycle();
  go = 1;
  pthread_join(thread, 0);
  for (uint64_t i = 1; i <= 15; i++) {
    uint64_t want = i * 0x1111111111111111ull / 256 * 256 + i;
    CHECK(seen[i - 1] == want, "register %d of 15 (rax rbx rcx rdx rsi rdi rbp r8...): %#lx", (int)i, seen[i - 1]);
  }
  CHECK(flags & 1 << 10, "the direction flag is lost: %#lx", flags);
  return pass();
}
