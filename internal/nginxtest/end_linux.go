package nginxtest

import "syscall"

const terminate = syscall.SIGTERM

// dieWithParent asks the kernel to end nginx with the thread that started it,
// so that a test that panics leaves nothing behind. SIGTERM and not SIGKILL:
// the master must be able to take its workers along.
func dieWithParent() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: terminate}
}
