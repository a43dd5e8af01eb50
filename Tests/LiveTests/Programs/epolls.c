// epoll: data, edge-triggered, one-shot spent and unspent, nested, the same file under two numbers, shared with a child.
#include "check.h"
#include <sys/epoll.h>
#include <sys/eventfd.h>

static int events(int epoll, struct epoll_event *list) { return MUST(epoll_wait(epoll, list, 8, 0)); }
static void add(int epoll, int fd, uint32_t mask, uint64_t data) { MUST(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &(struct epoll_event){mask, {.u64 = data}})); }

int main(int argc, char **argv) {
  begin(argv);
  struct epoll_event list[8];
  uint64_t one = 1;
  int epoll = MUST(epoll_create1(EPOLL_CLOEXEC)), outer = MUST(epoll_create1(0)), twice = MUST(epoll_create1(0)), empty = MUST(epoll_create1(0));
  int level = MUST(eventfd(1, 0)), edge = MUST(eventfd(0, 0)), spent = MUST(eventfd(1, 0)), unspent = MUST(eventfd(0, 0)), quiet = MUST(eventfd(0, 0));
  add(epoll, spent, EPOLLIN | EPOLLONESHOT, 0xdead0003);
  CHECK(events(epoll, list) == 1 && events(epoll, list) == 0, "one-shot");
  add(epoll, level, EPOLLIN | EPOLLPRI, 0xfeed000000000001ull), add(epoll, edge, EPOLLIN | EPOLLET, 0xdead0002), add(epoll, unspent, EPOLLIN | EPOLLONESHOT, 0xdead0004);
  add(epoll, quiet, EPOLLIN | EPOLLRDHUP, 0xdead0005), add(outer, epoll, EPOLLIN, 0xaaaa);
  int other_number = MUST(dup2(level, 90));
  add(twice, level, EPOLLIN, 0xb1), add(twice, other_number, EPOLLIN, 0xb2);
  pid_t child = MUST(fork());
  if (child == 0) {
    child_cycle("child"), await("look");
    CHECK(events(twice, list) == 2, "the child's epoll shows another number of events");
    MUST(epoll_ctl(twice, EPOLL_CTL_DEL, 90, 0)), _exit(0);
  }
  await("child");
  cycle();
  CHECK(events(outer, list) == 1 && list[0].data.u64 == 0xaaaa, "nested");
  CHECK(events(epoll, list) == 1 && list[0].data.u64 == 0xfeed000000000001ull && list[0].events == EPOLLIN, "level-triggered: %d, %#lx", events(epoll, list), list[0].data.u64);
  MUST(read(level, &one, 8));
  CHECK(events(outer, list) == 0 && events(epoll, list) == 0, "something else is ready: %#lx", list[0].data.u64);
  MUST(write(edge, &one, 8));
  CHECK(events(epoll, list) == 1 && list[0].data.u64 == 0xdead0002 && events(epoll, list) == 0, "edge-triggered");
  MUST(write(unspent, &one, 8));
  CHECK(events(epoll, list) == 1 && list[0].data.u64 == 0xdead0004 && events(epoll, list) == 0, "one-shot, unspent");
  MUST(write(spent, &one, 8));
  CHECK(events(epoll, list) == 0, "a spent one-shot fires");
  MUST(epoll_ctl(epoll, EPOLL_CTL_MOD, spent, &(struct epoll_event){EPOLLIN, {.u64 = 6}}));
  CHECK(events(epoll, list) == 1 && list[0].data.u64 == 6, "a spent one-shot cannot be armed again");
  CHECK(events(empty, list) == 0 && fcntl(epoll, F_GETFD) == FD_CLOEXEC, "flags");
  MUST(write(level, &one, 8));
  CHECK(events(twice, list) == 2 && list[0].data.u64 + list[1].data.u64 == 0xb1 + 0xb2, "the same file under two numbers");
  here("look"), child_passed(child);
  CHECK(events(twice, list) == 1 && list[0].data.u64 == 0xb1, "it is not shared with the child");
  return pass();
}
