// The XSAVE state lives in a spinning loop: SSE, AVX, AVX-512 with mask registers, x87 with its stack, both control words.
#include "check.h"

// What the assembly names is not static.
volatile int go;
static uint8_t in[32][64], out[32][64];
static uint64_t masks_in[8], masks_out[8];
double x87_out[8];
uint32_t mxcsr_in = 0x1f80 | 0x6000 | 0x8000, mxcsr_out;  // round to zero, flush to zero
uint16_t control_in = 0x0c7f, control_out;                // round to zero, 24 bits

#define EACH8(m, a) m(a##0) m(a##1) m(a##2) m(a##3) m(a##4) m(a##5) m(a##6) m(a##7)
#define EACH16(m) m(0) m(1) m(2) m(3) m(4) m(5) m(6) m(7) m(8) m(9) m(10) m(11) m(12) m(13) m(14) m(15)
#define EACH32(m) EACH16(m) m(16) m(17) m(18) m(19) m(20) m(21) m(22) m(23) m(24) m(25) m(26) m(27) m(28) m(29) m(30) m(31)
#define SPIN "1: cmpl $0,go(%%rip)\n je 1b\n"
#define X87 "fninit\n fldcw control_in(%%rip)\n fld1\n fldpi\n fldl2e\n fldln2\n fldlg2\n ldmxcsr mxcsr_in(%%rip)\n"
#define X87_OUT \
  "fnstcw control_out(%%rip)\n stmxcsr mxcsr_out(%%rip)\n fstpl x87_out(%%rip)\n fstpl x87_out+8(%%rip)\n" \
  "fstpl x87_out+16(%%rip)\n fstpl x87_out+24(%%rip)\n fstpl x87_out+32(%%rip)\n fninit\n ldmxcsr default_mxcsr(%%rip)\n"
uint32_t default_mxcsr = 0x1f80;

static void *spin512(void *none) {
#define LOAD(n) "vmovdqu64 " #n "*64(%0),%%zmm" #n "\n"
#define STORE(n) "vmovdqu64 %%zmm" #n "," #n "*64(%1)\n"
#define LOADK(n) "kmovq " #n "*8(%2),%%k" #n "\n"
#define STOREK(n) "kmovq %%k" #n "," #n "*8(%3)\n"
  asm volatile(X87 EACH32(LOAD) EACH8(LOADK, ) SPIN EACH32(STORE) EACH8(STOREK, ) X87_OUT "vzeroall\n"
               :: "r"(in), "r"(out), "r"(masks_in), "r"(masks_out) : "memory", "cc");
  return none;
}

static void *spin256(void *none) {
#define LOADY(n) "vmovdqu " #n "*64(%0),%%ymm" #n "\n"
#define STOREY(n) "vmovdqu %%ymm" #n "," #n "*64(%1)\n"
  asm volatile(X87 EACH16(LOADY) SPIN EACH16(STOREY) X87_OUT "vzeroall\n" :: "r"(in), "r"(out) : "memory", "cc");
  return none;
}

static void *spin128(void *none) {
#define LOADX(n) "movdqu " #n "*64(%0),%%xmm" #n "\n"
#define STOREX(n) "movdqu %%xmm" #n "," #n "*64(%1)\n"
  asm volatile(X87 EACH16(LOADX) SPIN EACH16(STOREX) X87_OUT :: "r"(in), "r"(out) : "memory", "cc");
  return none;
}

int main(int argc, char **argv) {
  begin(argv);
  fill(in, sizeof in, 1), fill(masks_in, sizeof masks_in, 2);
  int wide = __builtin_cpu_supports("avx512bw"), avx = __builtin_cpu_supports("avx");
  int registers = wide ? 32 : 16, bytes = wide ? 64 : avx ? 32 : 16;
  pthread_t thread;
  CHECK(pthread_create(&thread, 0, wide ? spin512 : avx ? spin256 : spin128, 0) == 0, "no thread");
  cycle();
  go = 1;
  pthread_join(thread, 0);
  for (int i = 0; i < registers; i++) CHECK(!memcmp(in[i], out[i], bytes), "vector register %d, %d bytes", i, bytes);
  for (int i = 0; wide && i < 8; i++) CHECK(masks_in[i] == masks_out[i], "k%d is %#lx", i, masks_out[i]);
  CHECK((mxcsr_out & 0xffc0) == (mxcsr_in & 0xffc0), "mxcsr is %#x", mxcsr_out);
  CHECK(control_out == control_in, "the x87 control word is %#x", control_out);
  const double want[] = {0.30102999566398119, 0.69314718055994531, 1.4426950408889634, 3.1415926535897932, 1.0};
  for (int i = 0; i < 5; i++)
    CHECK(x87_out[i] > want[i] - 1e-6 && x87_out[i] < want[i] + 1e-6, "st(%d) is %.9f", i, x87_out[i]);
  return pass();
}
