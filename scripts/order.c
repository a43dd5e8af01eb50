// Runs a program step by step, and says which functions of its file it ran.
// usage: order OUTPUT PROGRAM ARGUMENTS
#define _GNU_SOURCE
#include <err.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

struct function {
  unsigned long address, size;
  char *name;
  int ran;
};
static struct function *functions;
static int count;

static void read_functions(const char *file) {
  char command[4096], name[8192], line[8192 + 64], type;
  snprintf(command, sizeof command, "nm -nS --defined-only '%s'", file);
  FILE *list = popen(command, "r");
  if (!list) err(2, "nm");
  struct function f = {0};
  while (fgets(line, sizeof line, list)) {
    if (sscanf(line, "%lx %lx %c %8191s", &f.address, &f.size, &type, name) != 4 || !strchr("tTwW", type)) continue;
    if (count % 1024 == 0) functions = realloc(functions, (count + 1024) * sizeof f);
    f.name = strdup(name);
    functions[count++] = f;
  }
  if (pclose(list) != 0 || count == 0) errx(2, "%s has no symbols", file);
}

// The last function that begins at an address or before it.
static int before(unsigned long address) {
  int low = 0, high = count;
  while (low < high) {
    int middle = (low + high) / 2;
    if (functions[middle].address <= address) low = middle + 1;
    else high = middle;
  }
  return low - 1;
}

static void note(unsigned long address) {
  int i = before(address);
  if (i < 0 || address - functions[i].address >= functions[i].size) return;
  // One function may have several names.
  for (int k = i; k >= 0 && functions[k].address == functions[i].address; k--) functions[k].ran = 1;
}

int main(int argc, char **argv) {
  if (argc < 3) errx(64, "usage: order OUTPUT PROGRAM ARGUMENTS");
  read_functions(argv[2]);
  FILE *output = fopen(argv[1], "w");
  if (!output) err(2, "%s", argv[1]);

  // On one processor: to wake another one for each step takes ten times as long.
  cpu_set_t one;
  CPU_ZERO(&one);
  CPU_SET(sched_getcpu(), &one);
  sched_setaffinity(0, sizeof one, &one);
  pid_t child = fork();
  if (child == 0) {
    ptrace(PTRACE_TRACEME, 0, 0, 0);
    execv(argv[2], argv + 2);
    err(2, "%s", argv[2]);
  }
  // Its children too, as long as they run the same file: the tool works in one.
  int status, result = 2;
  waitpid(child, &status, 0);
  ptrace(PTRACE_SETOPTIONS, child, 0, PTRACE_O_TRACECLONE | PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK | PTRACE_O_TRACEEXEC);
  for (pid_t task = child; task > 0; task = waitpid(-1, &status, __WALL)) {
    if (!WIFSTOPPED(status)) {
      if (task == child && WIFEXITED(status)) result = WEXITSTATUS(status);
      continue;
    }
    int signal = WSTOPSIG(status), event = status >> 16;
    if (event == PTRACE_EVENT_EXEC) {
      ptrace(PTRACE_DETACH, task, 0, 0);
      continue;
    }
    // A newborn begins with SIGSTOP.
    if (event || signal == SIGTRAP || signal == SIGSTOP) signal = 0;
    struct user_regs_struct registers;
    if (!event && !ptrace(PTRACE_GETREGS, task, 0, &registers)) note(registers.rip);
    ptrace(PTRACE_SINGLESTEP, task, 0, signal);
  }
  for (int i = 0; i < count; i++)
    if (functions[i].ran) fprintf(output, "%s\n", functions[i].name);
  if (fclose(output)) err(2, "%s", argv[1]);
  return result;
}
