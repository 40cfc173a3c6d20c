// The filter is a program of classic BPF (Linux's Documentation/userspace-api/seccomp_filter.rst) that sees a system call's number and
// arguments: it refuses a list, refuses some by their flags, and lets the rest pass. Arguments in memory can't be seen, so calls that have
// their flags there (openat2, clone3) are "not built in", and the C library takes the older ones.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "eval/sandbox.h"

#if defined(__x86_64__)
#define NATIVE_AUDIT_ARCH AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define NATIVE_AUDIT_ARCH AUDIT_ARCH_AARCH64
#endif

#ifdef NATIVE_AUDIT_ARCH

// Refused with EPERM. What a newer kernel has is not in an older one's headers, but has the same number everywhere.
static const int refused[] = {
    // the network, and other ways to reach a process
    SYS_socket, SYS_socketpair, SYS_connect, SYS_bind, SYS_listen, SYS_accept, SYS_accept4, SYS_sendto, SYS_sendmsg, SYS_sendmmsg,
    SYS_shmget, SYS_shmat, SYS_shmctl, SYS_msgget, SYS_msgsnd, SYS_msgrcv, SYS_msgctl, SYS_semget, SYS_semop, SYS_semtimedop, SYS_semctl,
    SYS_mq_open, SYS_mq_unlink, SYS_memfd_create, 447 /* memfd_secret */,
    // processes
    SYS_kill, SYS_tkill, SYS_tgkill, SYS_rt_sigqueueinfo, SYS_rt_tgsigqueueinfo, 424 /* pidfd_send_signal */, 434 /* pidfd_open */,
    438 /* pidfd_getfd */, SYS_ptrace, SYS_process_vm_readv, SYS_process_vm_writev, SYS_kcmp, 440 /* process_madvise */, SYS_setpgid,
    SYS_setsid, SYS_setpriority, SYS_sched_setscheduler, SYS_sched_setparam, SYS_sched_setattr, SYS_sched_setaffinity, SYS_ioprio_set,
    SYS_setrlimit,
    // files: what changes one without opening it for writing
    SYS_truncate, SYS_ftruncate, SYS_fallocate, SYS_mkdirat, SYS_mknodat, SYS_unlinkat, SYS_renameat2, SYS_linkat, SYS_symlinkat,
    SYS_fchmod, SYS_fchmodat, 452 /* fchmodat2 */, SYS_fchown, SYS_fchownat, SYS_utimensat, SYS_setxattr, SYS_lsetxattr, SYS_fsetxattr,
    SYS_removexattr, SYS_lremovexattr, SYS_fremovexattr, 463 /* setxattrat */, 466 /* removexattrat */, SYS_open_by_handle_at,
    SYS_name_to_handle_at, SYS_flock, SYS_copy_file_range,
#ifdef SYS_renameat
    SYS_renameat,
#endif
#ifdef __x86_64__
    SYS_mkdir, SYS_mknod, SYS_unlink, SYS_rmdir, SYS_rename, SYS_link, SYS_symlink, SYS_creat, SYS_chmod, SYS_chown, SYS_lchown, SYS_utime,
    SYS_utimes, SYS_futimesat,
    // processes, and what only a superuser needs
    SYS_fork, SYS_vfork, SYS_iopl, SYS_ioperm, SYS_modify_ldt,
#endif
    // calls that do others' work past a filter
    425 /* io_uring_setup */, 426 /* io_uring_enter */, 427 /* io_uring_register */, SYS_bpf, SYS_perf_event_open, SYS_userfaultfd,
    // what only a superuser needs
    SYS_mount, SYS_umount2, SYS_pivot_root, SYS_chroot, SYS_setns, SYS_unshare, 428 /* open_tree */, 429 /* move_mount */, 430 /* fsopen */,
    442 /* mount_setattr */, SYS_add_key, SYS_request_key, SYS_keyctl, SYS_init_module, SYS_finit_module, SYS_delete_module, SYS_kexec_load,
    SYS_reboot, SYS_swapon, SYS_swapoff, SYS_sethostname, SYS_setdomainname, SYS_settimeofday, SYS_clock_settime, SYS_adjtimex, SYS_acct,
    SYS_quotactl, SYS_syslog, SYS_personality, SYS_capset};

// "Not built in": ENOSYS.
static const int absent[] = {435 /* clone3 */, 437 /* openat2 */};

enum {
  REFUSED = sizeof refused / sizeof *refused,
  ABSENT = sizeof absent / sizeof *absent,
  LENGTH_MOST = 2 * (REFUSED + ABSENT) + 40,
  WRITING = O_WRONLY | O_RDWR | O_CREAT | O_TRUNC | O_APPEND,
  X32_BIT = 0x40000000,  // the other calls of x86-64, of which the list knows nothing
};

#define LOAD(field) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, (uint32_t)offsetof(struct seccomp_data, field))
#define LOW_WORD(index) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, (uint32_t)(offsetof(struct seccomp_data, args) + 8 * (index)))  // little-endian
#define RETURN(value) BPF_STMT(BPF_RET | BPF_K, (value))
#define FAIL_WITH(error) RETURN(SECCOMP_RET_ERRNO | (error))

typedef struct Filter {
  struct sock_filter code[LENGTH_MOST];
  unsigned short length;
} Filter;

static void add(Filter *filter, struct sock_filter instruction) { filter->code[filter->length++] = instruction; }

static void add_list(Filter *filter, const int *calls, int count, int error) {
  for (int i = 0; i < count; i++) {
    add(filter, (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)calls[i], 0, 1));
    add(filter, (struct sock_filter)FAIL_WITH((uint32_t)error));
  }
}

// The call is refused when its argument `index` has a flag of `flags` (when_set), or when it has none of them.
static void add_flags(Filter *filter, int call, int index, uint32_t flags, bool when_set) {
  add(filter, (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)call, 0, 4));
  add(filter, (struct sock_filter)LOW_WORD(index));
  add(filter, (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, flags, when_set ? 0 : 1, when_set ? 1 : 0));
  add(filter, (struct sock_filter)FAIL_WITH(EPERM));
  add(filter, (struct sock_filter)LOAD(nr));
}

// Of ioctl terminals' requests pass, with which programs ask whether they write to one: others change files' attributes.
static void add_ioctl(Filter *filter) {
  enum { TYPE_MASK = 0xff00, TERMINAL = 'T' << 8 };
  add(filter, (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_ioctl, 0, 5));
  add(filter, (struct sock_filter)LOW_WORD(1));
  add(filter, (struct sock_filter)BPF_STMT(BPF_ALU | BPF_AND | BPF_K, TYPE_MASK));
  add(filter, (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, TERMINAL, 1, 0));
  add(filter, (struct sock_filter)FAIL_WITH(EPERM));
  add(filter, (struct sock_filter)LOAD(nr));
}

static void build(Filter *filter) {
  add(filter, (struct sock_filter)LOAD(arch));
  add(filter, (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, NATIVE_AUDIT_ARCH, 1, 0));
  add(filter, (struct sock_filter)RETURN(SECCOMP_RET_KILL_PROCESS));
  add(filter, (struct sock_filter)LOAD(nr));
#ifdef __x86_64__
  add(filter, (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, X32_BIT, 0, 1));
  add(filter, (struct sock_filter)RETURN(SECCOMP_RET_KILL_PROCESS));
  add_flags(filter, SYS_open, 1, WRITING, true);
#endif
  add_flags(filter, SYS_openat, 2, WRITING, true);
  add_flags(filter, SYS_clone, 0, CLONE_THREAD, false);
  add_flags(filter, SYS_prlimit64, 0, UINT32_MAX, true);  // of another process
  add_ioctl(filter);
  add_list(filter, refused, REFUSED, EPERM);
  add_list(filter, absent, ABSENT, ENOSYS);
  add(filter, (struct sock_filter)RETURN(SECCOMP_RET_ALLOW));
}

int sandbox_filter(void) {
  Filter filter = {.length = 0};
  build(&filter);
  struct sock_fprog program = {.len = filter.length, .filter = filter.code};
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return errno;
  return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program, 0, 0) == 0 ? 0 : errno;
}

#else

int sandbox_filter(void) { return ENOSYS; }

#endif
