// What the kernel knows of the address space: code, data, heap, stack, arguments, environment, auxv, the executable.
#include "proc.h"

struct look {
  char arguments[4096], environment[16384], auxv[1024], exe[600];
  size_t argument_bytes, environment_bytes, auxv_bytes;
  unsigned long fields[10];
};

static void take(struct look *look) {
  static char text[2048];
  look->argument_bytes = slurp("/proc/self/cmdline", look->arguments, sizeof look->arguments);
  look->environment_bytes = slurp("/proc/self/environ", look->environment, sizeof look->environment);
  look->auxv_bytes = slurp("/proc/self/auxv", look->auxv, sizeof look->auxv);
  MUST(readlink("/proc/self/exe", look->exe, sizeof look->exe - 1));
  slurp("/proc/self/stat", text, sizeof text);
  // Fields of proc(5), by number; the first two are gone with the name.
  const int numbers[] = {26, 27, 28, 45, 46, 47, 48, 49, 50, 51};
  char *at = strrchr(text, ')') + 2;
  for (int field = 3, i = 0; i < 10; field++) {
    if (field == numbers[i]) look->fields[i++] = strtoul(at, 0, 10);
    at = strchr(at, ' ') + 1;
  }
}

int main(int argc, char **argv) {
  begin(argv);
  static struct look before, after;
  argv[0][0] = '@';  // cmdline shows the memory, not what exec was given
  take(&before);
  cycle();
  take(&after);
  const char *names[] = {"start_code", "end_code", "start_stack", "start_data", "end_data", "start_brk", "arg_start", "arg_end", "env_start", "env_end"};
  for (int i = 0; i < 10; i++) CHECK(before.fields[i] == after.fields[i], "%s: %#lx is now %#lx", names[i], before.fields[i], after.fields[i]);
  CHECK(before.argument_bytes == after.argument_bytes && !memcmp(before.arguments, after.arguments, after.argument_bytes), "cmdline");
  CHECK(after.arguments[0] == '@', "cmdline is %s", after.arguments);
  CHECK(before.environment_bytes == after.environment_bytes && !memcmp(before.environment, after.environment, after.environment_bytes), "environ");
  CHECK(before.auxv_bytes == after.auxv_bytes && !memcmp(before.auxv, after.auxv, after.auxv_bytes), "auxv");
  CHECK(!strcmp(before.exe, after.exe), "%s is now %s", before.exe, after.exe);
  return pass();
}
